"""What others closed is kept in the own bucket too, for whoever needs it when its leader is gone."""

from __future__ import annotations

import logging
from pathlib import Path

from muster.node.context import Context
from muster.node.ledger.objects import BULK_DEADLINE
from muster.node.ledger.reader import Fetched
from muster.node.replica import Replica, Spool
from muster.node.submission import SPOOL_BYTES
from muster.node.telemetry import events
from muster.protocol import ledger, paths
from muster.protocol.ledger import Tip

log = logging.getLogger(__name__)


async def mirror(context: Context, tip: Tip, fetched: Fetched, replica: Replica, spool: Path | None) -> None:
    """Store the record of the open round with all that it names: seal, bundle and, where it pins one, the checkpoint.

    `tip` and `replica` stand before the record.

    Raises:
        StorageError: the bucket does not take it now.
    """
    bucket, run_id, round_, digest = context.bucket, tip.run_id, tip.round, fetched.digest
    if fetched.record.checkpoint != ledger.NO_CHECKPOINT:
        made = await save_checkpoint(context, tip, replica, spool)
        if made != fetched.record.checkpoint:
            log.error("round %d: the record pins another checkpoint than the one that its θ gives", round_)
    if fetched.bundle:
        await bucket.put(paths.bundle(run_id, round_, digest), fetched.bundle, deadline=BULK_DEADLINE)
    await bucket.put(paths.seal(run_id, round_, fetched.seal_digest), fetched.seal_data)
    await bucket.put(paths.record(run_id, round_, digest), fetched.record_data)


async def save_checkpoint(context: Context, tip: Tip, replica: Replica, spool: Path | None) -> bytes:
    """Write the checkpoint of θ at a tip, a shard at a time; returns what a record pins of it.

    A large shard waits in the folder `spool` (None: where the system keeps temporary files): beside θ there is no
    other copy of it in memory.

    Raises:
        StorageError: the bucket does not take it now.
    """
    bucket = context.bucket

    async def put(name: str, data: bytes) -> None:
        await bucket.put(paths.checkpoint(tip.run_id, tip.round, name), data, deadline=BULK_DEADLINE)

    async def upload(name: str, file: Path) -> None:
        await bucket.upload(paths.checkpoint(tip.run_id, tip.round, name), file, deadline=BULK_DEADLINE)

    kept = Spool(spool, SPOOL_BYTES, upload)
    with context.ailments.writing("a checkpoint"):
        digest, size = await replica.save(tip.round, ledger.tip_info(tip), put, context.offload, large=kept)
    context.journal.note(events.Checkpoint(tip.round, bytes=size))
    return digest
