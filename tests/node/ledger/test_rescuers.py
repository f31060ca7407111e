"""A run that hangs goes on under who its owner names: found by everybody, and only where nothing else is decided."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from builders import MINERS, OWNER, identity, run_spec
from ledger_world import Life, NewestOnly, World, Written

from muster.lab import clock
from muster.node.ledger.participant import judge
from muster.node.ledger.reader import genesis_tip
from muster.node.ledger.rescuers import rescues
from muster.node.telemetry import events
from muster.protocol import ledger, paths, wire
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.errors import LedgerError
from muster.protocol.ledger import RESCUE
from muster.protocol.spec.history import SpecHistory
from muster.protocol.wire.manifest import Manifest

LIST = ("first", "second", "third")


class ShowsNewest(NewestOnly):
    """A chain that says of itself that it shows newest anchors only."""

    remembers = False


SPEC = run_spec(
    clock={"reveal": 8, "touch": 60, "silent": 60},
    genesis={"leaders": tuple(identity(name).hotkey for name in LIST)},
    data={"slots": 6},
)
CHAINS = (VirtualChain, ShowsNewest)
HELPER = MINERS[0]
"""Whom the owner names; it has a bucket and no turn."""


def amendment(world: World, round_: int, *leaders: str, signer: str = OWNER) -> bytes:
    """The list that counts from a round on."""
    value = json.dumps([identity(name).hotkey for name in leaders])
    return wire.encode_amendment(identity(signer), world.tip.run_id, 1, round_, "genesis.leaders", value)


async def named(
    leaders: Sequence[str] = LIST, make: type[VirtualChain] = VirtualChain, signer: str = OWNER
) -> tuple[World, bytes]:
    """A run that the helper may rescue in round 0, as its bucket shows."""
    world = await World.begin(leaders=LIST, make=make, spec=SPEC)
    data = amendment(world, 1, HELPER)
    await world.bucket_of(HELPER).put(paths.amendment(world.tip.run_id, 1), data)
    await world.chain.commit(identity(HELPER), f"mem:{HELPER}")
    return world, data


async def rescued(world: World, data: bytes) -> Written:
    """The helper's record, put and anchored."""
    written = await world.write((), turn=RESCUE, rescuer=HELPER, amendments=(data,))
    await world.put(written, HELPER)
    await world.anchor(written, HELPER)
    return written


async def standing(world: World) -> list[tuple[bytes, bool]]:
    """The claims of the open round."""
    return [(one.claim.digest, one.claim.final) for one in await world.reader().anchored(world.tip)]


def test_a_run_whose_list_is_gone_goes_on() -> None:
    async def follow() -> tuple[World, Life]:
        world, data = await named()
        life = await Life.of(world)
        world.go_on(await rescued(world, data))
        assert world.tip.leaders == (identity(HELPER).public,)
        world.leaders = (HELPER,)
        await world.close(())
        await world.close((), closing=True)
        await life.live()
        return world, life

    world, life = clock.run(follow())
    assert life.rounds == [0, 1, 2]
    assert [event.kind for event in life.events(events.Applied)] == ["null", "null", "close"]
    assert life.participant.tip.parent == world.tip.parent


async def test_before_the_run_has_been_silent_for_long_nobody_looks() -> None:
    world, _ = await named()
    await world.reach(world.tip.turn_begins(RESCUE) - 1)
    assert await standing(world) == []
    assert world.script.asked("*", "store.*") == 0
    await world.reach(world.tip.turn_begins(RESCUE))
    assert await standing(world) == []
    assert world.script.asked("*", "store.*") > 0


@pytest.mark.parametrize("make", CHAINS)
async def test_what_the_list_decides_first_stands(make: type[VirtualChain]) -> None:
    world, data = await named(make=make)
    written = await rescued(world, data)
    await world.put(decided := await world.write(()))
    await world.anchor(decided, *LIST[:2])
    world.chain.advance(world.tip.spec.clock.turn + 1)
    first = written if make is VirtualChain else decided
    assert (first.digest, True) in await standing(world)
    assert len(await standing(world)) == 2


