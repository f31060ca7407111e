"""Amendments come from where people put them into the buckets of aggregators, and nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from builders import LEADER, OWNER, identity
from closed_rounds import open_tip

from muster.node.amendments import PERIOD, find_waiting, places, watch_amendments
from muster.node.context import Context
from muster.node.telemetry.journal import Journal
from muster.protocol import paths, wire
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.sqlite import SqliteChain
from muster.protocol.errors import ObjectMissing
from muster.protocol.ledger import RESCUE, Tip
from muster.protocol.storage import Store
from muster.protocol.storage.locations import DirectoryBuckets, MemoryBuckets
from muster.protocol.storage.memory import MemoryStore

VALIDATORS = (LEADER, "second", "third")
TIP = open_tip(clock={"amend_delay": 2}, genesis={"leaders": tuple(identity(name).hotkey for name in VALIDATORS)})
RUN = TIP.run_id


def amendment(number: int = 1, value: int = 32, *signers: str, path: str = "sparse.k", round_: int = 9) -> bytes:
    first, *others = signers or (OWNER,)
    data = wire.encode_amendment(identity(first), RUN, number, round_, path, str(value))
    for name in others:
        data = wire.cosign_amendment(identity(name), RUN, data)
    return data


async def holding(*objects: bytes, at: int = 1) -> MemoryStore:
    """A place with amendments of the numbers from `at` on."""
    store = MemoryStore()
    for number, data in enumerate(objects, start=at):
        await store.put(paths.amendment(RUN, number), data)
    return store


async def test_they_are_found_by_number_at_any_of_the_places() -> None:
    first, second, third = amendment(1), amendment(2, 16), amendment(3, 8)
    where = [await holding(second, at=2), MemoryStore(), await holding(first), await holding(third, at=3)]
    waiting = await find_waiting(TIP, where)
    assert waiting.objects == (first, second, third)
    assert waiting.history.at(9).sparse.k == 8
    assert not waiting.problems
    after = replace(TIP, history=TIP.history.adopt(first, 0))
    assert (await find_waiting(after, where)).objects == (second, third)


async def test_what_no_leader_would_record_hides_nothing() -> None:
    good, stranger = amendment(), amendment(1, 16, "mallory")
    where = [
        await holding(stranger),
        await holding(b"rubbish"),
        await holding(bytes(wire.MAX_AMENDMENT_BYTES + 1)),
        await holding(amendment(path="model.hidden")),
        await holding(amendment(round_=1)),
        await holding(amendment(2)),
        await holding(amendment(1, 16, "second")),
        await holding(good),
    ]
    assert (await find_waiting(TIP, where)).objects == (good,)
    waiting = await find_waiting(TIP, where[:-1])
    assert waiting.objects == ()
    said = "\n".join(waiting.problems)
    for words in (
        "more than half of its validators",
        "not readable",
        "cannot be amended",
        "too soon",
        "where number 1",
    ):
        assert words in said


async def test_a_majority_of_the_list_is_brought_to_leaders_with_all_its_signatures() -> None:
    two, three = amendment(1, 32, LEADER, "third"), amendment(1, 32, LEADER, "third", "second")
    assert (await find_waiting(TIP, [await holding(two)])).objects == (two,)
    assert (await find_waiting(TIP, [await holding(two), await holding(three)])).objects == (three,)
    silent = replace(TIP, silenced=frozenset((identity("third").public,)))
    assert (await find_waiting(silent, [await holding(two)])).objects == ()
    assert (await find_waiting(silent, [await holding(three)])).objects == (three,)


async def test_a_look_takes_no_more_than_a_record_does() -> None:
    many = [amendment(number, 1 + number) for number in range(1, wire.MAX_AMENDMENTS + 3)]
    assert (await find_waiting(TIP, [await holding(*many)])).objects == tuple(many[: wire.MAX_AMENDMENTS])


@pytest.fixture
async def context(tmp_path: Path) -> Context:
    """The leader's, in this process; two of three validators and the owner have a bucket."""
    chain = SqliteChain.create(tmp_path / "chain.sqlite", ChainGenesis(seed=0), block_seconds=0.01)
    for name in (LEADER, "second", OWNER, "miner"):
        await chain.register(identity(name))
        await chain.commit(identity(name), f"mem:{name}")
    return Context(identity(LEADER), chain, MemoryBuckets(), f"mem:{LEADER}", Journal(tmp_path / "leader.jsonl"))


