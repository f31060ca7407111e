"""What every object store can do, and no more: the interface the rest of Muster is written against.

A store holds one *bucket*: a flat map from keys (`a/b/c`, see `check_key`) to immutable-looking bytes.
Its owner writes it, everybody may read it. Every call takes a deadline; every read takes a byte cap, because
what a bucket holds is whatever its owner put there.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from muster.protocol.errors import StorageError

DEFAULT_DEADLINE = 30.0
"""Seconds a small request may take before it counts as failed."""

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MAX_KEY = 512


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store says of one object. `modified` (unix seconds) is diagnostic and decides nothing."""

    key: str
    size: int
    modified: float


def check_key(key: str) -> str:
    """Return `key` if it is a legal object key: `/`-separated segments of [A-Za-z0-9._-], none hidden.

    Raises:
        StorageError: anything else (`..`, empty segments, absolute paths, over 512 characters).
    """
    if len(key) > MAX_KEY or not all(_SEGMENT.fullmatch(part) for part in key.split("/")):
        raise StorageError(f"{key!r} is not a legal object key")
    return key


def is_key(text: str) -> bool:
    """Whether `text` is a legal object key."""
    try:
        check_key(text)
    except StorageError:
        return False
    return True


class Store(ABC):
    """One bucket. Implementations are safe to use from many tasks and, where shared, many processes."""

    @abstractmethod
    async def put(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Store `data` under `key`, replacing what was there; a reader sees the old bytes or the new ones.

        Raises:
            StorageError: refused, failed, or not done within `deadline` seconds.
        """

    @abstractmethod
    async def put_if_absent(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> bool:
        """Store `data` unless `key` exists; of any number of racing writers exactly one gets True."""

    @abstractmethod
    async def get(self, key: str, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """The whole object.

        Raises:
            ObjectMissing: no such key.
            ObjectTooLarge: it holds more than `max_bytes`; nothing beyond the cap is read.
        """

    @abstractmethod
    async def get_range(self, key: str, start: int, length: int, *, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """`length` bytes from `start`, fewer where the object ends sooner, none past its end.

        Raises:
            ObjectMissing: no such key.
        """

    @abstractmethod
    async def download(self, key: str, target: Path, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Bring the whole object to the file `target` and return its 32-byte BLAKE3 digest.

        The file appears (or is replaced) in one step when all bytes are there; memory stays at a few MiB
        whatever the object's size. The folder of `target` must exist.

        Raises:
            ObjectMissing: no such key.
            ObjectTooLarge: it holds more than `max_bytes`; nothing is left on the disk.
            StorageError: the store failed, or the disk did.
        """

    @abstractmethod
    async def upload(self, key: str, source: Path, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Store the bytes of the file `source` under `key` as `put` would, with a few dozen MiB of memory at most.

        Raises:
            StorageError: refused, failed, not done within `deadline` seconds, or `source` cannot be read.
        """

    @abstractmethod
    async def head(self, key: str, *, deadline: float = DEFAULT_DEADLINE) -> ObjectInfo | None:
        """Size and diagnostic time of one object, or None where there is none."""

    @abstractmethod
    async def list(
        self, prefix: str = "", *, limit: int = 10_000, deadline: float = DEFAULT_DEADLINE
    ) -> list[ObjectInfo]:
        """Objects whose key starts with `prefix`, in ascending key order, at most `limit`."""

    @abstractmethod
    async def delete(self, key: str, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Remove an object; one that is not there is not an error."""

    async def close(self) -> None:
        """Release connections and handles."""
        return


class Buckets(ABC):
    """The buckets of a run by location; the same location gives the same `Store` each time, until it is forgotten."""

    def __init__(self) -> None:
        self._open: dict[str, Store] = {}

    def bucket(self, location: str) -> Store:
        """The bucket at `location`, opened on first use; one that does not exist yet reads as empty.

        Raises:
            StorageError: not a location this kind of run can open.
        """
        if location not in self._open:
            self._open[location] = self._make(location)
        return self._open[location]

    def forget(self, location: str) -> None:
        """Nobody's bucket is at `location` any more: what was opened there ends once nobody uses it."""
        self._open.pop(location, None)

    async def close(self) -> None:
        """Close every bucket that was opened and not forgotten."""
        for store in self._open.values():
            await store.close()

    @abstractmethod
    def _make(self, location: str) -> Store: ...
