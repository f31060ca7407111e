"""Bytes that cross between participants: one strict binary format, and nothing else is ever parsed from a peer.

`encrypt_payload` and `open_payload` are for what a submission says, `encode_submission` and `decode_submission` for the
whole of it. Everything that is wrong with received bytes is a `WireError` with a stable reason.
"""

from muster.protocol.errors import WireError
from muster.protocol.wire.amendment import Amendment, decode_amendment, encode_amendment
from muster.protocol.wire.dispute import MAX_DISPUTE_BYTES, Dispute, decode_dispute, encode_dispute
from muster.protocol.wire.envelope import (
    MAX_BODY_BYTES,
    PREFIX_BYTES,
    Envelope,
    Prefix,
    Type,
    body_digest,
    digest_of,
    head_digest,
    read_object,
    read_prefix,
)
from muster.protocol.wire.hello import MAX_HELLO_BYTES, PREFIXES, Hello, decode_hello, encode_hello
from muster.protocol.wire.key import KEY_BYTES, Key, decode_key, encode_key, key_object_bytes
from muster.protocol.wire.proof import Proof, decode_proof, encode_proof
from muster.protocol.wire.record import (
    MAX_AMENDMENTS,
    MAX_PROOFS,
    Entry,
    Kind,
    Opening,
    Record,
    ScoresUsed,
    UsedScore,
    decode_record,
    encode_record,
)
from muster.protocol.wire.scores import ScoreFile, decode_scores, encode_scores, max_scores_bytes, scores_used
from muster.protocol.wire.seal import (
    MAX_SEALED,
    Seal,
    decode_seal,
    decode_sealed,
    encode_seal,
    encode_sealed,
    strictly_ascending,
)
from muster.protocol.wire.submission import (
    Header,
    Signed,
    decode_head,
    decode_submission,
    encode_head,
    encode_submission,
    encrypt_frames,
    encrypt_payload,
    key_commitment,
    open_payload,
)

__all__ = [
    "KEY_BYTES",
    "MAX_AMENDMENTS",
    "MAX_BODY_BYTES",
    "MAX_DISPUTE_BYTES",
    "MAX_HELLO_BYTES",
    "MAX_PROOFS",
    "MAX_SEALED",
    "PREFIXES",
    "PREFIX_BYTES",
    "Amendment",
    "Dispute",
    "Entry",
    "Envelope",
    "Header",
    "Hello",
    "Key",
    "Kind",
    "Opening",
    "Prefix",
    "Proof",
    "Record",
    "ScoreFile",
    "ScoresUsed",
    "Seal",
    "Signed",
    "Type",
    "UsedScore",
    "WireError",
    "body_digest",
    "decode_amendment",
    "decode_dispute",
    "decode_head",
    "decode_hello",
    "decode_key",
    "decode_proof",
    "decode_record",
    "decode_scores",
    "decode_seal",
    "decode_sealed",
    "decode_submission",
    "digest_of",
    "encode_amendment",
    "encode_dispute",
    "encode_head",
    "encode_hello",
    "encode_key",
    "encode_proof",
    "encode_record",
    "encode_scores",
    "encode_seal",
    "encode_sealed",
    "encode_submission",
    "encrypt_frames",
    "encrypt_payload",
    "head_digest",
    "key_commitment",
    "key_object_bytes",
    "max_scores_bytes",
    "open_payload",
    "read_object",
    "read_prefix",
    "scores_used",
    "strictly_ascending",
]
