"""Stores in front of others (counted, watched, scripted): every call goes one way, so each says only what it adds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from muster.protocol.storage.base import DEFAULT_DEADLINE, Buckets, ObjectInfo, Store

T = TypeVar("T")


class ForwardingStore(Store):
    """A store that hands every call to another one, through `_forward`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def _forward(
        self,
        operation: str,  # noqa: ARG002 - for who overrides this
        key: str,  # noqa: ARG002
        deadline: float,
        call: Callable[[float], Awaitable[T]],
    ) -> T:
        """Make one call; what a store in front of others does to all its calls, it does here.

        `operation` is the method's name, `key` its key (of `list` the prefix); `call` takes the seconds it may last.
        """
        return await call(deadline)

    async def put(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Store what is behind."""
        await self._forward("put", key, deadline, lambda left: self._store.put(key, data, deadline=left))

    async def put_if_absent(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> bool:
        """Store behind, unless it is there."""
        return await self._forward(
            "put_if_absent", key, deadline, lambda left: self._store.put_if_absent(key, data, deadline=left)
        )

    async def get(self, key: str, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Read what is behind."""
        return await self._forward(
            "get", key, deadline, lambda left: self._store.get(key, max_bytes=max_bytes, deadline=left)
        )

    async def get_range(self, key: str, start: int, length: int, *, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Read a part of what is behind."""
        return await self._forward(
            "get_range", key, deadline, lambda left: self._store.get_range(key, start, length, deadline=left)
        )

    async def download(self, key: str, target: Path, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Bring what is behind."""
        return await self._forward(
            "download",
            key,
            deadline,
            lambda left: self._store.download(key, target, max_bytes=max_bytes, deadline=left),
        )

    async def upload(self, key: str, source: Path, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Store a file behind."""
        await self._forward("upload", key, deadline, lambda left: self._store.upload(key, source, deadline=left))

    async def head(self, key: str, *, deadline: float = DEFAULT_DEADLINE) -> ObjectInfo | None:
        """Look at what is behind."""
        return await self._forward("head", key, deadline, lambda left: self._store.head(key, deadline=left))

    async def list(
        self, prefix: str = "", *, limit: int = 10_000, deadline: float = DEFAULT_DEADLINE
    ) -> list[ObjectInfo]:
        """Look at what is behind."""
        return await self._forward(
            "list", prefix, deadline, lambda left: self._store.list(prefix, limit=limit, deadline=left)
        )

    async def delete(self, key: str, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Remove what is behind."""
        await self._forward("delete", key, deadline, lambda left: self._store.delete(key, deadline=left))

    async def close(self) -> None:
        """Close what is behind."""
        await self._store.close()


class ForwardingBuckets(Buckets):
    """Buckets in front of others: each of them is what `front` makes of the location and the bucket behind."""

    def __init__(self, buckets: Buckets, front: Callable[[str, Store], Store]) -> None:
        super().__init__()
        self._behind = buckets
        self._front = front

    def _make(self, location: str) -> Store:
        return self._front(location, self._behind.bucket(location))

    def forget(self, location: str) -> None:
        """Forget it here and behind."""
        super().forget(location)
        self._behind.forget(location)

    async def close(self) -> None:
        """Close what is behind."""
        await self._behind.close()
