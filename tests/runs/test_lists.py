"""Runs led by several aggregators in turn: history, pay and audit are read from any of their buckets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from list_runs import BESIDE, ROUNDS, TERM, Case, right
from nano_stage import NanoStage, Setting
from run_builders import MakeStage, play

from muster.audit import Auditor, FaultClass
from muster.history.story import page, tell
from muster.history.story.gather import read_round
from muster.lab import clock
from muster.lab.faults import Fault, Script
from muster.lab.faulty import FaultyBuckets
from muster.node.directory import Directory
from muster.node.ledger import reader
from muster.protocol.errors import LedgerError, StorageError
from muster.protocol.identity import hotkey_of
from muster.protocol.spec.history import SpecHistory


@pytest.fixture(scope="module", params=[2, 3])
def case(request: pytest.FixtureRequest, stage: MakeStage) -> Case:
    made = stage(miners=2, validators=request.param, clock={"term": TERM})
    return Case(made, play(made, ROUNDS))


class TestRight:
    """A run in which everything is as it must be."""

    def test_the_audit_passes_and_has_nothing_to_tell(self, case: Case) -> None:
        report = case.audit()
        assert right(case, report)
        assert (report.faults, report.notes) == ([], [])
        assert report.sheets == ROUNDS * len(case.operators)
        assert case.audit(first_round=4).state_roots == case.run.state_roots[4:]

    def test_the_newest_anchors_alone_prove_the_same(self, case: Case) -> None:
        assert case.audit(case.newest_only) == case.audit()
        assert case.pay(case.newest_only) == case.pay()
        for round_ in range(ROUNDS):
            told = case.story(round_, case.newest_only).to_json_object()
            known = case.story(round_).to_json_object()
            assert told["submissions"] == known["submissions"]
            assert told["problems"] == []

    def test_the_story_names_who_led(self, case: Case) -> None:
        led = [case.stage.name_of(hotkey_of(case.story(round_).seen.leader)) for round_ in range(ROUNDS)]
        count = len(case.operators)
        assert led == [f"operator-{round_ // TERM % count}" for round_ in range(ROUNDS)]
        assert all(case.story(round_).seen.turn == 0 for round_ in range(ROUNDS))

    def test_pay_is_explained_by_every_validator(self, case: Case) -> None:
        validators = [one.validator for one in case.pay()]  # type: ignore[attr-defined]
        assert validators == [member.hotkey for member in case.stage.roster.operators]

    def test_what_is_told_of_one_block_is_told_in_order(self, case: Case) -> None:
        what = [moment.what for moment in case.story(BESIDE).happened]
        assert what == ["sealed 2 submissions", "decided the round", "anchored the record"]


class TestMirrors:
    """Each aggregator keeps the ledger: any one's copy will do, and none is a fault."""

    @pytest.mark.parametrize("data", [None, b"else"])
    @pytest.mark.parametrize("kind", ["seals", "records", "bundles"])
    def test_one_good_copy_is_enough(self, case: Case, kind: str, data: bytes | None) -> None:
        for good in case.operators:
            key = case.key(kind, BESIDE)
            with case.changed({(name, key): data for name in case.operators if name != good}):
                assert right(case, case.audit())
                told = case.story(BESIDE)
            assert told.seen.seal is not None
            assert (told.seen.anchored, told.seen.problems) == (True, ())

    @pytest.mark.parametrize("end", ["manifest.json", ".safetensors"])
    def test_one_good_checkpoint_is_enough(self, case: Case, end: str) -> None:
        prefix = f"{case.run_id.hex()}/checkpoints/{4:08d}/"
        (key,) = (key for key in case.everything_of("operator-0") if key.startswith(prefix) and key.endswith(end))
        for good in case.operators:
            with case.changed({(name, key): b"else" for name in case.operators if name != good}):
                assert right(case, case.audit())
                assert case.audit(first_round=4).faults == []

    @pytest.mark.parametrize("kind", ["seals", "records", "bundles"])
    def test_what_is_nowhere_is_named(self, case: Case, kind: str) -> None:
        key = case.key(kind, BESIDE)
        with case.changed(dict.fromkeys((name, key) for name in case.operators)):
            report = case.audit()
            assert [(fault.name, fault.round) for fault in report.of(FaultClass.LEDGER)] == [(key, BESIDE)]
            if kind == "records":
                with pytest.raises((StorageError, LedgerError)):
                    case.story(BESIDE + 1)

    def test_a_bucket_that_is_gone_harms_neither_ledger_nor_history(self, case: Case) -> None:
        """What only its owner kept is missed: what it signed the seals from, and its own score files."""
        for gone in case.operators:
            hotkey = case.stage.member(gone).hotkey
            led = [round_ for round_ in range(ROUNDS + 1) if hotkey_of(case.record(round_).leader) == hotkey]
            with case.changed(dict.fromkeys((gone, key) for key in case.everything_of(gone))):
                report = case.audit()
                assert right(case, report)
                assert {fault.hotkey for fault in report.faults} == {hotkey}, "of files that records used"
                sealed = [note for note in report.notes if "beside its seal" in note.said]
                assert [(note.hotkey, note.round) for note in sealed] == [(hotkey, round_) for round_ in led]
                for round_ in range(ROUNDS):
                    assert case.story(round_).seen.anchored

    def test_a_bucket_that_hangs_is_waited_for_once(self, case: Case) -> None:
        """For the ledger; its own score files nobody else has."""
        hang = Fault("hang", "store.*", owner="operator-0")
        script = Script([hang])
        buckets = FaultyBuckets(case.run.buckets, script, lambda: 0, "auditor")
        auditor = Auditor(case.stage.run, case.run.chain, buckets, lambda _line: None)
        report = clock.run(auditor.audit(None))
        assert right(case, report)
        listed = Script([Fault("hang", "store.list", "*/records/*", owner="operator-0")])
        buckets = FaultyBuckets(case.run.buckets, listed, lambda: 0, "auditor")
        auditor = Auditor(case.stage.run, case.run.chain, buckets, lambda _line: None)
        assert right(case, clock.run(auditor.audit(None)))
        assert sum(listed.fired.values()) <= 2, "beside the rounds once, and once after the last"

    def test_history_is_read_back_in_as_many_looks_as_it_takes(
        self, case: Case, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A bucket that cannot be listed may hold more records: then what leads back says which is which."""
        monkeypatch.setattr(reader, "STEPS_BACK", 2)
        script = Script([Fault("error", "store.list", owner="operator-0")])
        buckets = FaultyBuckets(case.run.buckets, script, lambda: 0, "reader")
        chain, history = case.newest_only, case.stage.run.history
        seen = asyncio.run(read_round(history, chain, Directory(chain, buckets), None))
        assert (seen.tip.round, seen.anchored, seen.problems) == (ROUNDS, True, ())
        assert script.fired, "it was asked"
        assert sum(script.fired.values()) == 1, "and once"


class TestTakeover:
    """A leader that cannot seal loses its turn: the story says who closed the round, and instead of whom."""

    @pytest.mark.parametrize("operators", [2, 3])
    def test_the_story_says_whose_turn_it_was(self, operators: int, tmp_path: Path) -> None:
        clock = {
            "min_blocks": 3,
            "deadline": 8,
            "reveal": 8,
            "grace": 3,
            "seal_age": 1,
            "evaluate": 2,
            "term": BESIDE + 1,
        }
        stage = NanoStage.lay(Setting("late", clock, 4, operators=operators), tmp_path)
        fault = Fault("error", "store.put_if_absent", f"*/seals/{BESIDE:08d}.*.heads", who="aggregator-0")
        run = stage.play(Script([fault]), ROUNDS)
        directory, history = Directory(run.chain, run.buckets), SpecHistory.of(stage.spec)
        closed, then = (
            tell(asyncio.run(read_round(history, run.chain, directory, round_)), []) for round_ in (BESIDE, BESIDE + 1)
        )
        hotkeys = [member.hotkey for member in stage.roster.operators]
        first, second = hotkeys[:2]
        assert (hotkey_of(closed.seen.leader), closed.seen.turn) == (second, 1)
        assert f"leader    {second[:8]}, in turn 1, instead of {first[:8]}\n" in page(closed, 120)
        assert closed.to_json_object()["turn"] == 1
        assert stage.spec.clock.term == BESIDE + 1, "a term ends, and the turn goes on from who took over"
        assert then.leader == hotkeys[2 % operators][:8]
