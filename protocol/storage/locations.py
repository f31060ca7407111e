"""From a committed location to a bucket: the one place that decides what a stranger's text may open."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from muster.protocol.errors import StorageError
from muster.protocol.storage.base import Buckets, Store, check_key
from muster.protocol.storage.directory import DirectoryStore
from muster.protocol.storage.memory import MemoryStore

DIRECTORY = "dir"
MEMORY = "mem"

_SHOWN = 80
"""Characters of a stranger's location that an error message repeats."""


def open_store(location: str, base: Path, *, read_only: bool = False, fsync: bool = True) -> Store:
    """The bucket a peer committed as its location: `dir:NAME` is the folder NAME of `base`.

    `base` must hold buckets only, since any peer may name any folder in it.

    Raises:
        StorageError: another scheme, or NAME is not one legal key segment (a path, `..`, hidden).
    """
    return DirectoryStore(base / _name(location, DIRECTORY), read_only=read_only, fsync=fsync)


class DirectoryBuckets(Buckets):
    """Buckets in the folders of one base folder, at `dir:NAME`; `read_only` for one who must not change any."""

    def __init__(self, base: Path, *, read_only: bool = False, fsync: bool = True) -> None:
        super().__init__()
        self._base = base
        self._read_only = read_only
        self._fsync = fsync

    def _make(self, location: str) -> Store:
        return open_store(location, self._base, read_only=self._read_only, fsync=self._fsync)


class MemoryBuckets(Buckets):
    """Buckets of this process, at `mem:NAME`; they live as long as this object."""

    def forget(self, location: str) -> None:
        """Keep it: these are the objects themselves, and no way to them."""

    def _make(self, location: str) -> Store:
        _name(location, MEMORY)
        return MemoryStore()


def _name(location: str, scheme: str) -> str:
    """NAME of `scheme:NAME`."""
    found, _, name = location.partition(":")
    if found == scheme and "/" not in name:
        with suppress(StorageError):
            return check_key(name)
    shown = location[:_SHOWN]
    raise StorageError(
        f"cannot open the location {shown!r}: only {scheme}:NAME is known here, NAME one plain folder name"
    )
