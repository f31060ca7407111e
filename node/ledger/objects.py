"""The objects of a round, each read by the digest that names it: the very bytes, or none.

Bytes that are not what a digest names are a fault of the transport (`ObjectDamaged`), to be read again; missing ones
are unknown, never invalid.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blake3 import blake3

from muster.node.ledger.mirrors import BULK_HEDGE_SECONDS, Places, anywhere
from muster.protocol import ledger, paths, wire
from muster.protocol.errors import LedgerError, MusterError, ObjectDamaged, WireError
from muster.protocol.ledger import Tip
from muster.protocol.rules.admission import MAX_HEAD_BYTES, MAX_KEY_BYTES
from muster.protocol.spec.layout import max_payload_bytes
from muster.protocol.storage import Store
from muster.protocol.wire import Record, Seal

BULK_DEADLINE = 600.0
"""Seconds a bundle or a checkpoint shard may take: 2.8 GB (a 72B submission) at 40 Mbit/s."""

MAX_SEAL_BYTES = 8 * 2**20
"""Cap of a seal: 64 bytes for each of 65,536 peers, and their frame."""


@contextmanager
def about(key: str) -> Iterator[None]:
    """Whatever goes wrong inside is about this object (`MusterError.subject`), unless it is said to be another's."""
    try:
        yield
    except MusterError as error:
        error.subject = error.subject or key
        raise


async def read_record(
    places: Places, tip: Tip, round_: int, digest: bytes, max_bytes: int = wire.MAX_BODY_BYTES
) -> tuple[Record, bytes]:
    """The record of a round with this digest, and its bytes; any tip of the run says what model it is of.

    Raises:
        StorageError: it is missing, damaged (`ObjectDamaged`), larger than the cap, or cannot be read.
        LedgerError: its bytes are the right ones, and no record of this round.
    """

    async def read(store: Store) -> tuple[Record, bytes]:
        data = await store.get(paths.record(tip.run_id, round_, digest), max_bytes=max_bytes)
        try:
            record, found = wire.decode_record(data, tip.run_id, len(tip.layout.shapes))
        except WireError as error:
            raise _misread(data, wire.Type.RECORD, digest, error) from error
        if found != digest:
            raise ObjectDamaged("it is not the record that is anchored")
        return record, data

    record, data = await anywhere(places, read)
    check_round(record, round_)
    return record, data


def check_round(record: Record, round_: int) -> None:
    """A record is of the round in which it is looked for.

    Raises:
        LedgerError: it is of another one.
    """
    if record.round != round_:
        raise LedgerError(f"it is the record of round {record.round}")


async def read_seal(places: Places, record: Record, max_bytes: int = MAX_SEAL_BYTES) -> tuple[Seal, bytes]:
    """The seal that a record names, and its bytes.

    Raises:
        StorageError: it is missing, damaged, larger than the cap, or cannot be read.
        LedgerError: its bytes are the right ones, and no seal.
    """

    async def read(store: Store) -> tuple[Seal, bytes]:
        data = await store.get(paths.seal(record.run_id, record.round, record.seal), max_bytes=max_bytes)
        try:
            seal, found = wire.decode_seal(data, record.run_id)
        except WireError as error:
            raise _misread(data, wire.Type.SEAL, record.seal, error) from error
        if found != record.seal:
            raise ObjectDamaged("it is not the seal that the record names")
        return seal, data

    return await anywhere(places, read)


async def read_bundle(places: Places, record: Record, digest: bytes, size: int) -> bytes:
    """The bundle that a record, which has this digest, names; of `size` bytes.

    Raises:
        StorageError: it is missing, damaged or cannot be read.
    """
    if not size:
        return b""
    key = paths.bundle(record.run_id, record.round, digest)

    async def read(store: Store) -> bytes:
        bundle = await store.get(key, max_bytes=size, deadline=BULK_DEADLINE)
        if blake3(bundle).digest() != record.bundle:
            raise ObjectDamaged("it is not the bundle that the record names")
        return bundle

    return await anywhere(places, read, BULK_HEDGE_SECONDS)


def bundle_size(record: Record, tip: Tip) -> int:
    """What a record's bundle has, within what its heads allow; refused where it is more than all seats may send.

    Raises:
        LedgerError: it is more, or not what the record says.
    """
    size, spec = ledger.check_bundle_size(record, tip.run_id), tip.spec
    each = MAX_HEAD_BYTES + MAX_KEY_BYTES + max_payload_bytes(tip.codec)
    if size > spec.gauntlet.seats * each:
        raise LedgerError(f"a bundle of {size} bytes is more than {spec.gauntlet.seats} seats may send")
    return size


def _misread(data: bytes, kind: wire.Type, digest: bytes, error: WireError) -> MusterError:
    """Whose fault unreadable bytes are: their signer's where they are the very ones, else that of their way here.

    A signature is not covered by the digest, so a wrong one may have come about on the way.
    """
    if wire.body_digest(data, kind) == digest and error.reason != "signature":
        return LedgerError(f"it is anchored and not valid: {error}")
    return ObjectDamaged(f"its bytes were damaged on the way: {error}")
