"""The audit computes what validators publish again: no honest file has a fault, and every column that lies is named."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from folder_runs import write_run
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lying import Liar, less
from run_builders import Ledger, MakeStage, Stage, lay_out, play
from score_rows import values_of

from muster.audit import Auditor, AuditReport, Fault, FaultClass, Sampling
from muster.audit.sheets import FOLLOWING, Sheet, by_the_record, follows
from muster.cli.audit import audit
from muster.lab import clock
from muster.lab.adversary.leaders import EquivocatorAtOnce
from muster.lab.faults import Fault as Trouble
from muster.lab.faults import Script
from muster.lab.nano import counting_miner, nano_template
from muster.lab.simulator import SimulatedRun, Simulator
from muster.node.ledger.reader import EVALUATE
from muster.node.telemetry.events import Undone
from muster.protocol import paths
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.columns import columns_of
from muster.protocol.identity import hotkey_of
from muster.protocol.incentive.own_data import Control, Errors
from muster.protocol.incentive.row import ScoreRow
from muster.protocol.incentive.score import PeerState
from muster.protocol.incentive.sheet import state_of
from muster.protocol.spec import Template
from muster.protocol.wire import ScoreFile, decode_scores, encode_scores
from muster.testnet.roster import Roster
from muster.validator.gauntlet.again import LEAST, disagreement
from muster.validator.gauntlet.evaluation import LossPair, Measured, own_beacon

ROUNDS, LAG = 6, 2
BLOCK = 12.0
COLUMNS = {column.name: column for column in columns_of(ScoreRow)}
SAID = (*FOLLOWING, "uid", "windows", "accepted", "drawn")
"""What a row may not say otherwise, whatever was measured."""

MEASURED = (
    "assigned_before", "assigned_after", "unassigned_before", "unassigned_after", "control_assigned",
    "control_unassigned", "assigned_spread", "unassigned_spread", "assigned_error", "unassigned_error",
)  # fmt: skip


Honest = Callable[[str, int], tuple[Sheet, dict[str, PeerState]]]


@dataclass(frozen=True, slots=True)
class Scene:
    """A finished run of two validators."""

    stage: Stage
    run: SimulatedRun

    def audit(self, sampling: Sampling | None = None, chain: VirtualChain | None = None) -> AuditReport:
        auditor = Auditor(self.stage.run, chain or self.run.chain, self.run.buckets, lambda _line: None)
        return asyncio.run(auditor.audit(None, sampling))

    def key(self, round_: int) -> str:
        """The name of a round's score files."""
        return Ledger(self.run).key("scores", round_)

    def file(self, name: str, round_: int) -> ScoreFile:
        """What an operator's validator said of a round."""
        data = asyncio.run(self.run.buckets.bucket(f"mem:{name}").get(self.key(round_), max_bytes=2**20))
        return decode_scores(data, self.run.spec.run_id(), self.stage.member(name).hotkey, round_)[0]

    def sheet(self, name: str, round_: int) -> Sheet:
        ledger, file = Ledger(self.run), self.file(name, round_)
        at = ledger.seal(round_).block.number + self.run.spec.clock.evaluate
        beacon = own_beacon(asyncio.run(self.run.chain.beacon(EVALUATE, round_, at)), file.public)
        applied = frozenset(hotkey_of(entry.public) for entry in ledger.record(round_ - 1).accepted)
        slots = {row.hotkey: frozenset({row.uid}) for row in file.rows}
        before = {row.hotkey: state_of(row) for row in self.file(name, round_ - 1).rows}
        return Sheet(file, ledger.record(round_), beacon, self.run.spec, applied, slots, before)

    def changed(self, round_: int, change: Callable[[ScoreFile], ScoreFile | None]) -> AuditReport:
        """The audit, with another file of the second validator."""
        bucket, member = self.run.buckets.bucket("mem:operator-1"), self.stage.member("operator-1")
        key, file = self.key(round_), self.file("operator-1", round_)
        other = change(file)

        async def put(said: ScoreFile | None) -> None:
            await (bucket.delete(key) if said is None else bucket.put(key, encode_scores(said, member.identity)))

        asyncio.run(put(other))
        try:
            return self.audit()
        finally:
            asyncio.run(put(file))


@pytest.fixture(scope="module")
def honest(scene: Scene) -> Honest:
    """A validator's sheet of a round, in which nothing is wrong, and the standings before it; read once."""

    @cache
    def read(name: str, round_: int) -> tuple[Sheet, dict[str, PeerState]]:
        sheet = scene.sheet(name, round_)
        before = {row.hotkey: state_of(row) for row in scene.file(name, round_ - 1).rows}
        assert by_the_record(sheet) == follows(sheet, before) == []
        return sheet, before

    return read


