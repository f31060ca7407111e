"""Writes that must not be cut while they are under way: when a process is told to stop, they end and none begins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from muster.protocol.storage import Buckets, ForwardingBuckets, ForwardingStore, Store

T = TypeVar("T")

WRITES = frozenset({"put", "put_if_absent", "upload"})
"""Methods of a store that bring bytes up."""


class Drain:
    """The writes of one process that are under way; `stopping` is set once it has been told to stop."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self._under_way: dict[object, str] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def under_way(self) -> tuple[str, ...]:
        """What is."""
        return tuple(sorted(self._under_way.values()))

    @asynccontextmanager
    async def uncut(self, what: str) -> AsyncIterator[None]:
        """Within, the process does not stop; entered by nobody once it has been told to, who then waits for his end."""
        if self.stopping.is_set():
            await asyncio.Event().wait()
        token = object()
        self._under_way[token] = what
        self._idle.clear()
        try:
            yield
        finally:
            del self._under_way[token]
            if not self._under_way:
                self._idle.set()

    async def finish(self, seconds: float) -> tuple[str, ...]:
        """Let nothing begin, and wait for what is under way so long; returns what still is."""
        self.stopping.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        return self.under_way


class DrainedStore(ForwardingStore):
    """A store whose writes are not cut."""

    def __init__(self, store: Store, drain: Drain) -> None:
        super().__init__(store)
        self._drain = drain

    async def _forward(self, operation: str, key: str, deadline: float, call: Callable[[float], Awaitable[T]]) -> T:
        if operation not in WRITES:
            return await super()._forward(operation, key, deadline, call)
        async with self._drain.uncut(f"storing {key}"):
            return await super()._forward(operation, key, deadline, call)


class DrainedBuckets(ForwardingBuckets):
    """Buckets whose writes are not cut."""

    def __init__(self, buckets: Buckets, drain: Drain) -> None:
        super().__init__(buckets, lambda _location, store: DrainedStore(store, drain))
