"""The rounds after the open one, read and decoded while that one is judged and applied.

Whoever is behind knows the digests of the records that come next. What they name is brought here a few rounds at a
time, each object the very bytes that a digest names or none at all. Who reads the ledger asks here first and reads by
itself what is not here: so nothing that happens ahead decides what is valid, and what failed ahead is read again in its
turn. One read that is still on its way in its turn is waited for; it ends by its own deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any, Self, TypeVar

from muster.kernels import Codec, SparseUpdate
from muster.node.ledger.mirrors import Places
from muster.node.ledger.objects import about, bundle_size, read_bundle, read_record, read_seal
from muster.protocol import paths
from muster.protocol.errors import LedgerError, MusterError, ObjectTooLarge, StorageError
from muster.protocol.ledger import Tip
from muster.protocol.types import Anchor
from muster.protocol.wire import Record, Seal

T = TypeVar("T")

ROUNDS_AHEAD = 8
"""Rounds that are read ahead: small ones wait for a distant store's answers, and these come together."""

BYTES_AHEAD = 128 << 20
"""Bytes of all bundles read ahead and of the updates decoded from them. A bundle that is larger alone is read in its
turn; so one on its way in its turn shares the line with so many bytes at most, and keeps its deadline on a slow one."""

OBJECT_AHEAD = 2 << 20
"""Cap of a record, and of a seal, that is read ahead, twice a 72B record with 256 heads; others wait for their turn."""

Open = Callable[[Tip, Record, bytes], Awaitable[Sequence[SparseUpdate]]]
"""Gives the updates of a record's bundle, by the spec of a tip that the record names; LedgerError where one is bad."""


def decoded_bytes(codec: Codec) -> int:
    """What one decoded update has in memory: 3 bytes a kept value, 2 a tile."""
    return 3 * codec.count + 2 * codec.grid.tiles


class ReadAhead:
    """What has been read ahead, and is being; a context, with which all of it ends.

    Parts of a round are asked for by the digest of its record, and None says to read it oneself: it is not here, failed
    before its turn, or has not been begun.
    """

    def __init__(self) -> None:
        self._rounds: dict[bytes, _Round] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._living = False
        self._freed = asyncio.Event()
        self.turn = asyncio.Lock()
        """Held by the round whose bundle is the next to be admitted."""
        self.opening = asyncio.Lock()
        """Held by the round whose bundle is the next to be decoded, or is being. Both locks go from round to round in
        the order in which they were wanted: so a round that is admitted never waits for one that is not."""

    async def __aenter__(self) -> Self:
        """From here on rounds can be wanted."""
        self._living = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Whatever is here or on its way is dropped."""
        self._living = False
        for digest in tuple(self._rounds):
            self.forget(digest)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def want(self, places: Places, tip: Tip, anchors: Sequence[Anchor], open_: Collection[bytes], how: Open) -> None:
        """Read these rounds, in ascending order, and drop all others but the records of the open round, `open_`.

        `tip` is where the ledger stands, `how` decodes what spec it names.
        """
        assert self._living, "reading ahead has not begun or has ended"
        wanted = {at.digest for at in anchors}.union(open_)
        for digest in [digest for digest in self._rounds if digest not in wanted]:
            self.forget(digest)
        for at in anchors:
            if at.digest not in self._rounds and at.digest not in open_:  # a liar may anchor one for two rounds
                self._rounds[at.digest] = _Round(self, places, tip, at, how)

    def forget(self, digest: bytes) -> None:
        """Drop a round; of nothing that is here."""
        round_ = self._rounds.pop(digest, None)
        if round_ is not None:
            round_.drop()
            self._freed.set()

    async def record(self, digest: bytes) -> tuple[Record, bytes] | None:
        """The record and its bytes.

        Raises:
            StorageError, LedgerError: it was on its way, and is not to be had.
        """
        round_ = self._rounds.get(digest)
        return None if round_ is None else await _settled(round_.record)

    async def seal(self, digest: bytes) -> tuple[Seal, bytes] | None:
        """The seal that the record names, and its bytes; raises as `record` does."""
        round_ = self._rounds.get(digest)
        return None if round_ is None else await _settled(round_.seal)

    def size(self, digest: bytes) -> int | None:
        """The size of the record's bundle, where it was found to be within what the spec that it names allows."""
        round_ = self._rounds.get(digest)
        return None if round_ is None else round_.size

    async def bundle(self, digest: bytes) -> bytes | None:
        """The bundle that the record names; raises as `record` does."""
        round_ = self._rounds.get(digest)
        if round_ is None:
            return None
        if round_.size is None:
            self.forget(digest)  # it waits for room, and others may wait behind it
            return None
        return await _settled(round_.bundle)

    async def updates(self, digest: bytes) -> Sequence[SparseUpdate] | None:
        """The updates in the bundle; None also where one of them is bad: the judge says of which and why."""
        round_ = self._rounds.get(digest)
        try:
            return None if round_ is None else await _settled(round_.updates)
        except MusterError:
            return None

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that ends with this at the latest."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def room(self, cost: int) -> bool:
        """Whether so many bytes are to be read ahead, once there is room for them."""
        while cost <= BYTES_AHEAD < cost + sum(round_.cost for round_ in self._rounds.values()):
            self._freed.clear()
            await self._freed.wait()
        return cost <= BYTES_AHEAD


