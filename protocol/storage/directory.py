"""Buckets as folders of plain files, so that a run needs no object store and its writers may crash any time.

A write goes to a temporary file in the bucket's hidden folder and reaches its name in one rename or hard
link: a reader sees a whole object or none. Only regular files in real folders are objects. Names are resolved
one segment at a time without following symbolic links, because another peer's folder holds whatever it put
there.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from muster.protocol.errors import ObjectMissing, ObjectTooLarge, StorageError
from muster.protocol.storage.base import DEFAULT_DEADLINE, ObjectInfo, Store, check_key, is_key
from muster.protocol.storage.files import IncomingFile
from muster.protocol.storage.thread import in_thread

_T = TypeVar("_T")

TEMP_FOLDER = ".tmp"
"""Where unfinished writes live; no legal key begins with a dot, so neither `get` nor `list` can reach it."""

TEMP_LIFETIME = 24 * 3600.0
"""Seconds after its last byte when an unfinished write counts as left by a crash: far beyond any deadline."""

_BLOCK = 1 << 20
"""Bytes copied at a time."""

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK a peer's FIFO would hold the thread that opens it for ever.
_OBJECT_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TEMP_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_NO_OBJECT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
"""What opening says when the name, or a folder on the way, is absent, a link, a socket or not a folder."""

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EACCES: "permission denied; check who owns the folder",
    errno.EPERM: "not permitted; check the folder's owner, and that its file system allows hard links",
    errno.EROFS: "the file system is mounted read-only",
    errno.EMFILE: "this process has too many open files; raise its limit (ulimit -n)",
    errno.EXDEV: "a part of the bucket lies on another file system; a bucket must lie on one",
    errno.ENOTDIR: "a part of that name is an object or a symbolic link, not a folder",
    errno.EISDIR: "that name is a folder of other objects",
    errno.EEXIST: "that name is taken by something that is not an object",
}


class DirectoryStore(Store):
    """One bucket in a folder, shared by any number of processes. Folders are made on the first write.

    Unlike on S3, a key and the same key followed by `/…` cannot both be stored: the second is refused, also
    after the deeper objects were deleted, because folders stay. After a missed deadline the operation may
    still be running in its thread, but a write that was not yet visible is then dropped.
    """

    def __init__(
        self, root: Path, *, read_only: bool = False, fsync: bool = True, now: Callable[[], float] = time.time
    ) -> None:
        """Open the bucket in `root`, which need not exist and must not itself be a symbolic link.

        With `read_only` what would write raises `StorageError` before it touches anything. With `fsync=False`
        other processes still see whole objects or none, but a power failure may lose or truncate recent ones.
        `now` (unix seconds) decides which unfinished writes of crashed processes are old enough to be swept,
        which happens once per store, on its first write.
        """
        self._files = _Files(root, read_only, fsync, now)

    @property
    def root(self) -> Path:
        """The bucket's folder."""
        return self._files.root

    async def put(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Store `data`, replacing what was there; a `StorageError` names the cause, such as a full disk."""
        check_key(key)
        await self._run(f"store {key}", deadline, lambda abandoned: self._files.write(key, [data], True, abandoned))

    async def put_if_absent(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> bool:
        """Store `data` unless `key` exists; exactly one of any number of racing processes gets True."""
        check_key(key)
        return await self._run(
            f"store {key}", deadline, lambda abandoned: self._files.write(key, [data], False, abandoned)
        )

    async def get(self, key: str, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """The whole object; raises `ObjectMissing` or, over `max_bytes`, `ObjectTooLarge`."""
        check_key(key)
        return await self._run(f"read {key}", deadline, lambda _: self._files.read(key, max_bytes))

    async def get_range(self, key: str, start: int, length: int, *, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Bytes [start, start + length) as far as the object goes; raises `ObjectMissing`.

        Raises:
            ValueError: `start` or `length` is negative.
        """
        check_key(key)
        if start < 0 or length < 0:
            raise ValueError(f"a range starts at {start} and is {length} long; neither may be negative")
        return await self._run(f"read {key}", deadline, lambda _: self._files.read_range(key, start, length))

    async def download(self, key: str, target: Path, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Copy the object to `target`; its BLAKE3 digest."""
        check_key(key)

        def copy(abandoned: threading.Event) -> bytes:
            with IncomingFile(target) as file:
                for block in self._files.blocks(key, max_bytes):
                    _refuse_if(abandoned)
                    file.write(block)
                _refuse_if(abandoned)
                return file.place()

        return await self._run(f"read {key}", deadline, copy)

    async def upload(self, key: str, source: Path, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Copy the file `source` to the object `key`."""
        check_key(key)

        def copy(abandoned: threading.Event) -> bool:
            with source.open("rb", buffering=0) as file:
                return self._files.write(key, _file_blocks(file.fileno(), abandoned), True, abandoned)

        await self._run(f"store {source} as {key}", deadline, copy)

    async def head(self, key: str, *, deadline: float = DEFAULT_DEADLINE) -> ObjectInfo | None:
        """Size and modification time of one object, or None."""
        check_key(key)
        return await self._run(f"look up {key}", deadline, lambda _: self._files.head(key))

    async def list(
        self, prefix: str = "", *, limit: int = 10_000, deadline: float = DEFAULT_DEADLINE
    ) -> list[ObjectInfo]:
        """Objects whose key starts with `prefix`, in ascending key order, at most `limit`."""
        return await self._run(f"list {prefix!r}", deadline, lambda _: self._files.listing(prefix, limit))

    async def delete(self, key: str, *, deadline: float = DEFAULT_DEADLINE) -> None:
        """Remove an object if it is there."""
        check_key(key)
        await self._run(f"delete {key}", deadline, lambda _: self._files.delete(key))

    async def _run(self, action: str, deadline: float, work: Callable[[threading.Event], _T]) -> _T:
        """Do blocking `work` in a thread; the event it gets is set once nobody waits for it any more."""
        abandoned = threading.Event()

        def guarded() -> _T:
            # In the thread: a disk's own ETIMEDOUT is a TimeoutError too and must not pass for the deadline.
            try:
                return work(abandoned)
            except OSError as error:
                why = _ADVICE.get(error.errno or 0, error.strerror or str(error))
                raise StorageError(f"cannot {action} in {self._files.root}: {why}") from error

        if deadline <= 0:
            raise StorageError(f"cannot {action} in {self._files.root}: the deadline had passed before it began")
        try:
            async with asyncio.timeout(deadline):
                return await in_thread(guarded)
        except TimeoutError as error:
            raise StorageError(f"could not {action} in {self._files.root} within {deadline:g} s") from error
        finally:
            abandoned.set()


class _Files:
    """The blocking half: every method may wait for the disk, and raises `OSError` where the disk refuses."""

    def __init__(self, root: Path, read_only: bool, fsync: bool, now: Callable[[], float]) -> None:
        self.root = root
        self._read_only = read_only
        self._fsync = fsync
        self._now = now
        self._swept = False

    def write(self, key: str, data: Iterable[bytes], replace: bool, abandoned: threading.Event) -> bool:
        """Make the blocks of `data` the object `key`; False if `abandoned`, or if it exists and may not be replaced."""
        self._refuse_reader(f"store {key}")
        *folders, name = key.split("/")
        self._make_root()
        with self._folder([TEMP_FOLDER], create=True) as temps, self._folder(folders, create=True) as folder:
            self._sweep(temps)
            temp = uuid.uuid4().hex
            try:
                self._fill(temp, temps, data)
                if abandoned.is_set():
                    return False
                if replace:
                    os.rename(temp, name, src_dir_fd=temps, dst_dir_fd=folder)
                    placed = True
                else:
                    placed = _link(temp, temps, name, folder)
            finally:
                # Where even this fails, a later writer's sweep does it.
                with suppress(OSError):
                    os.unlink(temp, dir_fd=temps)
            self._sync(folder)
            return placed

    def read(self, key: str, max_bytes: int) -> bytes:
        """The bytes the object had when it was opened; what a file grows by meanwhile is not read."""
        return b"".join(self.blocks(key, max_bytes, max_bytes))

    def blocks(self, key: str, max_bytes: int, block_size: int = _BLOCK) -> Iterator[bytes]:
        """The same bytes in blocks of at most `block_size`."""
        with self._object(key) as (file, status):
            if status.st_size > max_bytes:
                raise ObjectTooLarge(
                    f"{key} in {self.root} holds {status.st_size} bytes, more than the {max_bytes} allowed"
                )
            rest = status.st_size
            while rest and (block := _read(file, min(rest, block_size))):
                yield block
                rest -= len(block)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """At most `length` bytes from `start`, as far as the object went when it was opened."""
        with self._object(key) as (file, status):
            wanted = min(length, status.st_size - start)
            if wanted <= 0:
                return b""
            os.lseek(file, start, os.SEEK_SET)
            return _read(file, wanted)

    def head(self, key: str) -> ObjectInfo | None:
        """What `fstat` says of the object, or None."""
        try:
            with self._object(key) as (_, status):
                return ObjectInfo(key, status.st_size, status.st_mtime)
        except ObjectMissing:
            return None

    def listing(self, prefix: str, limit: int) -> list[ObjectInfo]:
        """Up to `limit` objects in key order, looking only into the folders that `prefix` leaves possible."""
        folder, slash, stem = prefix.rpartition("/")
        found: list[ObjectInfo] = []
        if slash and not is_key(folder):
            return found
        with (
            suppress(FileNotFoundError, NotADirectoryError),
            self._folder(folder.split("/") if slash else []) as fd,
        ):
            self._collect(fd, folder + slash, stem, limit, found)
        return found

    def delete(self, key: str) -> None:
        """Unlink the object; nothing there, or a folder, is no error."""
        self._refuse_reader(f"delete {key}")
        *folders, name = key.split("/")
        with (
            suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError),
            self._folder(folders) as folder,
        ):
            os.unlink(name, dir_fd=folder)
            self._sync(folder)

    def _collect(self, fd: int, base: str, stem: str, limit: int, found: list[ObjectInfo]) -> None:
        """Append the objects below an open folder whose names start with `stem`; `base` begins their keys."""
        with os.scandir(fd) as entries:
            # A folder sorts as its keys do, with the slash: "a-b" < "a/b" although "a" < "a-b".
            names = sorted(
                entry.name + "/" * entry.is_dir(follow_symlinks=False)
                for entry in entries
                if entry.name.startswith(stem) and is_key(base + entry.name)
            )
        for name in names:
            if len(found) >= limit:
                return
            # What another process removed since the scan is simply not listed.
            with suppress(FileNotFoundError, NotADirectoryError):
                if name.endswith("/"):
                    with _opened(os.open(name[:-1], _FOLDER_FLAGS, dir_fd=fd)) as child:
                        self._collect(child, base + name, "", limit, found)
                else:
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        found.append(ObjectInfo(base + name, status.st_size, status.st_mtime))

    def _refuse_reader(self, action: str) -> None:
        if self._read_only:
            raise StorageError(f"cannot {action} in {self.root}: the bucket was opened for reading")

    def _make_root(self) -> None:
        missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            with _opened(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as parent:
                self._sync(parent)

    @contextmanager
    def _folder(self, names: Sequence[str], *, create: bool = False) -> Iterator[int]:
        """A descriptor of the folder `names` lead to from the root, through real folders only."""
        fd = os.open(self.root, _FOLDER_FLAGS)
        for name in names:
            with _opened(fd):
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=fd)
                        self._sync(fd)
                fd = os.open(name, _FOLDER_FLAGS, dir_fd=fd)
        with _opened(fd):
            yield fd

    @contextmanager
    def _object(self, key: str) -> Iterator[tuple[int, os.stat_result]]:
        """A descriptor and the status of a regular file; raises `ObjectMissing` for anything else."""
        *folders, name = key.split("/")
        try:
            with self._folder(folders) as folder:
                file = os.open(name, _OBJECT_FLAGS, dir_fd=folder)
        except OSError as error:
            if error.errno in _NO_OBJECT:
                raise ObjectMissing(f"there is no object {key} in {self.root}") from error
            raise
        with _opened(file):
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise ObjectMissing(f"there is no object {key} in {self.root}, only a folder or special file")
            yield file, status

    def _fill(self, temp: str, temps: int, data: Iterable[bytes]) -> None:
        with _opened(os.open(temp, _TEMP_FLAGS, 0o666, dir_fd=temps)) as file:
            for block in data:
                rest = memoryview(block)
                while rest:
                    rest = rest[os.write(file, rest) :]
            self._sync(file)

    def _sweep(self, temps: int) -> None:
        """Once per store, remove what writers that died left behind long ago."""
        if self._swept:
            return
        self._swept = True
        oldest = self._now() - TEMP_LIFETIME
        with os.scandir(temps) as entries:
            for entry in entries:
                # Another process may sweep too, and a file that cannot be removed hinders nobody.
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < oldest:
                        os.unlink(entry.name, dir_fd=temps)

    def _sync(self, fd: int) -> None:
        if self._fsync:
            os.fsync(fd)


@contextmanager
def _opened(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _refuse_if(abandoned: threading.Event) -> None:
    """Nobody waits any more: what follows is seen by nobody and ends the copy."""
    if abandoned.is_set():
        raise StorageError("the deadline passed while the object was copied")


def _file_blocks(file: int, abandoned: threading.Event) -> Iterator[bytes]:
    while block := os.read(file, _BLOCK):
        _refuse_if(abandoned)
        yield block


def _link(temp: str, temps: int, name: str, folder: int) -> bool:
    """Give `temp` its `name` unless an object has it; raises FileExistsError if something else has."""
    try:
        os.link(temp, name, src_dir_fd=temps, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise
        return False
    return True


def _read(file: int, count: int) -> bytes:
    """The next `count` bytes, fewer where the file ends; one read may return less than was asked for."""
    parts: list[bytes] = []
    while count and (part := os.read(file, count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
