"""A proof on the wire: signed objects that together show somebody broke a rule, with a sentence that says how.

Kinds: two signatures where there may be one (`equivocation.py`), and a dispute (`dispute.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from muster.protocol.identity import Identity
from muster.protocol.wire.envelope import PREFIX_BYTES, Type, read_object, read_prefix, write_object
from muster.protocol.wire.tlv import Fields, counted, u8, whole

MAX_OBJECTS = 4
MAX_SENTENCE = 256

_KIND = 4
_OBJECTS = 5
_SENTENCE = 6


@dataclass(frozen=True, slots=True)
class Proof:
    """What is shown (`kind`, numbered by the protocol), the objects that show it, and a sentence for people."""

    round: int
    kind: int
    objects: tuple[bytes, ...]
    sentence: str
    signer: bytes


def encode_proof(
    identity: Identity, run_id: bytes, round_: int, kind: int, objects: tuple[bytes, ...], sentence: str
) -> bytes:
    """The signed object."""
    fields = {_KIND: u8(kind), _OBJECTS: counted(objects), _SENTENCE: sentence.encode("ascii")}
    return write_object(Type.PROOF, identity, run_id, round_, fields)


def decode_proof(data: bytes, run_id: bytes) -> Proof:
    """Parse and verify.

    Raises:
        WireError: with the reason.
    """
    envelope = read_object(data, Type.PROOF, run_id)
    fields = envelope.fields
    proof = Proof(
        round=envelope.round,
        kind=fields.u8(_KIND),
        objects=tuple(whole(fields.raw(_OBJECTS), lambda cursor: cursor.items(MAX_OBJECTS))),
        sentence=fields.text(_SENTENCE, MAX_SENTENCE),
        signer=envelope.signer,
    )
    fields.end()
    return proof


def proof_kind(data: bytes) -> int:
    """What kind of proof an object says it is; nothing else of it is looked at, its signature neither.

    Raises:
        WireError: it says none.
    """
    prefix = read_prefix(data, Type.PROOF)
    return Fields(data[PREFIX_BYTES : PREFIX_BYTES + prefix.body]).u8(_KIND)