async def held(context: Context, number: int) -> bytes | None:
    """What the aggregator's own bucket has under a number."""
    try:
        return await context.bucket.get(paths.amendment(RUN, number), max_bytes=wire.MAX_AMENDMENT_BYTES)
    except ObjectMissing:
        return None


async def watch(
    context: Context, published: Store, done: Callable[[], Awaitable[bool]], tip: Callable[[], Tip] = lambda: TIP
) -> None:
    """Watch until something holds."""
    watching = asyncio.create_task(watch_amendments(context, tip, published))
    async with asyncio.timeout(20):
        while not await done():
            await context.chain.next_block((await context.chain.head()).number)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_leaders_look_at_the_run_the_owner_and_each_other_and_nowhere_else(context: Context) -> None:
    published = MemoryStore()
    where = await places(context.directory, TIP, published)
    named = [context.buckets.bucket(f"mem:{name}") for name in (OWNER, LEADER, "second")]
    assert list(where) == [published, *named]
    assert list(await places(context.directory, TIP, None)) == named


@pytest.mark.parametrize("place", ["published", OWNER, "second"])
async def test_an_aggregator_copies_what_waits_into_its_bucket(context: Context, place: str) -> None:
    first, second, published = amendment(1), amendment(2, 16), MemoryStore()
    where = published if place == "published" else context.buckets.bucket(f"mem:{place}")
    await context.bucket.put(paths.amendment(RUN, 1), b"what was there")
    for number, data in enumerate((first, second, amendment(3, 8, "mallory")), start=1):
        await where.put(paths.amendment(RUN, number), data)

    async def copied() -> bool:
        return await held(context, 2) == second

    await watch(context, published, copied)
    assert [await held(context, number) for number in (1, 2, 3)] == [first, second, None]


async def test_it_goes_on_with_the_ledger_and_says_once_what_is_wrong(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, published = amendment(1), amendment(2, 16), await holding(amendment(1, 16, "mallory"))
    tips = [TIP]

    async def third_look() -> bool:
        if len(tips) == 1 and "more than half of its validators" in caplog.text:
            tips.append(replace(TIP, history=TIP.history.adopt(first, 0)))
            await published.put(paths.amendment(RUN, 2), second)
        return await held(context, 2) == second

    await watch(context, published, third_look, lambda: tips[-1])
    assert caplog.text.count("more than half of its validators") == 1
    assert await held(context, 1) is None


async def test_a_place_that_fails_or_a_bucket_that_refuses_stops_nobody(
    context: Context, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    published = await holding(amendment())
    (tmp_path / "buckets").write_text("a file where the folder should be")
    refusing = replace(context, buckets=DirectoryBuckets(tmp_path / "buckets"), location="dir:leader")

    async def said() -> bool:
        return caplog.text.count("cannot be kept now") > 1

    await watch(refusing, published, said)


@pytest.mark.parametrize(("first", "kept"), [(LEADER, True), ("second", False)])
async def test_who_may_rescue_the_run_shows_why_once_it_is_time_and_nobody_else_does(
    context: Context, first: str, kept: bool
) -> None:
    value = f'["{identity(first).hotkey}"]'
    begins, data = 40, wire.encode_amendment(identity(OWNER), RUN, 1, 1, "genesis.leaders", value)
    late = replace(TIP, opening=replace(TIP.opening, anchor_by=begins - TIP.spec.clock.silent))
    assert late.turn_begins(RESCUE) == begins
    seen: dict[int, bool] = {}

    async def looked_long_enough() -> bool:
        height = (await context.chain.head()).number
        seen[height] = await held(context, 1) == data
        return seen[height] if kept else height > begins + 5 * PERIOD

    await watch(context, await holding(data), looked_long_enough, lambda: late)
    assert [height for height, there in seen.items() if there and height < begins] == []
    assert any(seen.values()) is kept
