"""A peer that has committed only a pointer to its location, as it behaves on every chain: one class for all of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from builders import run_spec

from muster.node.directory import Directory
from muster.node.hello import make_hello
from muster.protocol import paths, wire
from muster.protocol.chain.base import Chain
from muster.protocol.errors import ObjectMissing, StorageError
from muster.protocol.identity import Identity
from muster.protocol.storage import Buckets, Store
from muster.protocol.storage.pointer import committed_text
from muster.protocol.types import Anchor

RUN = run_spec().run_id()
KEY = paths.head(RUN, 0)
STRANGER = Identity.derive(3, "nobody")


@dataclass
class World:
    """A chain on which `me` is registered, and buckets whose locations are a scheme and a name."""

    chain: Chain
    me: Identity
    buckets: Buckets
    scheme: str = "mem"

    def at(self, name: str) -> str:
        """A location."""
        return f"{self.scheme}:{name}"

    def directory(self, run_id: bytes = RUN) -> Directory:
        """Somebody's way to everybody's buckets."""
        return Directory(self.chain, self.buckets, run_id)

    async def commit(self, whole: str, bootstrap: str, anchor: Anchor | None = None) -> None:
        """Commit a pointer."""
        await self.chain.commit(self.me, committed_text(self.at(whole), self.at(bootstrap)), anchor)

    async def say(self, whole: str, bootstrap: str, signer: Identity | None = None) -> None:
        """Put a hello that names a location at another one."""
        signer = signer or self.me
        hello = make_hello(RUN, signer.public, 0, ["miner"], self.at(whole))
        await self.buckets.bucket(self.at(bootstrap)).put(paths.hello(RUN), wire.encode_hello(hello, signer))

    async def store(self, directory: Directory | None = None) -> Store:
        """The bucket that the chain leads to."""
        found = await (directory or self.directory()).store_of(self.me.hotkey)
        assert found is not None
        return found


class PointedPeer:
    """Subclasses have a fixture `world`."""

    async def test_its_bucket_is_where_its_hello_says(self, world: World) -> None:
        await world.buckets.bucket(world.at("whole")).put(KEY, b"head")
        await world.say("whole", "front")
        await world.commit("whole", "front")
        store = await world.store()
        assert await store.get(KEY, max_bytes=10) == b"head"
        with pytest.raises(ObjectMissing):
            await store.get(paths.key(RUN, 0), max_bytes=10)

    async def test_without_a_hello_nothing_is_known_of_its_objects(self, world: World) -> None:
        await world.buckets.bucket(world.at("late")).put(KEY, b"head")
        await world.commit("late", "empty")
        store = await world.store()
        with pytest.raises(StorageError, match="there is no hello") as caught:
            await store.get(KEY, max_bytes=10)
        assert not isinstance(caught.value, ObjectMissing), "that would be a word about the object"
        await world.say("late", "empty")
        assert await store.get(KEY, max_bytes=10) == b"head"

    @pytest.mark.parametrize("fault", ["another's", "an earlier one", "a pointer", "no object", "another run's"])
    async def test_no_other_hello_leads_anywhere(self, world: World, fault: str) -> None:
        await world.commit("right", "faulty")
        match fault:
            case "another's":
                await world.say("right", "faulty", STRANGER)
            case "an earlier one":
                await world.say("earlier", "faulty")
            case "a pointer":
                chained = committed_text(world.at("right"), world.at("faulty"))
                await world.say(chained.removeprefix(f"{world.scheme}:"), "faulty")
            case "no object":
                await world.buckets.bucket(world.at("faulty")).put(paths.hello(RUN), b"x" * 200)
            case _:
                await world.say("right", "faulty")
        store = await world.store(world.directory(bytes(32)) if fault == "another run's" else None)
        with pytest.raises(StorageError):
            await store.get(KEY, max_bytes=10)

    async def test_who_moves_is_followed_with_the_commitment(self, world: World) -> None:
        directory = world.directory()
        for name in ("one", "two"):
            await world.buckets.bucket(world.at(name)).put(KEY, name.encode())
            await world.say(name, "door")
            await world.commit(name, "door")
            store = await world.store(directory)
            assert await store.get(KEY, max_bytes=10) == name.encode()
            assert await world.store(directory) is store, "the same one for as long as that stands"
            await world.say("three", "door")
            assert await store.get(KEY, max_bytes=10) == name.encode(), "what was found holds"

    async def test_an_anchor_goes_with_a_pointer_as_with_a_location(self, world: World) -> None:
        anchor = Anchor(900, bytes(32))
        await world.commit("a", "door", anchor)
        await world.commit("b", "door")
        peer = (await world.chain.snapshot()).by_hotkey()[world.me.hotkey]
        assert peer.location == committed_text(world.at("b"), world.at("door"))
        mine = [seen.anchor for seen in await world.chain.anchors(900) if seen.hotkey == world.me.hotkey]
        assert mine[-1] == anchor

    async def test_of_many_requests_one_reads_the_hello(self, world: World) -> None:
        await world.say("busy", "door")
        await world.commit("busy", "door")
        store = await world.store()
        await asyncio.gather(*(store.list() for _ in range(8)))
        await world.buckets.bucket(world.at("door")).delete(paths.hello(RUN))
        assert await store.list() == []
