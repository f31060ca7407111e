"""Buckets that live in this process, so that the simulator and unit tests need neither disk nor network."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from muster.protocol.errors import ObjectMissing, ObjectTooLarge, StorageError
from muster.protocol.storage.base import DEFAULT_DEADLINE, ObjectInfo, Store, check_key
from muster.protocol.storage.files import IncomingFile


@dataclass(frozen=True, slots=True)
class _Object:
    data: bytes
    modified: float


class MemoryStore(Store):
    """One bucket in a dictionary. Nothing in it waits, so only a deadline of zero or less can expire.

    Files are read and written in place, on the loop: in a simulation no time may pass meanwhile.
    """

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        """Make an empty bucket; `now` (unix seconds) stamps `ObjectInfo.modified`."""
        self._objects: dict[str, _Object] = {}
        self._now = now

    async def put(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Store `data`; raises `StorageError` for an illegal key or an expired deadline."""
        _check(key, deadline)
        self._objects[key] = _Object(data, self._now())

    async def put_if_absent(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> bool:
        """Store `data` unless `key` exists; True if this call stored it."""
        _check(key, deadline)
        if key in self._objects:
            return False
        self._objects[key] = _Object(data, self._now())
        return True

    async def get(self, key: str, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """The whole object; raises `ObjectMissing` or, over `max_bytes`, `ObjectTooLarge`."""
        data = self._object(key, deadline).data
        if len(data) > max_bytes:
            raise ObjectTooLarge(f"{key} holds {len(data)} bytes, more than the {max_bytes} allowed")
        return data

    async def get_range(self, key: str, start: int, length: int, *, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Bytes [start, start + length) as far as the object goes; raises `ObjectMissing`.

        Raises:
            ValueError: `start` or `length` is negative.
        """
        if start < 0 or length < 0:
            raise ValueError(f"a range starts at {start} and is {length} long; neither may be negative")
        return self._object(key, deadline).data[start : start + length]

    async def download(self, key: str, target: Path, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Write the object to `target`; its BLAKE3 digest."""
        data = await self.get(key, max_bytes=max_bytes, deadline=deadline)
        with IncomingFile(target) as file:
            file.write(data)
            return file.place()

    async def upload(self, key: str, source: Path, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Store the bytes of `source`."""
        _check(key, deadline)
        try:
            data = source.read_bytes()  # noqa: ASYNC240  # see the class
        except OSError as error:
            raise StorageError(f"cannot store {key}: {source} cannot be read: {error.strerror}") from error
        await self.put(key, data, deadline=deadline)

    async def head(self, key: str, *, deadline: float = DEFAULT_DEADLINE) -> ObjectInfo | None:
        """Size and time of one object, or None."""
        _check(key, deadline)
        found = self._objects.get(key)
        return ObjectInfo(key, len(found.data), found.modified) if found else None

    async def list(
        self, prefix: str = "", *, limit: int = 10_000, deadline: float = DEFAULT_DEADLINE
    ) -> list[ObjectInfo]:
        """Objects whose key starts with `prefix`, in ascending key order, at most `limit`."""
        _check_deadline(deadline)
        keys = sorted(key for key in self._objects if key.startswith(prefix))
        return [
            ObjectInfo(key, len(self._objects[key].data), self._objects[key].modified) for key in keys[: max(limit, 0)]
        ]

    async def delete(self, key: str, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Remove an object if it is there."""
        _check(key, deadline)
        self._objects.pop(key, None)

    def _object(self, key: str, deadline: float) -> _Object:
        _check(key, deadline)
        try:
            return self._objects[key]
        except KeyError:
            raise ObjectMissing(f"there is no object {key}") from None


def _check(key: str, deadline: float) -> None:
    check_key(key)
    _check_deadline(deadline)


def _check_deadline(deadline: float) -> None:
    # Callers pass what is left of a budget; a store that waits fails then, and so must one that does not.
    if deadline <= 0:
        raise StorageError("the deadline had passed before the request began")
