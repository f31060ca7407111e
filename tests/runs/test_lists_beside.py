"""Who signs or anchors something else, leaves the list, or dies: what is read of the run is read all the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
from list_runs import BESIDE, ROUNDS, TERM, Case, right
from run_builders import MakeStage, genesis_without, play

from muster.audit import FaultClass
from muster.protocol import paths, wire
from muster.protocol.identity import hotkey_of
from muster.protocol.storage.locations import MemoryBuckets
from muster.protocol.types import Anchor
from muster.protocol.wire import Seal
from muster.run.folder import RunDirectory


@pytest.fixture(scope="module", params=[2, 3])
def case(request: pytest.FixtureRequest, stage: MakeStage) -> Case:
    made = stage(miners=2, validators=request.param, clock={"term": TERM})
    return Case(made, play(made, ROUNDS))


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
def test_after_one_has_died_for_good_the_run_is_read_to_its_end(case: Case, gone: str) -> None:
    """Its anchors end, and nothing is left of its bucket. Of three the others are more than half; of two the other's
    word is enough once it is out of touch."""
    hotkey = case.stage.member(gone).hotkey
    shown = [seen for seen in case.anchors if seen.hotkey != hotkey or seen.anchor.round < BESIDE]
    with case.changed(dict.fromkeys((gone, key) for key in case.everything_of(gone))):
        early = case.audit(case.showing(shown))
        assert early.of(FaultClass.LEDGER) == []
        known = BESIDE if len(case.operators) == 2 else ROUNDS
        assert early.state_roots == case.run.state_roots[:known]
        later = case.showing(shown)
        later.advance(2 * case.stage.spec.clock.touch)
        assert right(case, case.audit(later))
        assert case.story(None, later).seen.tip.round == ROUNDS
