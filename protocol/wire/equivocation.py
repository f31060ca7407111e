"""Two signatures where there may be one: a round is sealed, and recorded, once by one key in a turn and after a parent.

It is a proof (`proof.py`) of its own kind. The two objects show it to everybody, so it does not matter who signed the
proof, nor which object comes first. Only what must be the same in both is read of them: whoever signs two, broken ones
too, has signed two.
"""

from __future__ import annotations

from dataclasses import dataclass

from muster.protocol.errors import WireError
from muster.protocol.identity import Identity
from muster.protocol.wire import record, seal
from muster.protocol.wire.envelope import MAX_SIGNED_BYTES, Type, digest_of, read_object, type_of
from muster.protocol.wire.proof import decode_proof, encode_proof

TWO_SIGNATURES = 1
"""The kind of the proof."""

MAX_EQUIVOCATION_BYTES = 2 * MAX_SIGNED_BYTES + 1024
"""Cap of the proof: two objects, a sentence, and the frame."""

_PARENT_AND_TURN = {Type.SEAL: (seal.PARENT, seal.TURN), Type.RECORD: (record.PARENT, record.TURN)}
"""The fields of what may be signed once."""


@dataclass(frozen=True, slots=True)
class Once:
    """What `signer` (32 public bytes) may sign one object for: the seal, or the record, of a round, in a turn and after
    a parent."""

    type: Type
    signer: bytes
    round: int
    turn: int
    parent: bytes


@dataclass(frozen=True, slots=True)
class Equivocation:
    """Two objects, with the `digests`, in ascending order, that one key has signed `once`; `signer` says so."""

    once: Once
    digests: tuple[bytes, bytes]
    signer: bytes


def signed_once(data: bytes, run_id: bytes) -> tuple[Once, bytes]:
    """What a seal or record is signed for, and its digest; its signature is checked, and the rest of it is not.

    Raises:
        WireError: `signed_size`; `signed_type` where it is something else; or what reading an object raises.
    """
    if len(data) > MAX_SIGNED_BYTES:
        raise WireError("signed_size", f"{len(data)} bytes")
    kind = type_of(data)
    if kind is None or kind not in _PARENT_AND_TURN:
        raise WireError("signed_type", "it is neither a seal nor a record")
    envelope = read_object(data, kind, run_id)
    parent, turn = _PARENT_AND_TURN[kind]
    fields = envelope.fields
    return Once(kind, envelope.signer, envelope.round, fields.u32(turn), fields.digest(parent)), envelope.digest


def encode_equivocation(identity: Identity, run_id: bytes, first: bytes, second: bytes) -> bytes:
    """The proof that two objects make, signed by who has found them.

    Raises:
        WireError: they are none: as `decode_equivocation` raises it.
    """
    once, _ = _compared((first, second), run_id)
    said = f"two signatures for the {once.type.name.lower()} of round {once.round}, turn {once.turn}"
    return encode_proof(identity, run_id, once.round, TWO_SIGNATURES, (first, second), said)


def decode_equivocation(data: bytes, run_id: bytes) -> tuple[Equivocation, bytes]:
    """What a proof shows, and its digest.

    Raises:
        WireError: `equivocation_size`; `proof_kind`; `equivocation_objects` where they are not two, or not signed for
            the same; `equivocation_same` where they are one; `equivocation_round` where the proof is not of theirs; or
            what `signed_once` and a proof raise.
    """
    if len(data) > MAX_EQUIVOCATION_BYTES:
        raise WireError("equivocation_size", f"{len(data)} bytes")
    proof = decode_proof(data, run_id)
    if proof.kind != TWO_SIGNATURES:
        raise WireError("proof_kind", f"a proof of kind {proof.kind}")
    once, digests = _compared(proof.objects, run_id)
    if proof.round != once.round:
        raise WireError("equivocation_round", f"a proof of round {proof.round} with objects of round {once.round}")
    return Equivocation(once, digests, proof.signer), digest_of(data)


def _compared(objects: tuple[bytes, ...], run_id: bytes) -> tuple[Once, tuple[bytes, bytes]]:
    """What two objects are both signed for, and their digests in ascending order."""
    if len(objects) != 2:
        raise WireError("equivocation_objects", f"{len(objects)} objects where two are expected")
    (once, one), (other_once, other) = (signed_once(data, run_id) for data in objects)
    if once != other_once:
        raise WireError("equivocation_objects", "they are not signed by one key for the same")
    if one == other:
        raise WireError("equivocation_same", "they are the same")
    return once, (min(one, other), max(one, other))
