"""A peer may commit another location at every block: what was opened where nobody is any more is let go of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from builders import SEED, identity
from leaks import Trend, census, resident

from muster.node.directory import Directory
from muster.node.drain import Drain, DrainedBuckets
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.storage import AllowList, MeteredBuckets
from muster.protocol.storage.network import NetworkBuckets

MOVER, STAYER = identity("alice"), identity("bob")
Record = Callable[[str, object], None]
"""Notes a figure in the report of the tests."""

BYTES_A_CHANGE = 2048
"""Of memory, over a thousand changes; it was 300 KB."""


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    """The address of a server that has every object, and keeps connections open as servers do."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=b"hello")

    app = web.Application()
    app.router.add_get("/{key:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


async def moved(changes: int, first: int) -> Trend:
    """What grows by the change, from a first one on; alice is somewhere else each time, bob stays."""
    chain = VirtualChain(ChainGenesis(seed=SEED, slots=3))
    async with served() as address:
        opened = NetworkBuckets(allow=AllowList.parse("127.0.0.1"))
        directory = Directory(chain, MeteredBuckets(DrainedBuckets(opened, Drain())))
        for one in (MOVER, STAYER):
            await chain.register(one)
        await chain.commit(STAYER, f"{address}/bob")
        known = await directory.store_of(STAYER.hotkey)
        trend = Trend()
        for change in range(changes):
            await chain.commit(MOVER, f"{address}/alice-{change}")
            stores = directory.stores(await directory.snapshot())
            for store in stores.values():
                assert await store.get("hello", max_bytes=5) == b"hello"
            assert stores[STAYER.public] is known, "who stays keeps its store, and its connections"
            await asyncio.sleep(0)
            if change >= first:
                trend.add(change, census() | {"bytes": resident()})
        await opened.close()
    return trend


def grows(trend: Trend, bound: float) -> dict[str, float]:
    return {name: slope for name, slope in trend.growing(bound).items() if name != "bytes"}


async def test_nothing_grows_by_the_change() -> None:
    assert grows(await moved(10, 4), 0.4) == {}


@pytest.mark.slow
async def test_a_thousand_changes_leave_nothing_behind(record_property: Record) -> None:
    trend = await moved(1000, 100)
    record_property("growth", trend.growing(0.001))
    assert grows(trend, 0.01) == {}
    assert trend.slopes()["bytes"] < BYTES_A_CHANGE


async def test_a_strangers_door_is_closed_behind_it() -> None:
    """There are as many ways out as buckets in use, however many there have been."""
    buckets, host = NetworkBuckets(), "https://93.184.216.34"
    kept = buckets.bucket(f"{host}/stays")
    for number in range(4):
        buckets.bucket(f"{host}/{number}")
        buckets.forget(f"{host}/{number}")
    assert buckets.bucket(f"{host}/stays") is kept
    assert buckets._relay is not None
    assert len(buckets._relay._doors) == 1
    await buckets.close()
