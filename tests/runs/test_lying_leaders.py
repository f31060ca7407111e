"""A leader that lies, one of three or alone: what it is refused, how it is found out, and whom it cannot harm."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest
from run_builders import Stage, lay_out, write_text

from muster.audit.report import AuditReport, FaultLog
from muster.audit.struck import tell_struck
from muster.lab import clock
from muster.lab.adversary.leaders import (
    TWICE,
    Backdates,
    Equivocator,
    EquivocatorAtOnce,
    FlipsAByte,
    KnowsNoKey,
    LeavesOut,
    SealsTwice,
)
from muster.lab.nano import counting_miner, nano_template
from muster.lab.simulator import SimulatedRun, Simulator
from muster.node.telemetry import events
from muster.protocol import paths, wire
from muster.protocol.identity import hotkey_of, public_of
from muster.protocol.rules.equivocation import parted
from muster.protocol.spec import Template
from muster.protocol.wire import Record, ScoreFile, decode_equivocation
from muster.testnet.roster import Roster
from muster.validator.aggregator.aggregator import Aggregator

BLOCK = 12.0
STUCK = 120 * BLOCK
ROUNDS, MINERS = 7, 2
TERM = 2
"""Rounds after which the next one leads: the liar leads rounds 0 and 1 and, if nothing is done, 6."""

CLOCK = {"min_blocks": 3, "deadline": 8, "reveal": 8, "grace": 3, "seal_age": 1, "evaluate": 2, "term": TERM, "turn": 4}


@dataclass(frozen=True)
class Scene:
    """A run of one kind of liar among so many leaders."""

    stage: Stage
    run: SimulatedRun

    @property
    def liar(self) -> str:
        """Its hotkey."""
        return self.stage.spec.genesis.leaders[0]

    @property
    def honest(self) -> list[str]:
        """Everybody else's processes."""
        return [name for name in self.run.participants if name != "aggregator-0"]

    def record(self, round_: int) -> Record:
        """The record of a round that everybody applied."""
        (digest,) = {self._applied(name, round_) for name in self.run.participants}
        return self._read(round_)[digest]

    def _applied(self, name: str, round_: int) -> bytes:
        """By the root after it, the record that one of them applied."""
        root = self.run.roots(name).get(round_)
        records = self._read(round_ + 1)
        (parent,) = {record.parent for record in records.values() if root is None or record.root.hex() == root}
        return parent

    def _read(self, round_: int) -> dict[bytes, Record]:
        return asyncio.run(self._list(round_))

    async def _list(self, round_: int) -> dict[bytes, Record]:
        run_id, found = self.stage.spec.run_id(), {}
        tensors = len(self.run.participants["miner-0"].tip.layout.shapes)
        for operator in self.stage.roster.operators:
            bucket = self.run.buckets.bucket(f"mem:{operator.name}")
            for info in await bucket.list(paths.records(run_id, round_)):
                record, digest = wire.decode_record(await bucket.get(info.key, max_bytes=2**24), run_id, tensors)
                found[digest] = record
        return found

    def files(self, round_: int) -> list[ScoreFile]:
        """What the validators say of a round's record."""
        return asyncio.run(self._files(round_))

    async def _files(self, round_: int) -> list[ScoreFile]:
        run_id, found = self.stage.spec.run_id(), []
        for operator in self.stage.roster.operators:
            bucket = self.run.buckets.bucket(f"mem:{operator.name}")
            for info in await bucket.list(paths.score_files(run_id, round_)):
                data = await bucket.get(info.key, max_bytes=2**24)
                found.append(wire.decode_scores(data, run_id, operator.identity.hotkey, round_)[0])
        return found


def simulator(stage: Stage, leader: type[Aggregator]) -> Simulator:
    return Simulator(
        stage.roster, stage.spec, stage.text, makers=lambda _: counting_miner, block_seconds=BLOCK, leader=leader
    )


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_text(tmp_path_factory.mktemp("text") / "text")


def staged(folder: Path, texts: list[Path], leaders: int) -> Stage:
    document = nano_template().model_dump()
    document["clock"] |= CLOCK
    document["gauntlet"] |= {"lag": 1, "score_wait": 4}
    return lay_out(folder / "run", texts, Template.model_validate(document), Roster.of(0, MINERS, leaders, {}))


