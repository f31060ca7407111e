"""One of three validators lies about a peer: the others find it, say so, and what it says does not count any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from lying import Liar, less
from run_builders import Ledger, MakeStage, Stage, play

from muster.audit import Auditor, Sampling
from muster.lab.simulator import SimulatedRun
from muster.node.telemetry import events
from muster.protocol import paths
from muster.protocol.identity import hotkey_of, public_of
from muster.protocol.incentive.row import ScoreRow
from muster.protocol.rules.selection import choose, standings
from muster.protocol.wire import ScoreFile, decode_dispute

ROUNDS, BEGINS = 10, 2
"""From round BEGINS on it lies."""

LIAR, VICTIM = "operator-2", "miner-1"
LATE, ARRIVES = "miner-4", 9
RULE: dict[str, Any] = {"seats": 3, "mu_warmup": 0, "mu_floor": 0.01, "mu_full": 0.02, "clone_ratio": 0,
                        "copy_ratio": 0, "mixer_ratio": 0, "eval_windows": 16}  # fmt: skip
"""More candidates than seats, and pay from the first round on, so that scores decide who has one."""


@pytest.fixture(scope="module")
def made(stage: MakeStage) -> Stage:
    return stage(miners=5, validators=3, gauntlet=RULE, clock={"checkpoint_every": 1})


@pytest.fixture(scope="module")
def lied(made: Stage) -> SimulatedRun:
    """Of one peer it says half the round's median s_r less than it measured; a late miner begins at a checkpoint."""
    victim = made.member(VICTIM).hotkey

    def lie(file: ScoreFile) -> tuple[ScoreRow, ...]:
        gains = sorted(
            row.unassigned_before - row.unassigned_after
            for row in file.rows
            if row.unassigned_before is not None and row.unassigned_after is not None
        )
        if file.round < BEGINS or not gains:
            return file.rows
        half = abs(gains[(len(gains) - 1) // 2]) / 2
        return tuple(less(row, half) if row.hotkey == victim else row for row in file.rows)

    with pytest.MonkeyPatch.context() as patch:
        Liar(made.member(LIAR).hotkey, made.spec, lie).install(patch)
        return play(made, ROUNDS, arrivals={LATE: ARRIVES})


def place_of(run: SimulatedRun, name: str, wanted: Callable[[events.Event], bool]) -> int:
    """Where in a journal the first such event stands."""
    return next(i for i, noted in enumerate(run.journals[name]) if wanted(noted.event))


@pytest.mark.parametrize("name", ["validator-0", "validator-1"])
def test_it_is_named_within_two_rounds(made: Stage, lied: SimulatedRun, name: str) -> None:
    disputed = lied.events(name, events.Disputed)
    assert {event.validator for event in disputed} == {made.member(LIAR).hotkey}
    assert {event.peer for event in disputed} == {made.member(VICTIM).hotkey}
    named = place_of(lied, name, lambda event: isinstance(event, events.Disputed))
    later = place_of(lied, name, lambda event: isinstance(event, events.Applied) and event.round == BEGINS + 2)
    assert named < later
    assert "measured again" in disputed[0].problem


def test_the_liar_finds_nothing_to_dispute(lied: SimulatedRun) -> None:
    assert lied.events("validator-2", events.Disputed) == []


def test_from_the_record_with_the_disputes_on_its_scores_are_not_used(made: Stage, lied: SimulatedRun) -> None:
    ledger, liar = Ledger(lied), public_of(made.member(LIAR).hotkey)
    records = [ledger.record(round_) for round_ in range(ROUNDS)]
    (carrier,) = (record for record in records if record.proofs)
    disputes = [decode_dispute(data, lied.spec.run_id())[0] for data in carrier.proofs]
    assert {hotkey_of(one.signer) for one in disputes} == {made.member(f"operator-{i}").hotkey for i in (0, 1)}
    assert {(one.validator, one.peer) for one in disputes} == {(liar, public_of(made.member(VICTIM).hotkey))}
    assert carrier.round <= BEGINS + 3
    for record in records[1:]:
        assert (liar in {used.validator for used in record.scores}) == (record.round <= carrier.round)
    for name in set(lied.participants) - {LATE}:
        assert [(e.round, e.validator) for e in lied.events(name, events.Silenced)] == [
            (carrier.round, made.member(LIAR).hotkey)
        ]


def test_the_selection_is_that_of_the_honest_two(made: Stage, lied: SimulatedRun) -> None:
    """While it still counts, the median leaves the victim what one of the honest says; then only they are asked."""
    ledger, liar, victim = Ledger(lied), public_of(made.member(LIAR).hotkey), public_of(made.member(VICTIM).hotkey)
    contested = 0
    for round_ in range(BEGINS + 1, ROUNDS):
        record = ledger.record(round_)
        honest = [used for used in record.scores if used.validator != liar]
        assert len(honest) == 2
        said = [row.score for used in honest for row in used.rows if row.public == victim]
        assert min(said) <= standings(record.scores)[victim].score <= max(said)
        if len(record.scores) > len(honest):
            continue
        known = {entry.public: entry.reason for entry in record.entries}
        choice = choose(known, honest, (), ledger.opening(round_).possess.value, lied.spec)
        assert choice.accepted == tuple(entry.public for entry in record.accepted)
        contested += len(known) > len(choice.accepted) and any(row.score > 0 for used in honest for row in used.rows)
    assert contested >= 2, "there are more candidates than seats, and scores that decide"


def test_the_audit_tells_the_disputes_and_measures_the_lie_itself(made: Stage, lied: SimulatedRun) -> None:
    report = asyncio.run(Auditor(made.run, lied.chain, lied.buckets, lambda _: None).audit(None, Sampling(1000)))
    liar, victim = made.member(LIAR).hotkey, made.member(VICTIM).hotkey
    assert {fault.hotkey for fault in report.faults} == {liar}
    assert all(fault.problem.startswith(f"{victim}: `unassigned_before - ") for fault in report.faults)
    assert {fault.round for fault in report.faults} <= set(range(BEGINS, ROUNDS))
    said = [note.said for note in report.notes if note.hotkey == made.member("operator-0").hotkey]
    assert any(f"disputes the file of {liar}" in one for one in said)
    assert any(note.said.startswith(f"its record silences the validator {liar}") for note in report.notes)


def test_who_joins_at_a_checkpoint_does_not_count_it_either(made: Stage, lied: SimulatedRun) -> None:
    (carrier,) = (round_ for round_ in range(ROUNDS) if Ledger(lied).record(round_).proofs)
    assert min(lied.roots(LATE)) > carrier, "it has not seen the record that silences"
    assert lied.participants[LATE].tip.silenced == {public_of(made.member(LIAR).hotkey)}
    assert lied.events(LATE, events.Silenced) == []
    assert lied.state_roots


def test_a_dispute_that_nobody_shares_silences_nobody(stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two validators each has all of the others' stake."""
    made = stage(miners=3, validators=2, gauntlet=RULE | {"seats": 2})
    liar, victim = made.member("operator-1").hotkey, made.member(VICTIM).hotkey
    Liar(
        liar, made.spec, lambda file: tuple(less(row, 0.05) if row.hotkey == victim else row for row in file.rows)
    ).install(monkeypatch)
    run = play(made, 4)
    (first, *_) = run.events("validator-0", events.Disputed)
    assert first.validator == liar
    data = asyncio.run(run.buckets.bucket("mem:operator-0").list(paths.disputes(run.spec.run_id(), first.round)))
    assert len(data) == 1
    assert all(not Ledger(run).record(round_).proofs for round_ in range(4))
