"""A peer's work on the wire: a clear header anyone may read, and a payload nobody can before the seal.

The payload (a codec version byte and the codec's frames) is encrypted with ChaCha20-Poly1305 under a fresh key whose
BLAKE3 the header commits to.
The associated data name run, round and hotkey, so the same ciphertext under another peer's header does not open.
"""

from __future__ import annotations

from dataclasses import dataclass

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from muster import kernels
from muster.kernels import Codec, FrameError, SparseUpdate
from muster.protocol.errors import WireError
from muster.protocol.identity import Identity, hotkey_of
from muster.protocol.spec.layout import AEAD_TAG_BYTES, CODEC_BYTES
from muster.protocol.wire.envelope import Envelope, Type, read_head, read_prefix, read_whole, write_head
from muster.protocol.wire.tlv import u32, u64

KEY_BYTES = 32
NONCE = bytes(12)
"""A payload key encrypts exactly one payload, so a constant nonce is as unique as any."""


@dataclass(frozen=True, slots=True)
class Header:
    """The clear part of a submission.

    `windows` is the length of the trained prefix of the peer's assigned windows, `tokens` what was trained on,
    `data_digest` BLAKE3 of those window ids, `possession` the proof that the peer holds θ of `base_round`.
    """

    run_id: bytes
    public: bytes
    round: int
    base_round: int
    uid: int
    layout: bytes
    possession: bytes
    data_digest: bytes
    windows: int
    tokens: int
    payload_bytes: int
    ciphertext_digest: bytes
    key_commitment: bytes

    @property
    def hotkey(self) -> str:
        """The peer's ss58 address."""
        return hotkey_of(self.public)


@dataclass(frozen=True, slots=True)
class Signed:
    """A header with the exact bytes that were signed (`head`) and their digest."""

    header: Header
    head: bytes
    digest: bytes

    @property
    def ciphertext_bytes(self) -> int:
        """Size of the object's tail."""
        return self.header.payload_bytes + AEAD_TAG_BYTES


_BASE, _UID, _LAYOUT, _POSSESSION, _DATA, _WINDOWS, _TOKENS, _PAYLOAD, _CIPHER, _COMMIT = range(4, 14)
_KEY = 4


def associated_data(run_id: bytes, round_: int, public: bytes) -> bytes:
    """What a payload is bound to beyond its key."""
    return b"muster/payload/v1" + run_id + u64(round_) + public


def seal(update: SparseUpdate, key: bytes, run_id: bytes, round_: int, public: bytes) -> bytes:
    """Encode and encrypt an update; returns the ciphertext with its tag."""
    return encrypt(kernels.encode(update), key, run_id, round_, public, update.codec.version)


def encrypt(frames: bytes, key: bytes, run_id: bytes, round_: int, public: bytes, codec: int = 1) -> bytes:
    """Encrypt frames, after the version byte of their codec, for one peer, round and run; the ciphertext with its tag.

    `codec` is what the run spec names as `sparse.codec`.
    """
    return ChaCha20Poly1305(key).encrypt(NONCE, bytes([codec]) + frames, associated_data(run_id, round_, public))


def key_commitment(key: bytes) -> bytes:
    """What a header says of the key before it is published."""
    return blake3(key).digest()


def open(header: Header, ciphertext: bytes | memoryview, key: bytes, codec: Codec) -> SparseUpdate:  # noqa: A001
    """Check a payload against its header, decrypt and decode it.

    Raises:
        WireError: `ciphertext_size`, `ciphertext_digest`, `key_mismatch`, `payload_auth`, `codec_version`, or a reason
            of the codec.
    """
    if len(ciphertext) != header.payload_bytes + AEAD_TAG_BYTES:
        raise WireError("ciphertext_size", f"{len(ciphertext)} bytes")
    if blake3(ciphertext).digest() != header.ciphertext_digest:
        raise WireError("ciphertext_digest", "the payload is not the one the header commits to")
    if len(key) != KEY_BYTES or key_commitment(key) != header.key_commitment:
        raise WireError("key_mismatch", "the key is not the one the header commits to")
    try:
        payload = ChaCha20Poly1305(key).decrypt(
            NONCE, ciphertext, associated_data(header.run_id, header.round, header.public)
        )
    except InvalidTag as error:
        raise WireError("payload_auth", "sealed for another peer, round or run") from error
    if payload[:CODEC_BYTES] != bytes([codec.version]):
        raise WireError("codec_version", f"this run has codec {codec.version}")
    try:
        return kernels.decode(memoryview(payload)[CODEC_BYTES:], codec)
    except FrameError as error:
        raise WireError(error.reason, str(error)) from error


