"""Peers behind a pointer, on the chains and buckets that need no set-up; and one whose bootstrap hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from builders import identity
from pointed_peer import KEY, PointedPeer, World

from muster.protocol.chain.base import Chain
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.sqlite import SqliteChain
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.errors import StorageError
from muster.protocol.storage import ForwardingStore, Store
from muster.protocol.storage.locations import DirectoryBuckets, MemoryBuckets

SHORT = 0.05
"""Seconds after which a test does not wait any longer for what cannot come."""


@pytest.fixture(params=["file", "memory"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """alice, on a chain in a file and with folders for buckets, or all of it in memory."""
    me, genesis = identity("alice"), ChainGenesis(seed=1)
    found: World
    if request.param == "file":
        chain: Chain = SqliteChain.create(tmp_path / "chain.sqlite", genesis, block_seconds=0.05)
        found = World(chain, me, DirectoryBuckets(tmp_path / "buckets"), "dir")
    else:
        found = World(VirtualChain(genesis), me, MemoryBuckets())
    await found.chain.register(me)
    yield found
    await found.chain.close()


class TestLocal(PointedPeer):
    """Of a local run."""


class Hanging(ForwardingStore):
    """Does not answer."""

    async def _forward(self, operation: str, key: str, deadline: float, call: object) -> object:  # type: ignore[override]
        async with asyncio.timeout(deadline):
            await asyncio.Event().wait()
        return None


class SomeHang(MemoryBuckets):
    """Whose name says so."""

    def _make(self, location: str) -> Store:
        store = super()._make(location)
        return Hanging(store) if location == "mem:hangs" else store


async def test_a_bootstrap_that_hangs_is_in_nobodys_way() -> None:
    me, bob = identity("alice"), identity("bob")
    world = World(VirtualChain(ChainGenesis(seed=1)), me, SomeHang())
    for one in (me, bob):
        await world.chain.register(one)
    await world.commit("whole", "hangs")
    await world.chain.commit(bob, "mem:bob")
    directory = world.directory()
    stores = directory.stores(await directory.snapshot())
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(_refused(stores[me.public]))
        await stores[bob.public].put(KEY, b"head")
        assert await stores[bob.public].get(KEY, max_bytes=10) == b"head"
        assert not waiting.done()


async def _refused(store: Store) -> None:
    """All requests end by their own deadline, however many wait for the same hello."""
    results = await asyncio.gather(
        *(store.get(KEY, max_bytes=10, deadline=SHORT) for _ in range(4)), return_exceptions=True
    )
    assert all(isinstance(result, StorageError) for result in results), results
