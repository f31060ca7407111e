"""A miner whose payload always comes a round late: its work is taken in, and everybody stands on the same θ."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from late_runs import ComesLate
from run_builders import Ledger, MakeStage, Stage

from muster.audit import Auditor
from muster.history.explain import explain
from muster.history.explain.gather import find_case
from muster.history.explain.page import page as explained
from muster.history.story import page, tell
from muster.history.story.gather import read_round
from muster.lab.simulator import SimulatedRun, Simulator
from muster.node.directory import Directory
from muster.node.telemetry import events
from muster.protocol.identity import hotkey_of
from muster.protocol.incentive.row import FAILED, NOT_EVALUATED
from muster.protocol.reasons import LATE

ROUNDS = 7
SINCE = 2
"""Until then it is in time, and shows its work."""

LATECOMER, NEWCOMER = "miner-3", "miner-4"
AGES = (0.5, 0.25)
MIN_BLOCKS = 3
"""Time for its head to be in the seal, though nobody expects it."""

JOINS = 5
"""The round that the newcomer joins in, from the checkpoint before the round before."""


@dataclass(frozen=True)
class Case:
    """A finished run."""

    stage: Stage
    run: SimulatedRun
    script: ComesLate

    @property
    def ledger(self) -> Ledger:
        """What is in its leader's bucket."""
        return Ledger(self.run)

    def late(self, round_: int) -> list[tuple[int, str]]:
        """Whose work of which rounds a record took in late."""
        return [(e.round, self.stage.name_of(hotkey_of(e.public))) for e in self.ledger.record(round_).late]


def played(stage: MakeStage, since: int, ages: tuple[float, ...] = AGES) -> Case:
    made = stage(miners=5, outer={"age_weights": ages}, clock={"min_blocks": MIN_BLOCKS})
    script = ComesLate(LATECOMER, since)
    simulator = Simulator(made.roster, made.spec, made.text, script=script, arrivals={NEWCOMER: JOINS})
    script.open_round = lambda: simulator.participants[LATECOMER].tip.round
    return Case(made, asyncio.run(simulator.run(ROUNDS)), script)


@pytest.fixture(scope="module")
def case(stage: MakeStage) -> Case:
    """Late from round `SINCE` on."""
    return played(stage, SINCE)


def test_it_is_taken_in_by_the_next_record_once_and_all_roots_are_the_same(case: Case) -> None:
    assert not case.script.unfired()
    assert len(case.run.state_roots) == ROUNDS
    for round_ in range(ROUNDS):
        reason = case.ledger.reasons(case.stage.roster, round_)[LATECOMER]
        assert reason == (LATE if round_ >= SINCE else "")
        assert case.late(round_) == ([(round_ - 1, LATECOMER)] if round_ > SINCE else [])
        record = case.ledger.record(round_)
        assert all((row <= AGES[0]).all() for row in record.weights[len(record.seated) :])
    assert not [event for name in case.run.journals for event in case.run.events(name, events.Refused)]


def test_nobody_waits_for_it_and_it_takes_nobodys_seat(case: Case) -> None:
    late = case.stage.member(LATECOMER).hotkey
    for round_ in range(SINCE + 1, ROUNDS):
        record = case.ledger.record(round_)
        assert late not in {hotkey_of(public) for public in case.ledger.opening(round_).expected}
        assert len(record.seated) >= 3
        assert case.ledger.seal(round_).block.number < case.ledger.opening(round_).deadline


def test_who_joins_from_a_checkpoint_knows_what_is_open(case: Case) -> None:
    """`state_roots` compares its roots with everybody's: without the late work of the round before it would refuse."""
    roots = case.run.roots(NEWCOMER)
    assert min(roots) == JOINS - 1
    assert case.late(min(roots)), "the first record that it applies takes in what was late before its checkpoint"
    assert all(roots[round_] == case.run.state_roots[round_] for round_ in roots)


def test_it_is_not_measured_and_not_paid(case: Case) -> None:
    hotkey = case.stage.member(LATECOMER).hotkey
    for round_ in range(SINCE, ROUNDS):
        (row,) = [row for row in case.ledger.scores(round_).rows if row.hotkey == hotkey]
        assert row.outcome in (FAILED, NOT_EVALUATED)
        assert not (row.accepted or row.measured or row.incentive)
        others = [row for row in case.ledger.scores(round_).rows if row.hotkey != hotkey and row.accepted]
        assert all(row.reason == "" for row in others), "nobody is held for a copier of it, or a clone"


