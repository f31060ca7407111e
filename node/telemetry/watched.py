"""Stores that tell when they fail, so that a bucket which is down shows before a round is lost to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from muster.protocol.errors import ObjectMissing, ObjectTooLarge, StorageError
from muster.protocol.storage import DEFAULT_DEADLINE, Buckets, ObjectInfo, Store


class WatchedStore(Store):
    """A store whose failures are told. An object that is not there, or is too large, is an answer and no failure."""

    def __init__(self, store: Store, failed: Callable[[], None]) -> None:
        self._store = store
        self._failed = failed

    @contextmanager
    def _watch(self) -> Iterator[None]:
        try:
            yield
        except (ObjectMissing, ObjectTooLarge):
            raise
        except StorageError:
            self._failed()
            raise

    async def put(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Store, watched."""
        with self._watch():
            await self._store.put(key, data, deadline=deadline)

    async def put_if_absent(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> bool:
        """Store, watched."""
        with self._watch():
            return await self._store.put_if_absent(key, data, deadline=deadline)

    async def get(self, key: str, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Read, watched."""
        with self._watch():
            return await self._store.get(key, max_bytes=max_bytes, deadline=deadline)

    async def get_range(self, key: str, start: int, length: int, *, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Read, watched."""
        with self._watch():
            return await self._store.get_range(key, start, length, deadline=deadline)

    async def download(self, key: str, target: Path, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Read, watched."""
        with self._watch():
            return await self._store.download(key, target, max_bytes=max_bytes, deadline=deadline)

    async def upload(self, key: str, source: Path, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Store, watched."""
        with self._watch():
            await self._store.upload(key, source, deadline=deadline)

    async def head(self, key: str, *, deadline: float = DEFAULT_DEADLINE) -> ObjectInfo | None:
        """Look, watched."""
        with self._watch():
            return await self._store.head(key, deadline=deadline)

    async def list(
        self, prefix: str = "", *, limit: int = 10_000, deadline: float = DEFAULT_DEADLINE
    ) -> list[ObjectInfo]:
        """Look, watched."""
        with self._watch():
            return await self._store.list(prefix, limit=limit, deadline=deadline)

    async def delete(self, key: str, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Remove, watched."""
        with self._watch():
            await self._store.delete(key, deadline=deadline)

    async def close(self) -> None:
        """Close what is behind."""
        await self._store.close()


class WatchedBuckets(Buckets):
    """Buckets whose failures are told in one place."""

    def __init__(self, buckets: Buckets, failed: Callable[[], None]) -> None:
        super().__init__()
        self._behind = buckets
        self._failed = failed

    def _make(self, location: str) -> Store:
        return WatchedStore(self._behind.bucket(location), self._failed)

    async def close(self) -> None:
        """Close what is behind."""
        await self._behind.close()
