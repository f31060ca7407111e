"""Runs led by several aggregators in turn: history, pay and audit are read from any of their buckets."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from nano_stage import NanoStage, Setting
from run_builders import MAX_BYTES, MakeStage, Stage, genesis_without, play

from muster.audit import Auditor, AuditReport, FaultClass
from muster.history.explain.gather import find_case
from muster.history.story import Story, page, tell
from muster.history.story.gather import read_round
from muster.lab import clock
from muster.lab.faults import Fault, Script
from muster.lab.faulty import FaultyBuckets
from muster.lab.simulator import SimulatedRun
from muster.node.directory import Directory
from muster.node.ledger import reader
from muster.protocol import paths, wire
from muster.protocol.chain.base import AnchorSeen
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.errors import LedgerError, StorageError
from muster.protocol.identity import Identity, hotkey_of
from muster.protocol.spec.history import SpecHistory
from muster.protocol.spec.layout import layout_of
from muster.protocol.storage import Store
from muster.protocol.storage.locations import MemoryBuckets
from muster.protocol.types import Anchor
from muster.protocol.wire import Record, Seal
from muster.run.folder import RunDirectory

ROUNDS = 6
TERM = 2
"""Rounds after which the next aggregator leads."""

BESIDE = 3
"""The round in which somebody lies, where somebody does."""


@dataclass(frozen=True, slots=True)
class Case:
    """A finished run, and the means to spoil it."""

    stage: Stage
    run: SimulatedRun

    @property
    def operators(self) -> list[str]:
        return [member.name for member in self.stage.roster.operators]

    def bucket(self, name: str) -> Store:
        return self.run.buckets.bucket(f"mem:{name}")

    def audit(self, chain: VirtualChain | None = None, first_round: int | None = None) -> AuditReport:
        auditor = Auditor(self.stage.run, chain or self.run.chain, self.run.buckets, lambda _line: None)
        return asyncio.run(auditor.audit(first_round))

    def story(self, round_: int | None, chain: VirtualChain | None = None) -> Story:
        chain, history = chain or self.run.chain, self.stage.run.history
        return tell(asyncio.run(read_round(history, chain, Directory(chain, self.run.buckets), round_)), [])

    def pay(self, chain: VirtualChain | None = None) -> object:
        """What a miner's pay in the last round is explained from."""
        chain, miner = chain or self.run.chain, self.stage.member("miner-0").hotkey
        return asyncio.run(find_case(self.stage.run.history, chain, Directory(chain, self.run.buckets), miner)).judged

    @property
    def anchors(self) -> tuple[AnchorSeen, ...]:
        return asyncio.run(self.run.chain.anchors(0))

    def anchors_of(self, round_: int) -> list[AnchorSeen]:
        return [seen for seen in self.anchors if seen.anchor.round == round_]

    def showing(self, anchors: Sequence[AnchorSeen], *, remembers: bool = True) -> VirtualChain:
        """The chain with other anchors."""
        chain = copy.copy(self.run.chain)
        chain._anchors = list(anchors)
        chain.remembers = remembers
        return chain

    @property
    def newest_only(self) -> VirtualChain:
        """The chain without its memory of anchors."""
        newest = {seen.hotkey: seen for seen in self.anchors}
        return self.showing(sorted(newest.values(), key=lambda seen: (seen.block, seen.index)), remembers=False)

    def key(self, kind: str, round_: int) -> str:
        """The name of the one object of a round among the `seals`, `records` or `bundles`."""
        prefix = f"{self.run_id.hex()}/{kind}/{round_:08d}-"
        (key,) = {key for name in self.operators for key in self.everything_of(name) if key.startswith(prefix)}
        return key

    @property
    def run_id(self) -> bytes:
        return self.run.spec.run_id()

    def read(self, name: str, key: str) -> bytes | None:
        if asyncio.run(self.bucket(name).head(key)) is None:
            return None
        return asyncio.run(self.bucket(name).get(key, max_bytes=MAX_BYTES))

    def record(self, round_: int) -> Record:
        data = self.read("operator-0", self.key("records", round_))
        assert data is not None
        return wire.decode_record(data, self.run_id, len(layout_of(self.run.spec.model).shapes))[0]

    def signer(self, public: bytes) -> Identity:
        return self.stage.member(self.stage.name_of(hotkey_of(public))).identity

    @contextmanager
    def changed(self, objects: dict[tuple[str, str], bytes | None]) -> Iterator[None]:
        """Inside, objects (of a bucket's owner, by name) have other bytes (None: they are gone)."""
        before = {at: self.read(*at) for at in objects}
        self._set(objects)
        try:
            yield
        finally:
            self._set(before)

    def _set(self, objects: dict[tuple[str, str], bytes | None]) -> None:
        for (name, key), data in objects.items():
            bucket = self.bucket(name)
            asyncio.run(bucket.delete(key) if data is None else bucket.put(key, data))

    def everything_of(self, name: str) -> list[str]:
        return [info.key for info in asyncio.run(self.bucket(name).list())]


