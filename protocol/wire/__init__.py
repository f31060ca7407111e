"""Bytes that cross between participants: one strict binary format, and nothing else is ever parsed from a peer.

`encode`/`decode` are for submissions; `seal`/`open` encrypt and decrypt their payload. Everything that is wrong
with received bytes is a `WireError` with a stable reason.
"""

from muster.protocol.errors import WireError
from muster.protocol.wire.amendment import Amendment, decode_amendment, encode_amendment
from muster.protocol.wire.envelope import (
    MAX_BODY_BYTES,
    PREFIX_BYTES,
    Envelope,
    Prefix,
    Type,
    body_digest,
    digest_of,
    read_head,
    read_prefix,
)
from muster.protocol.wire.hello import MAX_HELLO_BYTES, PREFIXES, Hello, decode_hello, encode_hello
from muster.protocol.wire.record import (
    MAX_AMENDMENTS,
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
    decode_heads,
    decode_seal,
    encode_heads,
    encode_seal,
    strictly_ascending,
)
from muster.protocol.wire.submission import (
    KEY_BYTES,
    Header,
    Signed,
    decode,
    decode_head,
    decode_key,
    encode,
    encode_key,
    encrypt,
    key_commitment,
    open,  # noqa: A004
    seal,
)

__all__ = [
    "KEY_BYTES",
    "MAX_AMENDMENTS",
    "MAX_BODY_BYTES",
    "MAX_HELLO_BYTES",
    "MAX_SEALED",
    "PREFIXES",
    "PREFIX_BYTES",
    "Amendment",
    "Entry",
    "Envelope",
    "Header",
    "Hello",
    "Kind",
    "Opening",
    "Prefix",
    "Record",
    "ScoreFile",
    "ScoresUsed",
    "Seal",
    "Signed",
    "Type",
    "UsedScore",
    "WireError",
    "body_digest",
    "decode",
    "decode_amendment",
    "decode_head",
    "decode_heads",
    "decode_hello",
    "decode_key",
    "decode_record",
    "decode_scores",
    "decode_seal",
    "digest_of",
    "encode",
    "encode_amendment",
    "encode_heads",
    "encode_hello",
    "encode_key",
    "encode_record",
    "encode_scores",
    "encode_seal",
    "encrypt",
    "key_commitment",
    "max_scores_bytes",
    "open",
    "read_head",
    "read_prefix",
    "scores_used",
    "seal",
    "strictly_ascending",
]
