"""The bundle of a round: the accepted submissions with their keys, so that whoever joins later can replay it.

Per accepted submission in record order: head ‖ key object ‖ ciphertext. No lengths of its own: the record holds every
head, a key object says how long it is, and a head says how long its ciphertext is. The keys are whole objects, because
which seal they answer is what makes their record valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from blake3 import blake3

from muster.protocol import wire
from muster.protocol.errors import LedgerError, WireError
from muster.protocol.rules.admission import MAX_KEY_BYTES
from muster.protocol.wire import Record, Signed


@dataclass(frozen=True, slots=True)
class Opened:
    """A submission whose key is known, with its whole key object: everything that is needed to apply it."""

    signed: Signed
    key: bytes
    ciphertext: bytes | memoryview


def bundle_parts(submissions: Iterable[Opened]) -> Iterator[bytes | memoryview]:
    """The bundle's bytes, piece by piece; its digest is their BLAKE3."""
    for submission in submissions:
        yield submission.signed.head
        yield submission.key
        yield submission.ciphertext


def write_bundle(submissions: Iterable[Opened]) -> bytes:
    """The bundle's bytes."""
    return b"".join(bundle_parts(submissions))


def bundle_size(submissions: Iterable[Opened]) -> int:
    """Exact size of the bundle of these submissions."""
    return sum(map(len, bundle_parts(submissions)))


def bundle_sizes(accepted: Sequence[Signed]) -> tuple[int, int]:
    """The least and the most bytes that the bundle of these submissions can have, whatever their keys are."""
    known = sum(len(signed.head) + signed.ciphertext_bytes for signed in accepted)
    return known + len(accepted) * wire.PREFIX_BYTES, known + len(accepted) * MAX_KEY_BYTES


def read_bundle(data: bytes, accepted: Iterable[Signed]) -> list[Opened]:
    """Split a bundle by the accepted heads of its record; the keys in it are not judged.

    Raises:
        LedgerError: it is not exactly these submissions.
    """
    opened, offset = [], 0
    for signed in accepted:
        key_at = offset + len(signed.head)
        if data[offset:key_at] != signed.head:
            raise LedgerError("the bundle holds another submission than its record")
        size = _key_size(data[key_at : key_at + MAX_KEY_BYTES])
        offset = key_at + size + signed.ciphertext_bytes
        opened.append(Opened(signed, data[key_at : key_at + size], data[key_at + size : offset]))
    if offset != len(data):
        raise LedgerError(f"the bundle has {len(data)} bytes, what it holds accounts for {offset}")
    return opened


def _key_size(data: bytes) -> int:
    """Bytes of the key object at the beginning of `data`, which must hold all of it."""
    try:
        size = wire.key_object_bytes(data)
    except WireError as error:
        raise LedgerError(f"the bundle holds no key object where one must be: {error.reason}") from error
    if size > len(data):
        raise LedgerError(f"the bundle holds a key object of {size} bytes, {len(data)} are there")
    return size


def check_bundle(record: Record, bundle: bytes) -> None:
    """The bundle's bytes are the ones the record names.

    Raises:
        LedgerError: they are not.
    """
    if blake3(bundle).digest() != record.bundle or len(bundle) != record.bundle_bytes:
        raise LedgerError("the bundle is not the one the record names")


def check_bundle_size(record: Record, run_id: bytes) -> int:
    """The size of a record's bundle, which its heads and its keys allow: what to cap a download at.

    Raises:
        LedgerError: the record's figure is not one that they allow.
    """
    try:
        least, most = bundle_sizes([wire.decode_head(entry.head, run_id) for entry in record.accepted])
    except WireError as error:
        raise LedgerError(f"an accepted header is not readable: {error.reason}") from error
    if not least <= record.bundle_bytes <= most:
        raise LedgerError(
            f"the record claims a bundle of {record.bundle_bytes} bytes, its heads allow {least} to {most}"
        )
    return record.bundle_bytes