@pytest.fixture(scope="module", params=[2, 3])
def case(request: pytest.FixtureRequest, stage: MakeStage) -> Case:
    made = stage(miners=2, validators=request.param, clock={"term": TERM})
    return Case(made, play(made, ROUNDS))


def right(case: Case, report: AuditReport) -> bool:
    """Whether the ledger was replayed whole and found without a fault."""
    return (report.of(FaultClass.LEDGER), report.state_roots, report.closed) == ([], case.run.state_roots, True)


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


@dataclass(frozen=True, slots=True)
class Lie:
    """Something a leader signed beside what stands: where it lies, under which name, and its digest."""

    owner: str
    key: str
    data: bytes
    digest: bytes

    @property
    def objects(self) -> dict[tuple[str, str], bytes | None]:
        return {(self.owner, self.key): self.data}


def second_record(case: Case) -> Lie:
    """Another record of one turn, by its leader, in its own bucket."""
    record = case.record(BESIDE)
    data = wire.encode_record(replace(record, weights=record.weights * 2), case.signer(record.leader))
    digest = wire.digest_of(data)
    owner = case.stage.name_of(hotkey_of(record.leader))
    return Lie(owner, paths.record(case.run_id, BESIDE, digest), data, digest)


def second_seal(case: Case) -> Lie:
    """Another seal of one turn, by its leader, in somebody else's bucket."""
    data = case.read("operator-0", case.key("seals", BESIDE))
    assert data is not None
    seal: Seal = wire.decode_seal(data, case.run_id)[0]
    other = wire.encode_seal(replace(seal, headers=seal.headers[:1]), case.signer(seal.leader))
    digest = wire.digest_of(other)
    owner = next(name for name in case.operators if case.stage.member(name).hotkey != hotkey_of(seal.leader))
    return Lie(owner, paths.seal(case.run_id, BESIDE, digest), other, digest)


class TestBeside:
    """Who signs or anchors something else is told, and nothing else changes."""

    @pytest.mark.parametrize(("make", "what"), [(second_record, "records"), (second_seal, "seals")])
    def test_two_of_one_turn_are_told_with_who_signed_them(
        self, case: Case, make: Callable[[Case], Lie], what: str
    ) -> None:
        lie, liar = make(case), hotkey_of(case.record(BESIDE).leader)
        with case.changed(lie.objects):
            report = case.audit()
            assert right(case, report)
            assert report.faults == []
            (note,) = report.notes
            assert (note.round, note.hotkey) == (BESIDE, liar)
            assert note.said.startswith(f"it signed two {what} in turn 0: {lie.digest.hex()[:8]}")
            assert case.story(BESIDE).seen.digest == case.anchors_of(BESIDE)[0].anchor.digest

    @pytest.mark.parametrize("when", ["before all others", "after all others"])
    def test_an_anchored_sibling_is_told_and_the_run_is_what_most_stand_on(self, case: Case, when: str) -> None:
        """Its leader anchors both; by the record that came next the other one stands."""
        lie = second_record(case)
        (own,) = (seen for seen in case.anchors_of(BESIDE) if case.stage.name_of(seen.hotkey) == lie.owner)
        sibling = replace(own, anchor=Anchor(BESIDE, lie.digest))
        at = case.anchors.index(own)
        before, after = list(case.anchors[: at + 1]), list(case.anchors[at + 1 :])
        chain = case.showing(
            [*before[:-1], sibling, own, *after] if when == "before all others" else [*before, sibling, *after]
        )
        with case.changed(lie.objects):
            report = case.audit(chain)
        assert right(case, report)
        assert [fault for fault in report.faults if fault.kind is not FaultClass.SCORES] == []
        said = [note.said for note in report.notes if note.hotkey == own.hotkey and note.round == BESIDE]
        assert f"it anchored the record {lie.digest.hex()[:8]}, which is not of the run" in said

    def test_an_anchor_of_a_round_that_never_was_proves_nothing(self, case: Case) -> None:
        """Of two the one that lies holds up who comes late; of three it counts for nothing."""
        far = replace(case.anchors[-1], anchor=Anchor(10**12, bytes(32)), block=case.run.chain.height)
        report = case.audit(case.showing([*case.anchors, far]))
        assert right(case, report)
        assert report.faults == []

    def test_what_most_do_not_stand_on_yet_is_told_and_not_replayed(self, case: Case) -> None:
        """The last two records have the anchors of one aggregator, and no more."""
        last, only = ROUNDS - 1, case.anchors[-1].hotkey
        shown = [seen for seen in case.anchors if seen.anchor.round < last or seen.hotkey == only]
        report = case.audit(case.showing(shown))
        assert report.of(FaultClass.LEDGER) == []
        assert report.state_roots == case.run.state_roots[:last]
        (fault,) = report.of(FaultClass.UNANCHORED)
        assert (fault.round, fault.name) == (last, case.key("records", last))