@pytest.fixture(scope="module")
def scene(stage: MakeStage) -> Scene:
    """More miners than seats, one of whom sits out at times, and one who shows no key."""
    made = stage(miners=4, validators=2, adversaries={"no_key": 1}, gauntlet={"seats": 3, "lag": LAG, "mu_warmup": 1})
    return Scene(made, play(made, ROUNDS, absent=lambda name, round_: name == "miner-3" and round_ % 2 == 1))


def test_an_honest_run_has_no_fault(scene: Scene) -> None:
    report = scene.audit(Sampling(1000))
    assert report.faults == []
    assert report.sheets == 2 * ROUNDS
    rows = [row for name in ("operator-0", "operator-1") for r in range(ROUNDS) for row in scene.file(name, r).rows]
    assert report.measured == sum(row.measured and row.accepted for row in rows) >= ROUNDS
    assert {str(row.outcome) for row in rows} >= {"evaluated", "failed", "absent"}
    assert report.notes == [] or all("weights" in note.said for note in report.notes)


def test_what_is_drawn_follows_from_the_seed(scene: Scene) -> None:
    plain, again, other = (scene.audit(Sampling(4, seed)) for seed in (None, None, "another"))
    assert (plain.measured, plain.seed, plain.faults) == (4, again.seed, [])
    assert other.seed == "another"
    last = asyncio.run(scene.run.chain.anchors(ROUNDS))[-1].anchor
    assert plain.seed == last.digest.hex()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_every_column_that_lies_is_named_with_its_peer(honest: Honest, data: st.DataObject) -> None:
    round_, name = data.draw(st.integers(1, ROUNDS - 1)), data.draw(st.sampled_from(["operator-0", "operator-1"]))
    sheet, before = honest(name, round_)
    place, column = data.draw(st.integers(0, len(sheet.file.rows) - 1)), data.draw(st.sampled_from(SAID))
    row = sheet.file.rows[place]
    value = data.draw(values_of(COLUMNS[column]).filter(lambda value: repr(value) != repr(getattr(row, column))))
    # Who was drawn and not measured before it was too late looks like who was not drawn at all.
    assume(column != "drawn" or row.outcome != "not_evaluated" or not row.windows)
    rows = (*sheet.file.rows[:place], replace(row, **{column: value}), *sheet.file.rows[place + 1 :])
    lied = replace(sheet, file=replace(sheet.file, rows=rows))
    said = by_the_record(lied)
    said += [] if said else follows(lied, before)
    assert any(problem.startswith(f"{row.hotkey}: ") for problem in said)
    if column not in ("outcome", "reason", "windows", "accepted"):  # from these, other columns follow
        assert f"{row.hotkey}: `{column}`" in said[0]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_measurement_that_is_made_again_may_differ_by_the_tolerance_and_no_more(
    scene: Scene, honest: Honest, data: st.DataObject
) -> None:
    row = next(row for row in honest("operator-0", 1)[0].file.rows if row.measured)
    column, share = data.draw(st.sampled_from(MEASURED)), data.draw(st.floats(0.0, 10.0))
    side = "unassigned" if "unassigned" in column else "assigned"
    spread = getattr(row, column if column.endswith("error") else f"{side}_spread")
    tolerance = scene.run.spec.gauntlet.loss_tolerance
    value = getattr(row, column)
    lied = replace(row, **{column: value + share * spread})
    wrong = disagreement(lied, measured(row), tolerance)
    bound = max(LEAST, tolerance * spread)
    if share * spread > bound * 1.3 + 1e-12:  # a spread buys itself a tenth of what it is made larger by
        assert f"`{column}" in wrong or f"{column}`" in wrong
    elif share * spread < bound * 0.99:
        assert wrong == ""


def measured(row: ScoreRow) -> Measured:
    """The measurement that a row was made of."""
    numbers = {name: float(getattr(row, name)) for name in MEASURED}
    return Measured(
        LossPair(numbers["assigned_before"], numbers["assigned_after"]),
        LossPair(numbers["unassigned_before"], numbers["unassigned_after"]),
        Control(numbers["control_assigned"], numbers["control_unassigned"]),
        Errors(numbers["assigned_spread"], numbers["unassigned_spread"]),
        Errors(numbers["assigned_error"], numbers["unassigned_error"]),
    )


