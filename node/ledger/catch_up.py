"""Where a newcomer begins: the newest checkpoint that the chain proves, read back to from the newest anchor."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from muster.node.ledger.objects import BULK_DEADLINE, about
from muster.node.ledger.reader import Reader
from muster.node.replica import Replica
from muster.node.replica.checkpoint import read_manifest
from muster.protocol import ledger, paths
from muster.protocol.errors import LedgerError
from muster.protocol.ledger import Tip
from muster.protocol.storage import Store
from muster.protocol.types import Anchor
from muster.protocol.wire import Record
from muster.protocol.wire.manifest import MAX_MANIFEST_BYTES, Manifest, ShardInfo


@dataclass(slots=True)
class CatchUp:
    """How far a newcomer has read back from the leader's newest anchor; a read that fails is made again, none before.

    The newest record that pins a checkpoint is where it begins: the checkpoint's manifest holds the tip. The record's
    authority is the chain's: it is anchored, or one that is leads back to it; the session verifies it in full.
    `reached` is the last record that was read; θ will be on `device` (None: the CPU).
    """

    start: Tip
    device: torch.device | None = None
    reached: Record | None = field(init=False, default=None)
    _at: Anchor | None = field(init=False, default=None)
    _pinned: Record | None = field(init=False, default=None)

    async def go(self, reader: Reader, store: Store) -> tuple[Tip, Replica | None]:
        """The newest checkpoint that the chain proves, as (tip, replica); `(start, None)` where there is none.

        Raises:
            LedgerError: a record or the pinned checkpoint is not what it must be.
            ChainError, StorageError: what there is cannot be looked at now, is damaged or cannot be read.
        """
        start = self.start
        self._at = self._at or await reader.newest_anchor(start)
        while self._pinned is None:
            if self._at is None:
                return start, None
            record = await self._read(reader, store, self._at)
            self._pinned = record if record.checkpoint != ledger.NO_CHECKPOINT else None
            self._at = Anchor(record.round - 1, record.parent) if record.round else None
        record, before = self._pinned, None
        if self._at is not None:
            if self.reached is record:
                await self._read(reader, store, self._at)
            assert self.reached is not None
            before = self.reached, record.parent
        manifest = await read_pinned(store, start, record)
        tip = ledger.resume(start, manifest, before)
        ledger.check_link(tip, record, None)
        return tip, await load_checkpoint(store, tip, record, manifest, self.device)

    async def _read(self, reader: Reader, store: Store, at: Anchor) -> Record:
        with about(paths.record(self.start.run_id, at.round, at.digest)):
            self.reached, _ = await reader.record(store, self.start, at.round, at.digest)
        return self.reached


async def read_pinned(store: Store, tip: Tip, record: Record) -> Manifest:
    """The manifest of the checkpoint that a record pins; any tip of the run says what model it is of.

    Raises:
        LedgerError: it is not one of this run.
        StorageError: it is missing, damaged or cannot be read.
    """
    key = paths.checkpoint(tip.run_id, record.round, paths.MANIFEST)
    with about(key):
        data = await store.get(key, max_bytes=MAX_MANIFEST_BYTES)
        return read_manifest(data, record.checkpoint, tip.run_id, tip.layout)


async def load_checkpoint(
    store: Store, tip: Tip, record: Record, manifest: Manifest | None = None, device: torch.device | None = None
) -> Replica:
    """θ before a record that pins a checkpoint, on `device` (the CPU unless named).

    `tip` is the one it was made at, `manifest` the checkpoint's if read.

    Raises:
        LedgerError: the checkpoint is not the pinned one, or its θ does not have the record's root.
        StorageError: it cannot be read.
    """
    manifest = manifest or await read_pinned(store, tip, record)
    if (manifest.round, manifest.outer_step) != (tip.round, tip.outer_step):
        raise LedgerError(f"the checkpoint of round {tip.round} is of another round or outer step")

    async def read(shard: ShardInfo) -> bytes:
        key = paths.checkpoint(tip.run_id, tip.round, shard.name)
        return await store.get(key, max_bytes=shard.bytes, deadline=BULK_DEADLINE)

    replica = await Replica.load(tip, manifest, read, device=device)
    if replica.root() != record.root:
        raise LedgerError(f"the checkpoint of round {tip.round} does not have the recorded state root")
    return replica
