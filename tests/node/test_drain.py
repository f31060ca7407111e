"""Writes that are under way end, and none begins, once a process has been told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from muster.node.drain import WRITES, Drain, DrainedStore
from muster.protocol.storage import ForwardingStore
from muster.protocol.storage.memory import MemoryStore

T = TypeVar("T")
SHORT = 0.05
"""Seconds after which a test does not wait any longer for what cannot come."""


class Gated(ForwardingStore):
    """A store whose calls pass where `gate` is open; `begun` has those that came."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.gate = asyncio.Event()
        self.begun: asyncio.Queue[str] = asyncio.Queue()

    async def _forward(self, operation: str, key: str, deadline: float, call: Callable[[float], Awaitable[T]]) -> T:
        self.begun.put_nowait(operation)
        await self.gate.wait()
        return await super()._forward(operation, key, deadline, call)


async def test_what_is_under_way_ends_and_nothing_begins() -> None:
    drain, behind = Drain(), Gated()
    store = DrainedStore(behind, drain)
    first = asyncio.create_task(store.put("a", b"1"))
    await behind.begun.get()
    assert drain.under_way == ("storing a",)
    finish = asyncio.create_task(drain.finish(30.0))
    await asyncio.sleep(0)
    second = asyncio.create_task(store.put("b", b"2"))
    await asyncio.sleep(0)
    assert not finish.done()
    behind.gate.set()
    assert await finish == ()
    await first
    assert await behind.get("a", max_bytes=9) == b"1"
    assert await behind.head("b") is None
    assert not second.done(), "it waits for its end"
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_what_does_not_end_in_time_is_named() -> None:
    drain, behind = Drain(), Gated()
    puts = [asyncio.create_task(DrainedStore(behind, drain).put(key, b"")) for key in ("b", "a")]
    await behind.begun.get()
    await behind.begun.get()
    assert await drain.finish(SHORT) == ("storing a", "storing b")
    for put in puts:
        put.cancel()
    await asyncio.gather(*puts, return_exceptions=True)
    assert drain.under_way == ()


async def test_a_read_holds_nobody_up_and_a_write_that_fails_is_over() -> None:
    drain, behind = Drain(), Gated()
    read = asyncio.create_task(DrainedStore(behind, drain).head("a"))
    await behind.begun.get()
    assert await drain.finish(30.0) == ()
    read.cancel()
    drain = Drain()
    with pytest.raises(ValueError, match="broken"):
        async with drain.uncut("work"):
            raise ValueError("broken")
    assert await drain.finish(30.0) == ()


@pytest.mark.parametrize("operation", sorted(WRITES))
async def test_every_write_of_a_store_is_drained(operation: str, tmp_path: Path) -> None:
    drain, behind = Drain(), Gated()
    source = tmp_path / "source"
    source.write_bytes(b"x")
    what = source if operation == "upload" else b"x"
    write = asyncio.create_task(getattr(DrainedStore(behind, drain), operation)("a", what))
    await behind.begun.get()
    assert drain.under_way == ("storing a",)
    behind.gate.set()
    await write
    assert await behind.get("a", max_bytes=9) == b"x"