class TestFiles:
    """Files of the second validator, changed after the run; no record used those of the last rounds."""

    LAST = ROUNDS - 1

    def test_the_fault_says_whose_what_and_how_much(self, scene: Scene) -> None:
        file = scene.file("operator-1", self.LAST)
        row = file.rows[0]
        rows = (replace(row, work=row.work + 0.5), *file.rows[1:])
        report = scene.changed(self.LAST, lambda file: replace(file, rows=rows))
        problem = f"{row.hotkey}: `work` is {row.work + 0.5}, and {row.work} is what follows"
        assert report.faults == [Fault(FaultClass.SCORES, self.LAST, scene.key(self.LAST), problem, file.hotkey)]
        assert report.to_json_object()["faults"] == [
            {"class": "scores", "round": self.LAST, "object": scene.key(self.LAST), "problem": problem,
             "hotkey": file.hotkey}
        ]  # fmt: skip

    def test_a_lie_that_moves_others_pay_is_named_where_it_is(self, scene: Scene) -> None:
        file = scene.file("operator-1", self.LAST)
        place, row = next((i, row) for i, row in enumerate(file.rows) if row.measured)
        assert row.unassigned_after is not None
        lied = replace(row, unassigned_after=row.unassigned_after - 0.1)
        rows = (*file.rows[:place], lied, *file.rows[place + 1 :])
        report = scene.changed(self.LAST, lambda file: replace(file, rows=rows))
        (fault,) = report.faults
        assert fault.problem.startswith(f"{row.hotkey}: `last_score` is ")
        assert fault.hotkey == file.hotkey

    def test_a_row_too_many(self, scene: Scene) -> None:
        stranger = hotkey_of(bytes([255]) * 32)
        report = scene.changed(
            self.LAST, lambda file: replace(file, rows=(*file.rows, replace(file.rows[0], hotkey=stranger)))
        )
        assert report.faults
        assert all(fault.kind is FaultClass.SCORES for fault in report.faults)
        assert any(fault.problem.startswith(f"{stranger}: ") for fault in report.faults)

    def test_without_the_file_before_the_standings_are_taken_at_their_word(self, scene: Scene) -> None:
        report = scene.changed(self.LAST - 1, lambda _file: None)
        assert report.faults == []
        said = f"it has no file of round {self.LAST - 1}; its standings after round {self.LAST} are taken at its word"
        notes = [note for note in report.notes if "weights" not in note.said]
        assert [(note.round, note.said) for note in notes] == [(self.LAST, said)]
        assert notes[0].to_json_object() in json.loads(json.dumps(report.to_json_object()))["notes"]


class TestWeights:
    """What the chain shows."""

    def shown(self, scene: Scene, weights: dict[int, int]) -> list[Fault]:
        chain = copy.copy(scene.run.chain)
        chain.advance(100)
        asyncio.run(chain.set_weights(scene.stage.member("operator-1").identity, weights))
        return scene.audit(chain=chain).faults

    def test_weights_of_a_file_of_a_record_that_was_taken_back(self, scene: Scene) -> None:
        """It was published before the record was final, and the chain took the weights that follow from it."""
        member, file = scene.stage.member("operator-1"), scene.file("operator-1", ROUNDS - 1)
        rows = [replace(row, incentive=float(row.uid == file.rows[0].uid)) for row in file.rows]
        sibling = replace(file, record=b"\xab" * 32, rows=tuple(rows))
        bucket = scene.run.buckets.bucket("mem:operator-1")
        key = paths.scores(file.run_id, file.round, sibling.record)
        asyncio.run(bucket.put(key, encode_scores(sibling, member.identity)))
        try:
            assert self.shown(scene, {file.rows[0].uid: 65_535}) == []
        finally:
            asyncio.run(bucket.delete(key))

    def test_weights_of_no_file(self, scene: Scene) -> None:
        (fault,) = self.shown(scene, {0: 65_535, 1: 1})
        assert (fault.kind, fault.round) == (FaultClass.SCORES, None)
        assert fault.hotkey == scene.stage.member("operator-1").hotkey
        assert str(fault).startswith("the weights on the chain of ")


@pytest.fixture(scope="module")
def lied(stage: MakeStage) -> Scene:
    made = stage(miners=3, validators=2, seed=6)
    victim = made.member("miner-1").hotkey

    def lie(file: ScoreFile) -> tuple[ScoreRow, ...]:
        at = 0.02 if file.round == 2 else 0.0
        return tuple(less(row, at) if row.hotkey == victim else row for row in file.rows)

    with pytest.MonkeyPatch.context() as patch:
        Liar(made.member("operator-1").hotkey, made.spec, lie).install(patch)
        return Scene(made, play(made, 4))