class TestTakeover:
    """A leader that cannot seal loses its turn: the story says who closed the round, and instead of whom."""

    @pytest.mark.parametrize("operators", [2, 3])
    def test_the_story_says_whose_turn_it_was(self, operators: int, tmp_path: Path) -> None:
        clock = {"min_blocks": 3, "deadline": 8, "reveal": 8, "grace": 3, "seal_age": 1, "evaluate": 2}
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


CHANGES = 3
"""The round from which on an amended list is in force."""


def amended(stage: MakeStage, before: Sequence[int], after: Sequence[int]) -> Case:
    """A run of two operators whose list is first of these, and then of those."""
    made = stage(miners=2, validators=2, clock={"term": TERM, "checkpoint_every": 1})
    hotkeys = [operator.hotkey for operator in made.roster.operators]
    first, then = ([hotkeys[i] for i in listed] for listed in (before, after))
    genesis = made.spec.genesis.model_copy(update={"leaders": tuple(first)})
    spec = made.spec.model_copy(update={"genesis": genesis})
    spec = genesis_without(spec, made.member("miner-1").hotkey)
    owner = made.roster.owner.identity
    data = wire.encode_amendment(owner, spec.run_id(), 1, CHANGES, "genesis.leaders", json.dumps(then))
    buckets = MemoryBuckets()
    for operator in made.roster.operators:
        asyncio.run(buckets.bucket(f"mem:{operator.name}").put(paths.amendment(spec.run_id(), 1), data))
    folder = made.run.path
    (folder / "spec.json").write_bytes(spec.canonical())
    config = (folder / "run.toml").read_text()
    (folder / "run.toml").write_text(config.replace(made.spec.run_id().hex(), spec.run_id().hex()))
    late = {"miner-1": ROUNDS - 1}
    return Case(
        replace(made, run=RunDirectory.open(str(folder))),
        play(made, ROUNDS, spec, buckets=buckets, arrivals=late),
    )


@pytest.fixture(scope="module", params=[((0,), (0, 1)), ((0, 1), (1,)), ((0,), (1,))])
def changed(request: pytest.FixtureRequest, stage: MakeStage) -> Case:
    return amended(stage, *request.param)


class TestAmendedLists:
    """The list changes while the run lives: what is read of it is read by the list that was in force."""

    def test_the_audit_goes_on_by_the_list_in_force(self, changed: Case) -> None:
        """Who has left the list does not vote for its last record: that is final once it is out of touch, and where
        the chain shows newest anchors only a turn later."""
        for chain in (changed.showing(changed.anchors), changed.newest_only):
            chain.advance(changed.run.spec.clock.turn)
            report = changed.audit(chain)
            assert right(changed, report)
            assert report.faults == []

    def test_the_story_of_every_round_is_told(self, changed: Case) -> None:
        for round_ in range(ROUNDS):
            seen = changed.story(round_).seen
            assert (seen.anchored, seen.problems) == (True, ())
            assert seen.record is not None
            assert seen.record.leader in seen.tip.leaders

    def test_who_comes_late_stands_where_all_stand(self, changed: Case) -> None:
        own = changed.run.roots("miner-1")
        assert max(own) == ROUNDS - 1
        assert own.items() <= changed.run.roots("miner-0").items()


@pytest.mark.parametrize("gone", ["operator-0", "operator-1"])
def test_after_one_of_two_has_died_for_good_the_run_is_read_to_its_end(case: Case, gone: str) -> None:
    """Its anchors end, and nothing is left of its bucket; once it is out of touch the other's word is enough."""
    if len(case.operators) > 2:
        pytest.skip("of three the other two are more than half")
    hotkey = case.stage.member(gone).hotkey
    shown = [seen for seen in case.anchors if seen.hotkey != hotkey or seen.anchor.round < BESIDE]
    with case.changed(dict.fromkeys((gone, key) for key in case.everything_of(gone))):
        early = case.audit(case.showing(shown))
        assert early.of(FaultClass.LEDGER) == []
        assert early.state_roots == case.run.state_roots[:BESIDE]
        later = case.showing(shown)
        later.advance(2 * case.stage.spec.clock.touch)
        assert right(case, case.audit(later))
        assert case.story(None, later).seen.tip.round == ROUNDS
