"""A record that a round was decided by, and that is nowhere: nobody closes that round again, and it is looked for."""

from __future__ import annotations

import pytest
from builders import identity, run_spec
from ledger_world import Watcher, World, Written

from muster.node.ledger.session import Session
from muster.protocol.errors import ObjectMissing

LIST = ("first", "second", "third")
TOUCH = 60
SPEC = run_spec(
    clock={"reveal": 8, "touch": TOUCH, "silent": 2000},
    genesis={"leaders": tuple(identity(name).hotkey for name in LIST)},
    data={"slots": 6},
)


async def voted(*names: str) -> tuple[World, Written]:
    """The open round's record, which these have anchored, and nobody's bucket has."""
    world = await World.begin(leaders=LIST, spec=SPEC)
    written = await world.write(())
    await world.anchor(written, *names)
    return world, written


async def lost(world: World) -> frozenset[bytes]:
    """Who is seen to have decided the open round by a record that is nowhere."""
    around = world.around()
    session = Session(Watcher(around, world.tip, world.replica), around.chain, around.directory)
    async with session._reader.ahead:
        assert await session.find_record() is None
        assert session.is_lost() == bool(session._reader.lost)
    return session._reader.lost


async def test_one_that_more_than_half_have_anchored_is_not_closed_again() -> None:
    world, _ = await voted("first", "second")
    assert await lost(world) == {identity(name).public for name in LIST[:2]}


async def test_one_that_fewer_have_anchored_is_none() -> None:
    """Or a liar that shows its record to nobody could stop the run."""
    world, _ = await voted("first")
    assert await lost(world) == frozenset()


async def test_who_was_not_in_touch_does_not_close_it_again_either() -> None:
    world, _ = await voted("third")
    await world.reach(TOUCH)
    assert await lost(world) == frozenset()
    await world.reach(TOUCH + 1)
    assert await lost(world) == {identity("third").public}


@pytest.mark.parametrize("where", LIST)
async def test_once_it_is_at_hand_anywhere_the_round_goes_on(where: str) -> None:
    world, written = await voted("first", "second")
    await world.put(written, where)
    (pointer,) = await world.reader().anchored(world.tip)
    assert (pointer.digest, pointer.claim.final) == (written.digest, True)


async def test_a_later_anchor_that_leads_nowhere_counts_like_one() -> None:
    world, written = await voted("first", "second")
    before = world.tip
    world.go_on(written)
    await world.anchor(await world.write(()), "first", "second")
    world.tip = before
    with pytest.raises(ObjectMissing):
        await world.reader().anchored(world.tip)
    assert await lost(world) == {identity(name).public for name in LIST[:2]}