@pytest.mark.parametrize("make", CHAINS)
async def test_a_rescue_counts_where_the_list_is_at_odds(make: type[VirtualChain]) -> None:
    world, data = await named(make=make)
    one, other = await world.write(()), await world.write(MINERS)
    for written, name in ((one, "first"), (other, "second")):
        await world.put(written)
        await world.anchor(written, name)
    assert not any(final for _, final in await standing(world))
    written = await rescued(world, data)
    world.chain.advance(world.tip.spec.clock.turn + 1)
    assert (await standing(world))[0] == (written.digest, True)
    assert len(await standing(world)) == 3


async def test_what_a_rescue_continues_stands_with_it() -> None:
    """The list went before it had decided the round before."""
    world, _ = await named()
    before = world.tip
    await world.put(undecided := await world.write(()))
    await world.anchor(undecided, "first")
    assert await standing(world) == [(undecided.digest, False)]
    world.go_on(undecided)
    data = amendment(world, 2, HELPER)
    await world.bucket_of(HELPER).put(paths.amendment(world.tip.run_id, 1), data)
    await rescued(world, data)
    world.chain.advance(world.tip.spec.clock.turn + 1)
    (pointer,) = await world.reader().anchored(before)
    assert (pointer.digest, pointer.claim.final) == (undecided.digest, True)


async def test_an_ordinary_record_of_who_is_named_is_no_rescue() -> None:
    """One of the list that the owner names has a vote like the others, until it has made the rescue itself."""
    world = await World.begin(leaders=LIST, spec=SPEC)
    data = amendment(world, 1, "third")
    await world.bucket_of("third").put(paths.amendment(world.tip.run_id, 1), data)
    await world.reach(world.tip.turn_begins(RESCUE) - 10)
    for name, names in zip(LIST, ((), MINERS, MINERS[:1]), strict=True):
        await world.put(written := await world.write(names))
        await world.anchor(written, name)
    await world.reach(world.tip.turn_begins(RESCUE))
    assert [final for _, final in await standing(world)] == [False] * 3


def test_a_rescue_that_is_not_valid_counts_for_nothing() -> None:
    async def follow() -> tuple[Written, Life]:
        world, data = await named()
        life = await Life.of(world)
        bad = await world.write((), turn=RESCUE, rescuer=HELPER, amendments=(data,), outer_step=3)
        await world.put(bad, HELPER)
        await world.anchor(bad, HELPER)
        with pytest.raises(ExceptionGroup):
            await life.live(blocks=3)  # it goes on waiting
        return bad, life

    bad, life = clock.run(follow())
    assert life.rounds == []
    assert [event.record for event in life.events(events.Refused)] == [bad.digest.hex()]


class TestFinding:
    """Which amendments let somebody rescue a run."""

    async def test_only_the_owners_that_is_next_and_names_a_list_from_the_next_round_on(self) -> None:
        world, good = await named()
        for data in (
            amendment(world, 1, HELPER, signer="first"),
            wire.cosign_amendment(identity("second"), world.tip.run_id, amendment(world, 1, HELPER, signer="first")),
            amendment(world, 0, HELPER),
            amendment(world, 2 + world.tip.spec.clock.finality, HELPER),
            wire.encode_amendment(identity(OWNER), world.tip.run_id, 2, 1, "genesis.leaders", f'["{HELPER}"]'),
            wire.encode_amendment(identity(OWNER), world.tip.run_id, 1, 1, "inner.lr", "0.1"),
            good[:-1],
            b"",
        ):
            assert rescues(world.tip, [data]) == {}
        found = rescues(world.tip, [good])
        assert {public: one.round for public, one in found.items()} == {identity(HELPER).public: 0}

    async def test_it_is_looked_for_now_and_then(self) -> None:
        world, data = await named()
        await world.bucket_of(HELPER).delete(paths.amendment(world.tip.run_id, 1))
        await world.reach(world.tip.turn_begins(RESCUE))
        reader = world.reader()
        for _ in range(3):
            assert await reader.rescuers.of(world.tip) == {}
        looks = world.script.asked("*", "store.*")
        await world.bucket_of(HELPER).put(paths.amendment(world.tip.run_id, 1), data)
        assert await reader.rescuers.of(world.tip) == {}
        world.chain.advance(10)
        assert list(await reader.rescuers.of(world.tip)) == [identity(HELPER).public]
        assert world.script.asked("*", "store.*") == 2 * looks


