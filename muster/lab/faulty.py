"""Stores and chains that fail by script, and are real otherwise: the script says what, this file how.

The key of a request to the chain, which a fault's pattern is matched with, is: of `anchors` the round asked from; of
`block` the height; of `beacon` PURPOSE/ROUND; of `commit` `location`, or `anchor/ROUND` where it has one; else empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar, cast

from blake3 import blake3

from muster.lab.faults import Fault, Request, Script
from muster.protocol.chain.base import AnchorSeen, Chain, Snapshot
from muster.protocol.chain.commitments import CommitSpace
from muster.protocol.errors import ChainUnreachable, MusterError, ObjectMissing, StorageError
from muster.protocol.identity import Identity
from muster.protocol.storage import DEFAULT_DEADLINE, Buckets, ForwardingBuckets, ForwardingStore, ObjectInfo, Store
from muster.protocol.types import Anchor, Block, Origin

Height = Callable[[], int]
"""The height of the true chain now."""

T = TypeVar("T")

CHAIN = "chain"
"""What stands for the owner where a chain is asked."""


class _Call:
    """One request, from when it is made until it is answered."""

    def __init__(self, script: Script, height: Height, request: Request, failure: type[MusterError]) -> None:
        self._script = script
        self._height = height
        self._request = request
        self._failure = failure
        script.count(request)

    async def begin(self, deadline: float | None) -> float:
        """What befalls it before anything happens; the seconds left of the deadline (∞ without one)."""
        left = float("inf") if deadline is None else deadline
        fault = self._script.before(self._request, self._height())
        if fault is None:
            return left
        if fault.kind == "error":
            raise self._failed("it was refused")
        wait = fault.seconds if fault.kind == "slow" else float("inf")
        if wait < left:
            await asyncio.sleep(wait)
            return left - wait
        if deadline is None:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(left)
        raise self._failed(f"it was not answered within {left:g} s")

    def answered(self) -> Fault | None:
        """What befalls its answer: it has succeeded."""
        return self._script.after(self._request, self._height())

    def wrote(self) -> None:
        """Answer a write that happened."""
        if self.answered() is not None:
            raise self._failed("it happened, and its answer was lost")

    def read(self, data: bytes) -> bytes:
        """Answer with the bytes of a read, or what the script makes of them."""
        fault = self.answered()
        return data if fault is None else self.spoiled(fault, data)

    def spoiled(self, fault: Fault, data: bytes) -> bytes:
        """What a fault makes of the bytes of a read."""
        if fault.kind == "missing":
            raise ObjectMissing(f"there is no object {self._request.key} (scripted)")
        assert data, f"{self._request.key} is empty: there is nothing to spoil"
        middle = len(data) // 2
        if fault.kind == "truncated":
            return data[:middle]
        return data[:middle] + bytes((data[middle] ^ 1,)) + data[middle + 1 :]

    def _failed(self, how: str) -> MusterError:
        return self._failure(f"{self._request.operation} {self._request.key}: {how} (scripted)")


class FaultyStore(ForwardingStore):
    """One participant's view of one bucket."""

    def __init__(self, store: Store, script: Script, height: Height, who: str, owner: str) -> None:
        super().__init__(store)
        self._script = script
        self._height = height
        self._who = who
        self._owner = owner

    def _call(self, operation: str, key: str, start: int = 0) -> _Call:
        request = Request(self._who, self._owner, f"store.{operation}", key, start)
        return _Call(self._script, self._height, request, StorageError)

    async def _forward(self, operation: str, key: str, deadline: float, call: Callable[[float], Awaitable[T]]) -> T:
        """Make the call by script; an answer that says nothing, as that nothing is there, has no fault to show."""
        request = self._call(operation, key)
        answer = await call(await request.begin(deadline))
        match answer:
            case None if operation != "head":
                request.wrote()
            case True:
                request.wrote()
            case ObjectInfo() if request.answered():
                return cast(T, None)
            case [_, *_] if request.answered():
                return cast(T, [])
        return answer

    async def get(self, key: str, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Read, by script."""
        call = self._call("get", key)
        return call.read(await self._store.get(key, max_bytes=max_bytes, deadline=await call.begin(deadline)))

    async def get_range(self, key: str, start: int, length: int, *, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Read, by script."""
        call = self._call("get_range", key, start)
        return call.read(await self._store.get_range(key, start, length, deadline=await call.begin(deadline)))

    async def download(self, key: str, target: Path, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Read, by script; the digest is of what arrived."""
        call = self._call("download", key)
        left = await call.begin(deadline)
        digest = await self._store.download(key, target, max_bytes=max_bytes, deadline=left)
        fault = call.answered()
        if fault is None:
            return digest
        data = await asyncio.to_thread(target.read_bytes)
        await asyncio.to_thread(target.unlink)
        arrived = call.spoiled(fault, data)
        await asyncio.to_thread(target.write_bytes, arrived)
        return blake3(arrived).digest()


class FaultyBuckets(ForwardingBuckets):
    """One participant's view of all buckets; the owner of `mem:NAME` and `dir:NAME` is NAME."""

    def __init__(self, buckets: Buckets, script: Script, height: Height, who: str) -> None:
        def front(location: str, store: Store) -> Store:
            return FaultyStore(store, script, height, who, location.partition(":")[2])

        super().__init__(buckets, front)


class FaultyChain(Chain):
    """One participant's view of the chain."""

    def __init__(self, chain: Chain, script: Script, height: Height, who: str) -> None:
        self._chain = chain
        self.remembers = chain.remembers
        self._script = script
        self._height = height
        self._who = who

    async def _call(self, operation: str, key: str = "") -> _Call:
        request = Request(self._who, CHAIN, f"chain.{operation}", key)
        call = _Call(self._script, self._height, request, ChainUnreachable)
        await call.begin(None)
        return call

    async def origin(self) -> Origin:
        """Look, by script."""
        await self._call("origin")
        return await self._chain.origin()

    async def head(self) -> Block:
        """Look, by script."""
        await self._call("head")
        return await self._chain.head()

    async def next_block(self, after: int) -> Block:
        """Wait, by script."""
        await self._call("next_block")
        return await self._chain.next_block(after)

    async def news(self, after: int) -> Block:
        """Wait, by the script of `next_block`."""
        await self._call("next_block")
        return await self._chain.news(after)

    async def announce(self) -> None:
        """Tell: a hint that is lost is no fault."""
        await self._chain.announce()

    async def final(self) -> int:
        """Look, by script."""
        await self._call("final")
        return await self._chain.final()

    async def block(self, number: int) -> Block:
        """Look, by script."""
        await self._call("block", str(number))
        return await self._chain.block(number)

    async def beacon(self, purpose: str, round_: int, block: int) -> bytes:
        """Look, by script."""
        await self._call("beacon", f"{purpose}/{round_}")
        return await self._chain.beacon(purpose, round_, block)

    async def snapshot(self) -> Snapshot:
        """Look, by script."""
        await self._call("snapshot")
        return await self._chain.snapshot()

    async def anchors(self, round_: int) -> tuple[AnchorSeen, ...]:
        """Look, by script."""
        await self._call("anchors", str(round_))
        return await self._chain.anchors(round_)

    async def weights(self, hotkey: str) -> Mapping[int, int] | None:
        """Look, by script."""
        await self._call("weights", hotkey)
        return await self._chain.weights(hotkey)

    async def commit_space(self) -> CommitSpace | None:
        """Look, by script."""
        await self._call("commit_space")
        return await self._chain.commit_space()

    async def register(self, identity: Identity) -> int:
        """Write, by script."""
        call = await self._call("register")
        uid = await self._chain.register(identity)
        call.wrote()
        return uid

    async def commit(self, identity: Identity, location: str, anchor: Anchor | None = None) -> None:
        """Write, by script."""
        call = await self._call("commit", f"anchor/{anchor.round}" if anchor else "location")
        await self._chain.commit(identity, location, anchor)
        call.wrote()

    async def set_weights(self, identity: Identity, weights: Mapping[int, int]) -> None:
        """Write, by script."""
        call = await self._call("set_weights")
        await self._chain.set_weights(identity, weights)
        call.wrote()

    async def close(self) -> None:
        """Close what is behind."""
        await self._chain.close()
