"""A dispute: a validator says, signed, that another one did not measure what it published.

It is a proof (`proof.py`) of its own kind. It shows nothing to who cannot measure again himself, so it is the stake of
those who sign the same that counts (`rules/disputes.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from muster.protocol.errors import WireError
from muster.protocol.identity import PUBLIC_BYTES, Identity
from muster.protocol.wire.envelope import digest_of
from muster.protocol.wire.proof import MAX_SENTENCE, decode_proof, encode_proof
from muster.protocol.wire.tlv import whole

LYING_VALIDATOR = 2
"""The kind of the proof."""

MAX_DISPUTE_BYTES = 1024
"""Cap of a dispute: an object of 96 bytes, a sentence, and the frame."""


@dataclass(frozen=True, slots=True)
class Dispute:
    """`signer` says that the score file with the digest `file`, of `validator` and `round`, misstates `peer`'s gains.

    Peers are 32 public bytes; `sentence` is for people, with both figures.
    """

    round: int
    validator: bytes
    file: bytes
    peer: bytes
    sentence: str
    signer: bytes

    @property
    def claim(self) -> tuple[bytes, int, bytes]:
        """What others must say as well for it to count: whose file of which round, and its digest."""
        return self.validator, self.round, self.file


def encode_dispute(
    identity: Identity, run_id: bytes, round_: int, validator: bytes, file: bytes, peer: bytes, sentence: str
) -> bytes:
    """The signed object; of the sentence what fits."""
    said = validator + file + peer
    return encode_proof(identity, run_id, round_, LYING_VALIDATOR, (said,), sentence[:MAX_SENTENCE])


def decode_dispute(data: bytes, run_id: bytes) -> tuple[Dispute, bytes]:
    """The dispute and its digest.

    Raises:
        WireError: `dispute_size`, `proof_kind`, `dispute_objects`, or what a proof raises.
    """
    if len(data) > MAX_DISPUTE_BYTES:
        raise WireError("dispute_size", f"{len(data)} bytes")
    proof = decode_proof(data, run_id)
    if proof.kind != LYING_VALIDATOR:
        raise WireError("proof_kind", f"a proof of kind {proof.kind}")
    if len(proof.objects) != 1 or len(proof.objects[0]) != 2 * PUBLIC_BYTES + 32:
        raise WireError("dispute_objects", "it does not name one validator, file and peer")
    validator, file, peer = whole(
        proof.objects[0], lambda cursor: (cursor.take(PUBLIC_BYTES), cursor.take(32), cursor.take(PUBLIC_BYTES))
    )
    dispute = Dispute(proof.round, validator, file, peer, proof.sentence, proof.signer)
    return dispute, digest_of(data)