class TestRules:
    """What makes a rescue valid (`protocol/ledger/rescue.py`)."""

    async def test_it_names_the_next_list_and_closes_the_round_with_nothing_in_it(self) -> None:
        world, data = await named()
        written = await world.write((), turn=RESCUE, rescuer=HELPER, amendments=(data,))
        assert (written.record.kind, written.record.entries, written.seal.turn) == (wire.Kind.NULL, (), RESCUE)
        before, after = world.tip, judge(written.fetched, world.tip, world.replica).tip
        assert (after.leaders, after.author) == ((identity(HELPER).public,), identity(HELPER).public)
        assert (after.outer_step, after.round) == (before.outer_step, before.round + 1)
        assert after.leader_in_turn == identity(HELPER).public

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"rescuer": "first"}, "signed by who its amendment names first"),
            ({"signer": "second"}, "signed by the run's owner"),
            ({"round": 3}, "counts from round 1 on"),
            ({"names": MINERS}, "is a null record|lists nobody|sealed submissions"),
            ({"amendments": ()}, "with one amendment"),
            ({"turn": 1}, "not its signer's turn"),
        ],
    )
    async def test_another_is_refused(self, changes: dict[str, Any], problem: str) -> None:
        world, _ = await named()
        data = amendment(world, changes.get("round", 1), HELPER, signer=changes.get("signer", OWNER))
        written = await world.write(
            changes.get("names", ()),
            turn=RESCUE,
            rescuer=changes.get("rescuer", HELPER),
            amendments=(data,) if changes.get("round", 1) == 1 and "signer" not in changes else (),
        )
        kept = {key: value for key, value in changes.items() if key in ("amendments", "turn")}
        if changes.keys() & {"round", "signer"}:
            kept = {"amendments": (data,)}
        bad = replace(written.fetched, record=replace(written.record, **kept))
        with pytest.raises(LedgerError, match=problem):
            judge(bad, world.tip, world.replica)

    async def test_it_comes_when_the_round_has_been_late_for_long_and_not_before(self) -> None:
        world, data = await named()
        written = await world.write((), turn=RESCUE, rescuer=HELPER, amendments=(data,))
        begins = world.tip.turn_begins(RESCUE)
        assert written.seal.block.number == begins == world.tip.opening.anchor_by + SPEC.clock.silent
        late = replace(world.tip, opening=replace(world.tip.opening, anchor_by=world.tip.opening.anchor_by + 1))
        with pytest.raises(LedgerError, match="before its signer's turn"):
            judge(written.fetched, late, world.replica)

    async def test_nobody_answers_a_seal_of_that_turn(self) -> None:
        world, data = await named()
        written = await world.write((), turn=RESCUE, rescuer=HELPER, amendments=(data,))
        assert not ledger.continues(world.tip, written.seal)
        assert not ledger.continues(world.tip, replace(written.seal, leader=world.tip.leader(RESCUE)))

    async def test_a_checkpoint_after_it_gives_the_same_tip(self) -> None:
        world, data = await named()
        world.go_on(await rescued(world, data))
        world.leaders = (HELPER,)
        start, last = await genesis_tip(SpecHistory.of(SPEC), world.chain), await world.close(())
        parts = {"run": world.tip.run_id.hex(), "round": world.tip.round, "outer_step": world.tip.outer_step}
        read = Manifest(**parts, root="0" * 64, layout="0" * 64, shards=(), tip=ledger.tip_info(world.tip))
        assert ledger.resume(start, read, (last.record, last.digest)) == world.tip
