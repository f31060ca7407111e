"""From a hotkey to its bucket: who has none, whatever the reason, is one and the same to everybody."""

from __future__ import annotations

import logging

import pytest
from builders import SEED, identity

from muster.lab.faults import Fault, Script
from muster.lab.faulty import FaultyChain
from muster.node.directory import Directory
from muster.protocol.chain.base import Chain
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.errors import ChainUnreachable
from muster.protocol.storage.locations import MemoryBuckets

ALICE, BOB, CAROL = (identity(name) for name in ("alice", "bob", "carol"))


async def world(alice: str | None = "mem:alice") -> tuple[VirtualChain, MemoryBuckets, Directory]:
    """alice and bob registered; alice with a location (or without), bob with none."""
    chain, buckets = VirtualChain(ChainGenesis(seed=SEED, slots=2, immunity=0)), MemoryBuckets()
    for one in (ALICE, BOB):
        await chain.register(one)
    if alice is not None:
        await chain.commit(ALICE, alice)
    return chain, buckets, Directory(chain, buckets)


async def test_a_committed_location_is_its_bucket() -> None:
    _, buckets, directory = await world()
    assert await directory.store_of(ALICE.hotkey) is buckets.bucket("mem:alice")
    assert directory.stores(await directory.snapshot()) == {ALICE.public: buckets.bucket("mem:alice")}


@pytest.mark.parametrize("location", [None, "ftp://host/bucket", "mem:../up", "dir:alice", "mem:", "x" * 512])
async def test_who_has_no_place_that_can_be_used_has_no_store(location: str | None) -> None:
    _, _, directory = await world(location)
    assert await directory.store_of(ALICE.hotkey) is None
    assert directory.stores(await directory.snapshot()) == {}


async def test_who_is_not_registered_has_no_store() -> None:
    chain, _, directory = await world()
    assert await directory.store_of(CAROL.hotkey) is None
    chain.advance()
    assert await chain.register(CAROL) == 0, "alice has lost her slot to carol"
    assert await directory.store_of(ALICE.hotkey) is None


async def test_a_place_that_changes_is_followed_at_once() -> None:
    chain, buckets, directory = await world("ftp://host/bucket")
    assert await directory.store_of(ALICE.hotkey) is None
    for location in ("mem:one", "mem:two"):
        await chain.commit(ALICE, location)
        assert await directory.store_of(ALICE.hotkey) is buckets.bucket(location)


async def test_one_bad_place_keeps_nobody_else_out() -> None:
    chain, buckets, directory = await world("ftp://host/bucket")
    await chain.commit(BOB, "mem:bob")
    assert directory.stores(await directory.snapshot()) == {BOB.public: buckets.bucket("mem:bob")}


async def test_it_is_complained_about_once(caplog: pytest.LogCaptureFixture) -> None:
    """For as long as it is the same; and what is remembered is one location a hotkey, however many it commits."""
    chain, _, directory = await world()
    with caplog.at_level(logging.WARNING):
        for number in range(300):
            await chain.commit(ALICE, f"ftp://host/{number}")
            for _ in range(3):
                directory.stores(await directory.snapshot())
    assert [record.getMessage().count(ALICE.hotkey) for record in caplog.records] == [1] * 300
    assert len(directory._complained) == 1


async def test_a_chain_that_does_not_say_is_not_a_peer_without_a_place() -> None:
    chain, buckets, _ = await world()
    silent: Chain = FaultyChain(chain, Script([Fault("error", "chain.snapshot", count=2)]), lambda: 0, "me")
    directory = Directory(silent, buckets)
    for call in (directory.snapshot, lambda: directory.store_of(ALICE.hotkey)):
        with pytest.raises(ChainUnreachable):
            await call()
    assert await directory.store_of(ALICE.hotkey) is not None
