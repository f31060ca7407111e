"""The bundle of a round: the accepted submissions with their keys, so that whoever joins later can replay it.

Per accepted submission in record order: head ‖ key (32 bytes) ‖ ciphertext. No lengths of its own: the record
holds every head, and a head says how long its ciphertext is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from blake3 import blake3

from muster.protocol.errors import LedgerError
from muster.protocol.wire import KEY_BYTES, Signed

EMPTY_DIGEST = blake3(b"").digest()
"""What a record that applies nothing says of its bundle."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A submission whose key is known: everything that is needed to apply it."""

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


def bundle_size(accepted: Iterable[Signed]) -> int:
    """Exact size of the bundle of these submissions."""
    return sum(len(s.head) + KEY_BYTES + s.ciphertext_bytes for s in accepted)


def read_bundle(data: bytes, accepted: Iterable[Signed]) -> list[Opened]:
    """Split a bundle by the accepted heads of its record.

    Raises:
        LedgerError: it is not exactly these submissions.
    """
    opened, offset = [], 0
    for signed in accepted:
        end = offset + len(signed.head)
        if data[offset:end] != signed.head:
            raise LedgerError("the bundle holds another submission than its record")
        key = data[end : end + KEY_BYTES]
        offset = end + KEY_BYTES + signed.ciphertext_bytes
        opened.append(Opened(signed, key, data[end + KEY_BYTES : offset]))
    if offset != len(data):
        raise LedgerError(f"the bundle has {len(data)} bytes, its record accounts for {offset}")
    return opened
