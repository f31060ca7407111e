"""Where a newcomer begins: the newest checkpoint that the chain proves, read back to from the newest anchors."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from muster.node.ledger.agreed import agreed
from muster.node.ledger.mirrors import BULK_HEDGE_SECONDS, Places, anywhere
from muster.node.ledger.objects import BULK_DEADLINE, about
from muster.node.ledger.reader import Reader
from muster.node.replica import Replica
from muster.node.replica.checkpoint import check_shard, read_manifest
from muster.protocol import ledger, paths
from muster.protocol.errors import LedgerError, StorageError
from muster.protocol.ledger import Tip
from muster.protocol.storage import Store
from muster.protocol.types import Anchor
from muster.protocol.wire import Record
from muster.protocol.wire.manifest import MAX_MANIFEST_BYTES, Manifest, ShardInfo

SLOW_LINE = 5_000_000
"""Bytes a second (40 Mbit/s) that a shard is given time for before a second bucket is asked for it, too."""


@dataclass(frozen=True, slots=True)
class Begin:
    """A checkpoint that the chain proves: the tip that it is of, the record that pins it, with its digest, and its
    manifest."""

    tip: Tip
    record: Record
    digest: bytes
    manifest: Manifest


@dataclass(slots=True)
class CatchUp:
    """How far a newcomer has read back from the newest anchors; a read that fails is made again, none before.

    The newest record that pins a checkpoint is where it begins: the checkpoint's manifest holds the tip. The record's
    authority is the chain's: more than half of the list stand on it; the session verifies it in full. Of a list longer
    than one it is `clock.finality` rounds older than what they stand on: where a chain shows newest anchors only, the
    last of these may yet be taken back. Whose list that is, is the run's first, and then that of the checkpoint found,
    which has to stand on this checkpoint or on a later one.
    `reached` is the last record that was read; θ will be on `device` (None: the CPU).
    """

    start: Tip
    device: torch.device | None = None
    reached: Record | None = field(init=False, default=None)
    _voters: Tip = field(init=False)
    _begin: Begin | None = field(init=False, default=None)
    _settled: bool = field(init=False, default=False)
    _at: Anchor | None = field(init=False, default=None)
    _newest: int | None = field(init=False, default=None)
    _pinned: Anchor | None = field(init=False, default=None)
    _record: Record | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._voters = self.start

    async def go(self, reader: Reader) -> tuple[Tip, Replica | None]:
        """The newest checkpoint that the chain proves, as (tip, replica); `(start, None)` where there is none.

        Raises:
            LedgerError: a record or the pinned checkpoint is not what it must be.
            ChainError, StorageError: what there is cannot be looked at now, is damaged or cannot be read.
        """
        while not self._settled:
            found = await self._by(reader)
            self._settled = found is None or found.tip.leaders == self._voters.leaders
            self._at = self._newest = self._pinned = self._record = None
            if found is not None:
                self._begin, self._voters = found, found.tip
        if self._begin is None:
            self._settled = False  # there may be one by the next look
            return self.start, None
        tip, record = self._begin.tip, self._begin.record
        places = reader.mirrors((await reader.stores(tip)).values())
        return tip, await load_checkpoint(places, tip, record, self._begin.manifest, self.device)

    async def _by(self, reader: Reader) -> Begin | None:
        """The newest checkpoint that the list stands on, where it is a later one than that found before."""
        voters, begin = self._voters, self._begin
        stores = await reader.stores(voters)
        places, oldest = reader.mirrors(stores.values()), begin.record.round if begin else 0
        if self._newest is None:
            self._at = await agreed(reader, voters, stores, oldest) if stores else None
            if self._at is not None:
                self._newest = self._at.round - (voters.spec.clock.finality if len(voters.leaders) > 1 else 0)
        while self._record is None:
            if begin is not None and (self._at is None or self._at.round <= oldest):
                self._confirm(begin)
                return None
            if self._at is None or self._newest is None:
                return None
            record = await self._read(reader, places, self._at)
            if record.checkpoint != ledger.NO_CHECKPOINT and record.round <= self._newest:
                self._pinned, self._record = self._at, record
            self._at = Anchor(record.round - 1, record.parent) if record.round else None
        assert self._pinned is not None
        record, before = self._record, None
        if self._at is not None:
            if self.reached is record:
                await self._read(reader, places, self._at)
            assert self.reached is not None
            before = self.reached, record.parent
        manifest = await read_pinned(places, self.start, record)
        tip = ledger.resume(self.start, manifest, before)
        ledger.check_link(tip, record, None)
        return Begin(tip, record, self._pinned.digest, manifest)

    def _confirm(self, begin: Begin) -> None:
        """The list of a checkpoint's own tip stands on the record that pins it.

        Raises:
            StorageError: it does not, or not yet; the next look begins with what that list stands on.
        """
        if self._at != Anchor(begin.record.round, begin.digest):
            self._begin = self._at = self._newest = None
            raise StorageError("more than half of the list that the newest checkpoint names do not stand on it yet")

    async def _read(self, reader: Reader, places: Places, at: Anchor) -> Record:
        with about(paths.record(self.start.run_id, at.round, at.digest)):
            self.reached, _ = await reader.record(places, self.start, at.round, at.digest)
        return self.reached


async def read_pinned(places: Places, tip: Tip, record: Record) -> Manifest:
    """The manifest of the checkpoint that a record pins; any tip of the run says what model it is of.

    Raises:
        LedgerError: it is not one of this run.
        StorageError: it is missing, damaged or cannot be read.
    """
    key = paths.checkpoint(tip.run_id, record.round, paths.MANIFEST)

    async def read(store: Store) -> Manifest:
        data = await store.get(key, max_bytes=MAX_MANIFEST_BYTES)
        return read_manifest(data, record.checkpoint, tip.run_id, tip.layout)

    with about(key):
        return await anywhere(places, read)


async def load_checkpoint(
    places: Places, tip: Tip, record: Record, manifest: Manifest | None = None, device: torch.device | None = None
) -> Replica:
    """θ before a record that pins a checkpoint, on `device` (the CPU unless named).

    `tip` is the one it was made at, `manifest` the checkpoint's if read.

    Raises:
        LedgerError: the checkpoint is not the pinned one, or its θ does not have the record's root.
        StorageError: it cannot be read.
    """
    manifest = manifest or await read_pinned(places, tip, record)
    if (manifest.round, manifest.outer_step) != (tip.round, tip.outer_step):
        raise LedgerError(f"the checkpoint of round {tip.round} is of another round or outer step")

    async def read(shard: ShardInfo) -> bytes:
        key = paths.checkpoint(tip.run_id, tip.round, shard.name)

        async def whole(store: Store) -> bytes:
            data = await store.get(key, max_bytes=shard.bytes, deadline=BULK_DEADLINE)
            check_shard(shard, data)
            return data

        return await anywhere(places, whole, BULK_HEDGE_SECONDS + shard.bytes / SLOW_LINE)

    replica = await Replica.load(tip, manifest, read, device=device)
    if replica.root() != record.root:
        raise LedgerError(f"the checkpoint of round {tip.round} does not have the recorded state root")
    return replica