def encode(header: Header, identity: Identity, ciphertext: bytes) -> bytes:
    """The whole submission object."""
    fields = {
        _BASE: u64(header.base_round),
        _UID: u32(header.uid),
        _LAYOUT: header.layout,
        _POSSESSION: header.possession,
        _DATA: header.data_digest,
        _WINDOWS: u64(header.windows),
        _TOKENS: u64(header.tokens),
        _PAYLOAD: u64(header.payload_bytes),
        _CIPHER: header.ciphertext_digest,
        _COMMIT: header.key_commitment,
    }
    head = write_head(Type.SUBMISSION, identity, header.run_id, header.round, fields, len(ciphertext))
    return head + ciphertext


def decode_head(head: bytes, run_id: bytes) -> Signed:
    """Parse and verify a submission's head.

    Raises:
        WireError: with the reason.
    """
    envelope = read_head(head, Type.SUBMISSION, run_id)
    signed = Signed(_header(envelope), head, envelope.digest)
    if envelope.tail_bytes != signed.ciphertext_bytes:
        raise WireError("payload_size", f"a tail of {envelope.tail_bytes} bytes")
    return signed


def decode(data: bytes, run_id: bytes) -> tuple[Signed, bytes]:
    """Parse and verify a whole submission object; returns the signed header and the ciphertext.

    Raises:
        WireError: with the reason.
    """
    prefix = read_prefix(data, Type.SUBMISSION)
    if len(data) != prefix.total_bytes:
        raise WireError("truncated" if len(data) < prefix.total_bytes else "trailing", f"{len(data)} bytes")
    return decode_head(data[: prefix.head_bytes], run_id), data[prefix.head_bytes :]


def _header(envelope: Envelope) -> Header:
    fields = envelope.fields
    header = Header(
        run_id=envelope.run_id,
        public=envelope.signer,
        round=envelope.round,
        base_round=fields.u64(_BASE),
        uid=fields.u32(_UID),
        layout=fields.digest(_LAYOUT),
        possession=fields.digest(_POSSESSION),
        data_digest=fields.digest(_DATA),
        windows=fields.u64(_WINDOWS),
        tokens=fields.u64(_TOKENS),
        payload_bytes=fields.u64(_PAYLOAD),
        ciphertext_digest=fields.digest(_CIPHER),
        key_commitment=fields.digest(_COMMIT),
    )
    fields.end()
    return header


def encode_key(identity: Identity, run_id: bytes, round_: int, key: bytes) -> bytes:
    """The object a miner publishes once it has seen the seal."""
    return write_head(Type.KEY, identity, run_id, round_, {_KEY: key})


def decode_key(data: bytes, run_id: bytes, round_: int, public: bytes) -> bytes:
    """The key out of a key object.

    Raises:
        WireError: `key_round`, `key_hotkey`, or what the envelope raises with `key_` before it: a bad key must
            never go by the name of a bad head, which everybody can look at and would not find.
    """
    try:
        envelope = read_whole(data, Type.KEY, run_id)
        key = envelope.fields.sized(_KEY, KEY_BYTES)
        envelope.fields.end()
    except WireError as error:
        raise WireError(f"key_{error.reason}", error.detail) from error
    if envelope.round != round_:
        raise WireError("key_round", f"a key of round {envelope.round}")
    if envelope.signer != public:
        raise WireError("key_hotkey", f"signed by {envelope.hotkey}")
    return key
