"""What the round before applied, for a validator that has not applied it itself: it was started again since."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from muster.kernels import SparseUpdate
from muster.node.context import Context
from muster.node.ledger.reader import Reader
from muster.protocol import ledger, wire
from muster.protocol.errors import LedgerError, ObjectDamaged, ObjectMissing, ObjectTooLarge, WireError
from muster.protocol.ledger import Tip
from muster.protocol.ledger.bundle import Opened, read_bundle
from muster.protocol.spec.layout import codec_of
from muster.protocol.wire import Kind, Record
from muster.validator.gauntlet.overlap import Earlier

log = logging.getLogger(__name__)


async def updates_before(context: Context, tip: Tip) -> Sequence[Earlier]:
    """The updates that the record before the open round applied, each with its hotkey, out of the aggregators' buckets.

    Empty before round 0 and after a null record, and where the bundle is gone, or is none: then nobody can be compared.

    Raises:
        ChainError, StorageError: they cannot be read now.
    """
    stores = await context.directory.stores_of(tip.leaders) if tip.round else {}
    if not stores:
        return ()
    reader = Reader(context.chain, context.directory)
    places = reader.mirrors(stores.values())
    try:
        record, _ = await reader.record(places, tip, tip.round - 1, tip.parent)
        if record.kind is not Kind.ROUND:
            return ()
        size = ledger.check_bundle_size(record, tip.run_id)
        bundle = await reader.bundle_of(places, record, tip.parent, size)
        return await context.offload(lambda: _opened(tip, record, bundle))
    except (ObjectMissing, ObjectDamaged, ObjectTooLarge, LedgerError, WireError) as error:
        log.warning("what round %d applied is not to be had, and nobody is compared with it: %s", tip.round - 1, error)
        return ()


def _opened(tip: Tip, record: Record, bundle: bytes) -> Sequence[Earlier]:
    codec = codec_of(tip.history.at(record.round))

    def update(one: Opened) -> SparseUpdate:
        header = one.signed.header
        key = wire.decode_key(one.key, tip.run_id, header.round, header.public)
        return wire.open_payload(header, one.ciphertext, key.payload_key, codec)

    heads = [wire.decode_head(entry.head, tip.run_id) for entry in record.accepted]
    return [(one.signed.header.hotkey, update(one)) for one in read_bundle(bundle, heads)]