class _Round:
    """One round that is read ahead; its parts are tasks that give what they read, None, or the error they met."""

    def __init__(self, ahead: ReadAhead, places: Places, tip: Tip, at: Anchor, how: Open) -> None:
        self._ahead, self._places, self._tip, self._at, self._how = ahead, places, tip, at, how
        self.cost = 0
        self.size: int | None = None
        self.record = ahead.start(_outcome(self._read_record))
        self.seal = ahead.start(_outcome(self._read_seal))
        self.bundle = ahead.start(_outcome(self._read_bundle))
        self.updates = ahead.start(_outcome(self._open))

    def drop(self) -> None:
        """Nobody wants it any more."""
        for task in (self.record, self.seal, self.bundle, self.updates):
            task.cancel()

    async def _read_record(self) -> tuple[Record, bytes]:
        at = self._at
        with about(paths.record(self._tip.run_id, at.round, at.digest)):
            return await read_record(self._places, self._tip, at.round, at.digest, OBJECT_AHEAD)

    async def _named(self) -> Record | None:
        found = await self.record
        return found[0] if isinstance(found, tuple) else None

    async def _read_seal(self) -> tuple[Seal, bytes] | None:
        record = await self._named()
        if record is None:
            return None
        with about(paths.seal(record.run_id, record.round, record.seal)):
            return await read_seal(self._places, record, OBJECT_AHEAD)

    async def _read_bundle(self) -> bytes | None:
        """The bundle, where it is of the spec in force now and there is room for it."""
        tip, digest = self._tip, self._at.digest
        async with self._ahead.turn:
            record = await self._named()
            if record is None or record.spec_digest != tip.opening.spec_digest:
                return None
            size = bundle_size(record, tip)
            cost = size + len(record.accepted) * decoded_bytes(tip.codec)
            if not await self._ahead.room(cost):
                return None
            self.cost, self.size = cost, size
        with about(paths.bundle(record.run_id, record.round, digest)):
            return await read_bundle(self._places, record, digest, size)

    async def _open(self) -> Sequence[SparseUpdate] | None:
        async with self._ahead.opening:
            bundle, record = await self.bundle, await self._named()
            if record is None or not isinstance(bundle, bytes) or not bundle:
                return None
            if record.late:
                return None  # which seals its keys must answer is known at the tip of its round, and not before
            return await self._how(self._tip, record, bundle)


async def _outcome(read: Callable[[], Awaitable[T]]) -> T | MusterError | None:
    """What was read, or what was in the way of it; None where the object is larger than what is read ahead."""
    try:
        return await read()
    except ObjectTooLarge:
        return None
    except (StorageError, LedgerError) as error:
        return error


async def _settled(part: asyncio.Task[T | MusterError | None]) -> T | None:
    """What a part gives, once it does; an error that it met before is none of the asker's."""
    if part.cancelled():
        return None
    late = not part.done()
    found = await part
    if isinstance(found, MusterError):
        if late:
            raise found
        return None
    return found