@pytest.fixture(scope="module")
def of_three(tmp_path_factory: pytest.TempPathFactory, texts: list[Path]) -> Stage:
    return staged(tmp_path_factory.mktemp("three"), texts, 3)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, texts: list[Path]) -> Stage:
    return staged(tmp_path_factory.mktemp("one"), texts, 1)


@pytest.fixture(scope="module")
def without(of_three: Stage) -> SimulatedRun:
    """The run as it is when nobody lies."""
    return clock.run(simulator(of_three, Aggregator).run(ROUNDS), STUCK)


def play(stage: Stage, leader: type[Aggregator]) -> Scene:
    return Scene(stage, clock.run(simulator(stage, leader).run(ROUNDS), STUCK))


def accepted(run: SimulatedRun) -> dict[int, int]:
    """How many were accepted in each round; everybody says the same of it."""
    (found,) = {
        tuple((event.round, len(event.accepted)) for event in run.events(name, events.Applied))
        for name in run.participants
    }
    return dict(found)


ALL = dict.fromkeys(range(ROUNDS), MINERS) | {ROUNDS: 0}


def nobodys_pay_is_touched(scene: Scene) -> None:
    """Of no peer a validator says that it failed; and whose work was not applied was not measured either."""
    for round_ in range(ROUNDS):
        files = scene.files(round_)
        for row in (row for file in files for row in file.rows):
            assert row.outcome in ("evaluated", "not_evaluated")
            assert (row.failures, row.inactive) == (0, 0)


def told(scene: Scene) -> list[str]:
    """What the audit says of the liar, by the records of the run."""
    report = AuditReport(scene.stage.spec.run_id().hex(), 0)
    for round_ in range(ROUNDS):
        tell_struck(scene.record(round_), FaultLog(report, lambda _: None))
    assert {(note.round, note.hotkey) for note in report.notes} == {(TWICE, scene.liar)}
    return [note.said for note in report.notes]


def proven(scene: Scene, what: str) -> None:
    """An honest aggregator catches it; a record that one of those makes within two rounds carries the proof; it leads
    no round any more; and the audit says so."""
    caught = [one for name in ("aggregator-1", "aggregator-2") for one in scene.run.events(name, events.SignedTwice)]
    assert caught
    assert {(one.round, one.leader, one.what) for one in caught} == {(TWICE, scene.liar, what)}
    (carrier,) = (round_ for round_ in range(ROUNDS) if scene.record(round_).proofs)
    assert TWICE < carrier <= TWICE + 2
    (data,) = parted(scene.record(carrier).proofs)[0]
    shown, _ = decode_equivocation(data, scene.stage.spec.run_id())
    assert (hotkey_of(shown.once.signer), shown.once.round) == (scene.liar, TWICE)
    for name, participant in scene.run.participants.items():
        struck = [(one.round, one.leader) for one in scene.run.events(name, events.Struck)]
        assert struck == [(carrier, scene.liar)]
        assert scene.run.events(name, events.Silenced) == [], "that is said in one word"
        assert participant.tip.struck == {public_of(scene.liar)}
    leaders = {hotkey_of(scene.record(round_).leader) for round_ in range(TWICE + 1, ROUNDS)}
    assert leaders == set(scene.stage.spec.genesis.leaders[1:])
    assert any(f"two {what} in turn 0: the proof is in the record of round {carrier}" in said for said in told(scene))


