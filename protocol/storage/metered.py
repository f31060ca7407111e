"""What a participant moved: bytes up and down, counted where they pass, whatever store is behind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from muster.protocol.storage.base import DEFAULT_DEADLINE, Buckets, ObjectInfo, Store


@dataclass(slots=True)
class Meter:
    """Bytes of object bodies since the process began."""

    up: int = 0
    down: int = 0


class MeteredStore(Store):
    """A store that counts on behalf of a meter."""

    def __init__(self, store: Store, meter: Meter) -> None:
        self._store = store
        self._meter = meter

    async def put(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Count and store."""
        await self._store.put(key, data, deadline=deadline)
        self._meter.up += len(data)

    async def put_if_absent(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> bool:
        """Count what was stored."""
        stored = await self._store.put_if_absent(key, data, deadline=deadline)
        self._meter.up += len(data) if stored else 0
        return stored

    async def get(self, key: str, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Count what was read."""
        data = await self._store.get(key, max_bytes=max_bytes, deadline=deadline)
        self._meter.down += len(data)
        return data

    async def get_range(self, key: str, start: int, length: int, *, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Count what was read."""
        data = await self._store.get_range(key, start, length, deadline=deadline)
        self._meter.down += len(data)
        return data

    async def download(self, key: str, target: Path, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Count what arrived."""
        digest = await self._store.download(key, target, max_bytes=max_bytes, deadline=deadline)
        self._meter.down += await _size(target)
        return digest

    async def upload(self, key: str, source: Path, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Count and store."""
        await self._store.upload(key, source, deadline=deadline)
        self._meter.up += await _size(source)

    async def head(self, key: str, *, deadline: float = DEFAULT_DEADLINE) -> ObjectInfo | None:
        """No body, nothing to count."""
        return await self._store.head(key, deadline=deadline)

    async def list(
        self, prefix: str = "", *, limit: int = 10_000, deadline: float = DEFAULT_DEADLINE
    ) -> list[ObjectInfo]:
        """No body, nothing to count."""
        return await self._store.list(prefix, limit=limit, deadline=deadline)

    async def delete(self, key: str, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """No body, nothing to count."""
        await self._store.delete(key, deadline=deadline)

    async def close(self) -> None:
        """Close what is behind."""
        await self._store.close()


async def _size(path: Path) -> int:
    return (await asyncio.to_thread(path.stat)).st_size


class MeteredBuckets(Buckets):
    """Buckets whose traffic is counted together."""

    def __init__(self, buckets: Buckets) -> None:
        super().__init__()
        self.meter = Meter()
        self._behind = buckets

    def _make(self, location: str) -> Store:
        return MeteredStore(self._behind.bucket(location), self.meter)

    async def close(self) -> None:
        """Close what is behind."""
        await self._behind.close()
