"""What a participant moved: bytes up and down, counted where they pass, whatever store is behind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from muster.protocol.storage.base import DEFAULT_DEADLINE, Buckets, Store
from muster.protocol.storage.forwarding import ForwardingBuckets, ForwardingStore


@dataclass(slots=True)
class Meter:
    """Bytes of object bodies since the process began."""

    up: int = 0
    down: int = 0


class MeteredStore(ForwardingStore):
    """A store that counts on behalf of a meter; only calls that move a body are counted."""

    def __init__(self, store: Store, meter: Meter) -> None:
        super().__init__(store)
        self._meter = meter

    async def put(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Count and store."""
        await super().put(key, data, deadline=deadline)
        self._meter.up += len(data)

    async def put_if_absent(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> bool:
        """Count what was stored."""
        stored = await super().put_if_absent(key, data, deadline=deadline)
        self._meter.up += len(data) if stored else 0
        return stored

    async def get(self, key: str, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Count what was read."""
        data = await super().get(key, max_bytes=max_bytes, deadline=deadline)
        self._meter.down += len(data)
        return data

    async def get_range(self, key: str, start: int, length: int, *, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Count what was read."""
        data = await super().get_range(key, start, length, deadline=deadline)
        self._meter.down += len(data)
        return data

    async def download(self, key: str, target: Path, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Count what arrived."""
        digest = await super().download(key, target, max_bytes=max_bytes, deadline=deadline)
        self._meter.down += await _size(target)
        return digest

    async def upload(self, key: str, source: Path, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Count and store."""
        await super().upload(key, source, deadline=deadline)
        self._meter.up += await _size(source)


async def _size(path: Path) -> int:
    return (await asyncio.to_thread(path.stat)).st_size


class MeteredBuckets(ForwardingBuckets):
    """Buckets whose traffic is counted together."""

    def __init__(self, buckets: Buckets) -> None:
        self.meter = Meter()
        super().__init__(buckets, lambda _location, store: MeteredStore(store, self.meter))
