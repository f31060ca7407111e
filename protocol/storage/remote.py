"""Reading objects over the network, the half that S3 buckets and web addresses share.

A server may stall, cut, lie about sizes or change an object between two requests. Each read therefore knows its
size before its first byte, stops at its cap, continues a broken body where it stopped, and ends by its deadline.
"""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.store import HTTPStore
from obstore.store import S3Store as S3Client

from muster.protocol.errors import ObjectMissing, ObjectTooLarge, StorageError, StoreUnreachable
from muster.protocol.storage.base import DEFAULT_DEADLINE, ObjectInfo, Store, check_key
from muster.protocol.storage.files import IncomingFile
from muster.protocol.storage.relay import Door
from muster.protocol.storage.remote_errors import FAILURES, service_code, storage_error

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta

_T = TypeVar("_T")

CONCURRENCY = 16
"""Requests a store has under way at once; a slow bucket holds up no other."""
BLOCK = 1 << 20
"""Bytes of a body handled at a time: 16 transfers stay at a few dozen MiB."""
RESUMES = 5
"""Times a body that broke is continued; the client's own retries come before."""
_RESUME_WAIT = 0.2
"""Seconds before the first continuation, doubled each time, with jitter."""
_LARGEST = 1 << 53
"""No object is larger; range arithmetic beyond it would overflow in clients and servers."""
_NO_BODY = 0
_INVALID_RANGE = frozenset({"InvalidRange", "416"})


class RemoteStore(Store):
    """A bucket that is reached over the network; what is written here is how it is read."""

    def __init__(self, client: S3Client | HTTPStore, shown: str, door: Door | None) -> None:
        """Read through `client`; `shown` names the place in messages; `door` is where its connections go through."""
        self._client = client
        self._shown = shown
        self._door = door
        self._slots = asyncio.Semaphore(CONCURRENCY)

    async def get(self, key: str, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """The whole object; raises `ObjectMissing` or, before or while its body comes, `ObjectTooLarge`."""
        check_key(key)

        async def read() -> bytes:
            whole = io.BytesIO()  # a list of blocks, joined, would be the object twice
            async for block in self._blocks(key, 0, None, max_bytes):
                whole.write(block)
            return whole.getvalue()

        return await self._run(f"read {key}", deadline, max_bytes, read)

    async def get_range(self, key: str, start: int, length: int, *, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Bytes [start, start + length) as far as the object goes; raises `ObjectMissing`.

        Raises:
            ValueError: `start` or `length` is negative.
        """
        check_key(key)
        if start < 0 or length < 0:
            raise ValueError(f"a range starts at {start} and is {length} long; neither may be negative")

        async def read() -> bytes:
            # An empty range cannot be asked for, but whether the object exists can.
            if length == 0 or start >= _LARGEST:
                await obstore.head_async(self._client, key)
                return b""
            stop = min(start + length, _LARGEST)
            return b"".join([block async for block in self._blocks(key, start, stop, stop - start)])

        return await self._run(f"read {key}", deadline, min(length, _LARGEST), read)

    async def head(self, key: str, *, deadline: float = DEFAULT_DEADLINE) -> ObjectInfo | None:
        """Size and time (whole seconds) of one object, or None."""
        check_key(key)
        try:
            return await self._run(f"look up {key}", deadline, _NO_BODY, lambda: self._head(key))
        except ObjectMissing:
            return None

    async def download(self, key: str, target: Path, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """Stream the object to `target`; its BLAKE3 digest."""
        check_key(key)

        async def bring() -> bytes:
            with IncomingFile(target) as file:
                async for block in self._blocks(key, 0, None, max_bytes):
                    await _finish(asyncio.to_thread(file.write, block))
                return await _finish(asyncio.to_thread(file.place))

        return await self._run(f"read {key}", deadline, max_bytes, bring)

    async def _head(self, key: str) -> ObjectInfo:
        return object_info(key, await obstore.head_async(self._client, key))

    async def _blocks(self, key: str, start: int, stop: int | None, max_bytes: int) -> AsyncIterator[bytes]:
        """The bytes [start, stop) of one version of an object, block by block, over as many requests as it takes."""
        first: ObjectMeta | None = None
        done, wanted = 0, 0
        for attempt in range(RESUMES + 1):
            try:
                ranged = start + done > 0 or stop is not None
                options: GetOptions = {"range": (start + done, stop or _LARGEST)} if ranged else {}
                answer = await obstore.get_async(self._client, key, options=options)
                if first is None:
                    first = answer.meta
                    wanted = min(stop or first["size"], first["size"]) - start
                    self._check_size(key, wanted, max_bytes)
                elif _version(answer.meta) != _version(first):
                    raise StorageError(f"{key} in {self._shown} was replaced while it was read; read it again")
                async for block in answer.stream(BLOCK):
                    done += len(block)
                    # A size may be a lie where the body's end is marked otherwise.
                    self._check_size(key, done, wanted)
                    yield bytes(block)
            except FAILURES as error:
                if first is None and service_code(error) in _INVALID_RANGE:
                    await self._check_past_end(key, start)
                    return
                if first is None or attempt == RESUMES:
                    raise
            if done == wanted:
                return
            await asyncio.sleep(_RESUME_WAIT * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
        raise StorageError(f"{key} in {self._shown} breaks off after {done} of {wanted} bytes")

    def _check_size(self, key: str, size: int, cap: int) -> None:
        if size > cap:
            raise ObjectTooLarge(f"{key} in {self._shown} holds {size} bytes, more than the {cap} allowed")

    async def _check_past_end(self, key: str, start: int) -> None:
        """Raise unless the object really ends at or before `start`."""
        if (await self._head(key)).size > start:
            raise StorageError(f"{self._shown} refuses to send a part of {key}")

    async def _run(self, action: str, deadline: float, size: int, work: Callable[[], Awaitable[_T]]) -> _T:
        """Do `work`, whose answers bring at most `size` bytes, within `deadline` seconds, in our own errors."""
        if deadline <= 0:
            raise StorageError(f"cannot {action} in {self._shown}: the deadline had passed before it began")
        try:
            async with asyncio.timeout(deadline), self._slots:
                with self._door.expecting(size) if self._door else nullcontext():
                    return await work()
        except TimeoutError as error:
            raise StoreUnreachable(
                f"could not {action} in {self._shown} within the deadline of {deadline:g} s"
            ) from error
        except FAILURES as error:
            if self._door and self._door.refusal and not service_code(error):
                raise StoreUnreachable(f"cannot {action} in {self._shown}: {self._door.refusal}") from error
            raise storage_error(action, self._shown, error) from error


def object_info(key: str, meta: ObjectMeta) -> ObjectInfo:
    """What the client says of an object; times in whole seconds, as HEAD has them and listings may not."""
    return ObjectInfo(key, meta["size"], float(int(meta["last_modified"].timestamp())))


def _version(meta: ObjectMeta) -> tuple[object, ...]:
    """What tells two versions of an object apart: its ETag, or without one its time and size."""
    return (meta["e_tag"],) if meta.get("e_tag") else (meta["last_modified"], meta["size"])


async def _finish(work: Awaitable[_T]) -> _T:
    """Await a thread's work to its end even when cancelled: it uses a file that the caller closes next."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