@pytest.mark.parametrize("first", [None, 4])
def test_the_audit_replays_it(case: Case, first: int | None) -> None:
    said: list[str] = []
    auditor = Auditor(case.stage.run, case.run.chain, case.run.buckets, said.append)
    report = asyncio.run(auditor.audit(first))
    report.raise_fault()
    assert report.notes == []
    assert report.state_roots == case.run.state_roots[report.first_round :]
    assert report.late == sum(bool(case.late(round_)) for round_ in range(report.first_round, ROUNDS))
    assert f"({report.late} of them late)" in report.summary()
    assert any(", 1 of them late" in line for line in said)


def test_the_journals_tell_it(case: Case) -> None:
    hotkey = case.stage.member(LATECOMER).hotkey
    for name in case.run.participants:
        for event in case.run.events(name, events.Applied):
            taken = SINCE < event.round < ROUNDS
            assert event.late == ((hotkey,) if taken else ())
            assert hotkey not in event.accepted or event.round < SINCE
    sent = [event.round for event in case.run.events(LATECOMER, events.SentLate)]
    assert sent == list(range(SINCE, ROUNDS))


def test_story_and_explain_tell_it(case: Case) -> None:
    run, history = case.run, case.stage.run.history
    directory, round_ = Directory(run.chain, run.buckets), SINCE + 1
    story = tell(asyncio.run(read_round(history, run.chain, directory, round_)), [])
    assert "3 of 4 submissions accepted, and 1 of earlier rounds" in story.state
    (row,) = [one for one in story.submissions if one.late is not None]
    assert (row.late, row.reason, row.place, row.weight) == (SINCE, "", None, (AGES[0], AGES[0]))
    assert f"round {SINCE}, late" in page(story, 120)
    hotkey = case.stage.member(LATECOMER).hotkey
    facts = asyncio.run(find_case(history, run.chain, directory, hotkey, round_, None))
    taken = f"It came late; the record of round {round_ + 1} took it in. Late work is not measured, and not paid."
    told = explain(facts)
    assert taken in told.sent
    assert taken.split(";", maxsplit=1)[0] in explained(told, 200)
    assert told.sections[0].table[-1].to_json_object()["taken"] == round_ + 1


@pytest.mark.slow
def test_who_never_showed_its_work_in_time_is_not_taken_in_once_there_are_scores(stage: MakeStage) -> None:
    case = played(stage, since=0)
    assert [case.late(round_) for round_ in range(2, ROUNDS)] == [[]] * (ROUNDS - 2)


@pytest.mark.slow
def test_a_run_that_takes_none_is_as_it_was(stage: MakeStage) -> None:
    case = played(stage, SINCE, ages=())
    assert [case.late(round_) for round_ in range(ROUNDS)] == [[]] * ROUNDS
    assert {case.ledger.reasons(case.stage.roster, round_)[LATECOMER] for round_ in range(SINCE, ROUNDS)} == {
        "unavailable"
    }
    assert not case.run.events(LATECOMER, events.SentLate)


@pytest.mark.slow
def test_whoever_leads_next_takes_in_what_was_late_for_another(stage: MakeStage) -> None:
    """Turns pass on every round: each leader knows from the tip alone what is open, and fetches it itself."""
    clock = {"term": 1, "turn": 8, "touch": 200, "min_blocks": MIN_BLOCKS}
    made = stage(miners=4, validators=3, outer={"age_weights": AGES}, clock=clock)
    script = ComesLate(LATECOMER, SINCE)
    simulator = Simulator(made.roster, made.spec, made.text, script=script)
    script.open_round = lambda: simulator.participants[LATECOMER].tip.round
    case = Case(made, asyncio.run(simulator.run(ROUNDS)), script)
    assert len(case.run.state_roots) == ROUNDS
    told = [event.late for event in case.run.events("aggregator-1", events.Applied)]
    hotkey = made.member(LATECOMER).hotkey
    assert told == [()] * (SINCE + 1) + [(hotkey,)] * (ROUNDS - SINCE - 1) + [()]
    leaders = {
        event.round % 3: name for name in case.run.participants for event in case.run.events(name, events.Recorded)
    }
    assert len(set(leaders.values())) == 3
    report = asyncio.run(Auditor(made.run, case.run.chain, case.run.buckets, lambda _line: None).audit(None))
    report.raise_fault()
    assert report.late == ROUNDS - SINCE - 1