class TestLiar:
    """A validator that says it measured something else, and from there on tells no lie."""

    def test_everything_follows_from_it(self, lied: Scene) -> None:
        assert lied.audit().faults == []

    def test_measured_again_it_is_named_with_both_figures(self, lied: Scene) -> None:
        (fault,) = lied.audit(Sampling(1000)).faults
        liar, victim = lied.stage.member("operator-1").hotkey, lied.stage.member("miner-1").hotkey
        assert (fault.kind, fault.round, fault.hotkey) == (FaultClass.SCORES, 2, liar)
        row = next(row for row in lied.file("operator-1", 2).rows if row.hotkey == victim)
        assert row.unassigned_before is not None
        assert row.unassigned_after is not None
        gain = row.unassigned_before - row.unassigned_after
        said, honest = f"{gain:.9g}", f"{gain + 0.02:.9g}"
        assert fault.problem.startswith(f"{victim}: `unassigned_before - unassigned_after` is {said}, and {honest} ")

    def test_without_text_it_is_said_that_nothing_is_measured(self, lied: Scene, tmp_path: Path) -> None:
        (lied.stage.run.path / "data" / "train.bin").rename(tmp_path / "train.bin")
        try:
            report = lied.audit(Sampling(5))
        finally:
            (tmp_path / "train.bin").rename(lied.stage.run.path / "data" / "train.bin")
        assert report.measured == 0
        assert "no row is measured again: that takes the run's text, which is not here" in {
            n.said for n in report.notes
        }


def nano(**clock_: int) -> Template:
    document = nano_template().model_dump()
    document["clock"] |= clock_
    document["gauntlet"] |= {"lag": 1, "score_wait": 4}
    return Template.model_validate(document)


def short(texts: list[Path], folder: Path, made: Template, validators: int = 1) -> Stage:
    """Two miners that train nothing."""
    return lay_out(folder / "run", texts, made, Roster.of(0, 2, validators, {}))


def faultless(stage: Stage, run: SimulatedRun) -> AuditReport:
    report = Scene(stage, run).audit(Sampling(1000))
    assert report.faults == []
    assert report.measured > 0
    return report


@pytest.mark.parametrize("block", [7, 10])
def test_a_validator_that_was_started_again_has_no_fault(texts: list[Path], tmp_path: Path, block: int) -> None:
    stage = short(texts, tmp_path, nano())
    how: dict[str, Any] = {"makers": lambda _: counting_miner, "block_seconds": BLOCK, "folder": tmp_path}
    simulator = Simulator(stage.roster, stage.spec, stage.text, **how)

    async def twice() -> SimulatedRun:
        first = asyncio.create_task(simulator.run(4))
        await simulator.chain.next_block(block)
        first.cancel()
        await asyncio.wait({first})
        return await simulator.run(4)

    report = faultless(stage, clock.run(twice()))
    assert report.sheets == 4


def test_a_validator_that_stood_on_a_sibling_has_no_fault(texts: list[Path], tmp_path: Path) -> None:
    made = nano(min_blocks=3, deadline=8, reveal=8, grace=3, seal_age=1, evaluate=2)
    stage = short(texts, tmp_path, made)
    script = Script([Trouble("missing", "store.get", "*/bundles/00000001-*", who="validator-0", count=1)])
    how: dict[str, Any] = {"makers": lambda _: counting_miner, "block_seconds": BLOCK, "script": script}
    simulator = Simulator(stage.roster, stage.spec, stage.text, leader=EquivocatorAtOnce, final_after=30, **how)
    run = clock.run(simulator.run(4))
    assert run.events("validator-0", Undone)
    faultless(stage, run)


def test_a_validator_that_could_not_publish_a_round_has_no_fault(texts: list[Path], tmp_path: Path) -> None:
    stage = short(texts, tmp_path, nano(), validators=2)
    script = Script([Trouble("error", "store.put_if_absent", "*/scores/00000001-*", who="validator-1")])
    how: dict[str, Any] = {"makers": lambda _: counting_miner, "block_seconds": BLOCK, "script": script}
    run = clock.run(Simulator(stage.roster, stage.spec, stage.text, **how).run(4))
    report = faultless(stage, run)
    assert [note.round for note in report.notes if "has no file of round 1" in note.said] == [2]


def test_the_command_prints_what_it_measured(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(scene.stage, scene.run)
    audit(str(scene.stage.run.path), losses=3, seed="x", as_json=True)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["sheets"], report["measured"], report["seed"], report["faults"]) == (2 * ROUNDS, 3, "x", [])
    audit(str(scene.stage.run.path), losses=3)
    assert f"{2 * ROUNDS} score files computed again, 3 of their rows measured again" in capsys.readouterr().out