def test_when_nobody_lies_each_leads_its_term(without: SimulatedRun, of_three: Stage) -> None:
    assert accepted(without) == ALL
    for name in without.participants:
        for kind in (events.SignedTwice, events.Struck, events.Refused, events.SealRefused):
            assert without.events(name, kind) == []
    scene = Scene(of_three, without)
    leaders = [hotkey_of(scene.record(round_).leader) for round_ in range(ROUNDS)]
    assert leaders == [of_three.spec.genesis.leaders[round_ // TERM % 3] for round_ in range(ROUNDS)]


class TestTwoSeals:
    """It seals again when it has seen the keys, and takes the first seal away."""

    def test_of_three(self, of_three: Stage, without: SimulatedRun) -> None:
        """Nobody applies its record; the next goes on with the seal that the keys answer, and nothing is lost."""
        scene = play(of_three, SealsTwice)
        for name in scene.run.participants:
            (refused,) = scene.run.events(name, events.Refused)
            assert "its key answers another seal than the record names" in refused.problem
        assert accepted(scene.run) == ALL
        assert scene.run.state_roots == without.state_roots
        record = scene.record(TWICE)
        assert (record.leader, record.turn) == (public_of(scene.stage.spec.genesis.leaders[1]), 1)
        nobodys_pay_is_touched(scene)
        proven(scene, "seals")

    def test_alone(self, alone: Stage) -> None:
        """Nobody applies its record; the run waits for ever."""
        made = simulator(alone, SealsTwice)
        with pytest.raises(clock.Stuck):
            clock.run(made.run(ROUNDS), STUCK)
        assert {one.tip.round for one in made.participants.values()} == {TWICE}
        assert not any(one.tip.struck for one in made.participants.values())


class TestAFlippedByte:
    """It records other bytes than those that were sealed."""

    def test_of_three(self, of_three: Stage, without: SimulatedRun) -> None:
        scene = play(of_three, FlipsAByte)
        for name in scene.run.participants:
            assert [event.round for event in scene.run.events(name, events.Refused)] == [TWICE]
        assert accepted(scene.run) == ALL
        assert scene.run.state_roots == without.state_roots
        assert hotkey_of(scene.record(TWICE).leader) != scene.liar, "its turn is lost"
        nobodys_pay_is_touched(scene)

    def test_alone(self, alone: Stage) -> None:
        made = simulator(alone, FlipsAByte)
        with pytest.raises(clock.Stuck):
            clock.run(made.run(ROUNDS), STUCK)
        assert {one.tip.round for one in made.participants.values()} == {TWICE}


@pytest.mark.parametrize("leaders", ["of_three", "alone"])
def test_a_late_seal_that_names_an_early_block(leaders: str, request: pytest.FixtureRequest) -> None:
    """No miner answers it, and each says so: the round is null, and costs nobody but the run."""
    scene = play(request.getfixturevalue(leaders), Backdates)
    for name in ("miner-0", "miner-1"):
        (refused,) = scene.run.events(name, events.SealRefused)
        assert refused.round == TWICE
        assert "which is too old" in refused.problem
    assert accepted(scene.run) == ALL | {TWICE: 0}
    assert scene.run.state_roots[TWICE] == scene.run.state_roots[TWICE - 1] or scene.record(TWICE).accepted == ()
    nobodys_pay_is_touched(scene)


class TestTwoRecords:
    """It anchors two, valid both of them."""

    @pytest.mark.parametrize("deed", [Equivocator, EquivocatorAtOnce])
    def test_of_three(self, of_three: Stage, deed: type[Aggregator]) -> None:
        """All stand on one of them, whichever that is; the other costs nobody anything."""
        scene = play(of_three, deed)
        assert scene.run.state_roots
        counts = accepted(scene.run)
        assert counts.pop(TWICE) in (MINERS - 1, MINERS)
        assert counts == {round_: count for round_, count in ALL.items() if round_ != TWICE}
        nobodys_pay_is_touched(scene)
        proven(scene, "records")

    @pytest.mark.parametrize(("deed", "count"), [(Equivocator, MINERS), (EquivocatorAtOnce, MINERS - 1)])
    def test_alone(self, alone: Stage, deed: type[Aggregator], count: int) -> None:
        """Everybody stands on that of the first block, of one block on the newest. There is nobody else to lead, so it
        stays on the list."""
        scene = play(alone, deed)
        assert accepted(scene.run) == ALL | {TWICE: count}
        assert not any(one.tip.struck for one in scene.run.participants.values())
        nobodys_pay_is_touched(scene)


@pytest.mark.parametrize("deed", [LeavesOut, KnowsNoKey])
@pytest.mark.parametrize("leaders", ["of_three", "alone"])
def test_work_that_a_leader_says_it_has_not_seen(
    leaders: str, deed: type[Aggregator], request: pytest.FixtureRequest
) -> None:
    """It is not applied in that round, and is not measured, which costs no pay; in the next it is back. Its maker says
    who passed it over; nobody else has anything to say."""
    scene = play(request.getfixturevalue(leaders), deed)
    assert accepted(scene.run) == ALL | {TWICE: MINERS - 1}
    nobodys_pay_is_touched(scene)
    for file in scene.files(TWICE):
        assert sorted(row.outcome for row in file.rows) == ["evaluated", "not_evaluated"]
    said = [scene.run.events(f"miner-{i}", events.PassedOver) for i in range(MINERS)]
    assert [(one.round, one.leader) for each in said for one in each] == [(TWICE, scene.liar)]
