"""The frame around every signed object: sizes first, so that nothing is read or allocated on a stranger's word.

    offset  size  field
         0     4  magic "MSTR"
         4     1  format, 2
         5     1  type
         6     2  zero
         8     4  body length, u32
        12     b  body: canonical fields (1 run id, 2 hotkey of the signer, 3 round, …)
      12+b    64  sr25519 signature over "muster/<type>/v2" ‖ run id ‖ body

The digest of an object is BLAKE3("muster/<type>/v2" ‖ body): it does not cover the randomised signature. That of a head
covers every byte of it, signature included, because what names a head vouches that it was read as it was sealed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from blake3 import blake3

from muster.protocol.errors import WireError
from muster.protocol.identity import SIGNATURE_BYTES, Identity, hotkey_of, verify
from muster.protocol.wire.tlv import Fields, u64, write_fields

MAGIC = b"MSTR"
FORMAT = 2
_PREFIX = struct.Struct("<4sBBHI")
PREFIX_BYTES = _PREFIX.size
MAX_BODY_BYTES = 64 * 2**20
"""Cap of any body; a 72B record of 20 submissions × 724 tensors with 256 headers is under 1 MiB."""

MAX_SIGNED_BYTES = MAX_BODY_BYTES // 4
"""Cap of a seal or record where two of them are shown beside each other: both, and a record that carries them, fit into
one object. 16 MiB; a record of 256 slots has under 3, all heads as large as a head may be and 64 validators' scores in
it."""

RUN, HOTKEY, ROUND = 1, 2, 3


class Type(IntEnum):
    """What an envelope holds."""

    HEAD = 1
    KEY = 2
    SEAL = 3
    RECORD = 4
    AMENDMENT = 5
    HELLO = 6
    SCORES = 7
    PROOF = 8

    @property
    def tag(self) -> bytes:
        """Domain separator of signatures and digests."""
        return f"muster/{self.name.lower()}/v2".encode()


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first 12 bytes: type and size."""

    type: Type
    body: int

    @property
    def total_bytes(self) -> int:
        """The whole object: prefix, body and signature."""
        return PREFIX_BYTES + self.body + SIGNATURE_BYTES


@dataclass(frozen=True, slots=True)
class Envelope:
    """A verified frame: who signed which fields."""

    type: Type
    run_id: bytes
    signer: bytes
    round: int
    fields: Fields
    digest: bytes

    @property
    def hotkey(self) -> str:
        """The signer's ss58 address."""
        return hotkey_of(self.signer)


def read_prefix(data: bytes | memoryview, expected: Type) -> Prefix:
    """Check the first `PREFIX_BYTES` of an object.

    Raises:
        WireError: `truncated`, `magic`, `format`, `type`, `reserved`, `body_size`.
    """
    if len(data) < PREFIX_BYTES:
        raise WireError("truncated", f"{len(data)} bytes are less than a prefix")
    magic, version, kind, zero, body = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise WireError("magic", "not a Muster object")
    if version != FORMAT:
        raise WireError("format", f"format {version}; this release reads {FORMAT}")
    if kind != expected:
        raise WireError("type", f"type {kind} where {expected} was expected")
    if zero:
        raise WireError("reserved", "reserved bytes are not zero")
    if body > MAX_BODY_BYTES:
        raise WireError("body_size", f"a body of {body} bytes")
    return Prefix(expected, body)


def type_of(data: bytes) -> Type | None:
    """What an object says that it is; None where that is nothing."""
    try:
        return Type(data[5])
    except (IndexError, ValueError):
        return None


def write_object(kind: Type, identity: Identity, run_id: bytes, round_: int, fields: dict[int, bytes]) -> bytes:
    """A signed object: prefix, body and signature."""
    body = write_fields({RUN: run_id, HOTKEY: identity.public, ROUND: u64(round_), **fields})
    signature = identity.sign(kind.tag + run_id + body)
    return _PREFIX.pack(MAGIC, FORMAT, kind, 0, len(body)) + body + signature


def digest_of(data: bytes) -> bytes:
    """The digest of an object (made or verified by this process)."""
    _, _, kind, _, body = _PREFIX.unpack_from(data)
    if kind == Type.HEAD:
        return head_digest(data)
    return blake3(Type(kind).tag + data[PREFIX_BYTES : PREFIX_BYTES + body]).digest()


def head_digest(head: bytes) -> bytes:
    """How a seal names a submission: BLAKE3("muster/head/v2" ‖ every byte of its head), readable or not."""
    return blake3(Type.HEAD.tag + head).digest()


def body_digest(data: bytes, expected: Type) -> bytes | None:
    """The digest that an object would have by its body alone; None where its frame is not whole.

    Says whether bytes are the ones that are meant before anything else about them is judged.
    """
    try:
        prefix = read_prefix(data, expected)
    except WireError:
        return None
    return digest_of(data) if len(data) == prefix.total_bytes else None


def read_object(data: bytes, expected: Type, run_id: bytes) -> Envelope:
    """Parse and verify an object; `data` must end where it ends.

    Raises:
        WireError: what `read_prefix` raises, `truncated`, `trailing`, field errors, `wrong_run`, `signature`.
    """
    prefix = read_prefix(data, expected)
    if len(data) != prefix.total_bytes:
        raise WireError("truncated" if len(data) < prefix.total_bytes else "trailing", f"{len(data)} bytes")
    body = data[PREFIX_BYTES : PREFIX_BYTES + prefix.body]
    fields = Fields(body)
    named_run, signer, round_ = fields.digest(RUN), fields.digest(HOTKEY), fields.u64(ROUND)
    if named_run != run_id:
        raise WireError("wrong_run", f"run {named_run.hex()[:16]}")
    if not verify(signer, expected.tag + run_id + body, data[-SIGNATURE_BYTES:]):
        raise WireError("signature", f"not signed by {hotkey_of(signer)}")
    return Envelope(expected, run_id, signer, round_, fields, digest_of(data))
