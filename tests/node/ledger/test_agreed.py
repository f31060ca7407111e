"""What most of a list stand on, by their newest anchors alone: the newest record that more than half lead back to."""

from __future__ import annotations

import asyncio
from collections import Counter

from builders import hash32, identity
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_world import ME, NewestOnly, World

from muster.node.ledger.agreed import agreed
from muster.protocol.types import Anchor

NAMES = ("leader", "second", "third", "fourth", "fifth")

Path = tuple[int, int, int]
"""The round that a member anchors last, the round from which on it is on a fork, and which of two forks that is."""


def record_of(path: Path, round_: int) -> bytes:
    """The record of a round on a member's branch; before the fork all have one."""
    _, fork, which = path
    return hash32(round_, fork, which) if round_ >= fork else hash32(round_)


def expected(paths: list[Path]) -> Anchor | None:
    """The same from the definition."""
    for round_ in range(max((last for last, _, _ in paths), default=-1), -1, -1):
        tally = Counter(record_of(path, round_) for path in paths if path[0] >= round_)
        for digest, count in tally.items():
            if 2 * count > len(paths):
                return Anchor(round_, digest)
    return None


@settings(max_examples=60, deadline=None)
@given(
    silent=st.integers(0, 2),
    paths=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 14), st.integers(0, 1)), min_size=1, max_size=5),
)
def test_it_is_the_newest_that_more_than_half_lead_back_to(silent: int, paths: list[Path]) -> None:
    """Who is on the list and has never anchored does not count."""

    async def look() -> Anchor | None:
        world = await World.begin(leaders=NAMES[: min(len(paths) + silent, len(NAMES))], make=NewestOnly)
        reader = world.reader()
        for name, path in zip(world.leaders, paths, strict=False):
            last = path[0]
            await world.chain.commit(identity(name), f"mem:{name}", Anchor(last, record_of(path, last)))
            for round_ in range(1, last + 1):  # as if all of it had been read
                reader.lineage._parents[round_, record_of(path, round_)] = record_of(path, round_ - 1)
        return await agreed(reader, world.tip, await reader.stores(world.tip))

    assert asyncio.run(look()) == expected(paths)


async def test_before_the_first_anchor_there_is_none_and_a_stranger_s_is_none() -> None:
    world = await World.begin(leaders=NAMES[:3])
    reader = world.reader()
    assert await agreed(reader, world.tip, await reader.stores(world.tip)) is None
    await world.chain.commit(identity(ME), f"mem:{ME}", Anchor(8, hash32(8)))
    assert await agreed(reader, world.tip, await reader.stores(world.tip)) is None
