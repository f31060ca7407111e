"""A peer's work on the wire: a clear head anyone may read, and a payload nobody can before the seal.

They are two objects, so that the head, which the seal lists, is up before the payload is. The payload (a codec version
byte and the codec's frames) is encrypted with ChaCha20-Poly1305 under a fresh key whose BLAKE3 the header commits to.
The associated data name run, round and hotkey, so the same ciphertext under another peer's header does not open.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from blake3 import blake3
from cryptography.exceptions import InvalidTag

from muster import kernels
from muster.kernels import Codec, FrameError, SparseUpdate
from muster.protocol.errors import WireError
from muster.protocol.identity import Identity, hotkey_of
from muster.protocol.spec.layout import AEAD_TAG_BYTES, CODEC_BYTES
from muster.protocol.wire.envelope import Envelope, Type, read_object, read_prefix, write_object
from muster.protocol.wire.key import KEY_BYTES
from muster.protocol.wire.pieces import decrypt, encrypt, joined
from muster.protocol.wire.tlv import u32, u64

NONCE = bytes(12)
"""A payload key encrypts exactly one payload, so a constant nonce is as unique as any."""

HEADS_KEPT, KEPT_BYTES = 1024, 1024
"""Good heads, of so many bytes at most, whose reading is kept, 3 KiB each: those of a large round, which are asked for
when its record's bundle is measured, when it is opened and when it is judged. A signature takes 0.1 ms to verify."""


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
    """A header with its whole object (`head`) and that object's digest, by which a seal lists it."""

    header: Header
    head: bytes
    digest: bytes

    @property
    def ciphertext_bytes(self) -> int:
        """Size of the payload's object."""
        return self.header.payload_bytes + AEAD_TAG_BYTES


_BASE = 4
_UID = 5
_LAYOUT = 6
_POSSESSION = 7
_DATA = 8
_WINDOWS = 9
_TOKENS = 10
_PAYLOAD = 11
_CIPHER = 12
_COMMIT = 13


def associated_data(run_id: bytes, round_: int, public: bytes) -> bytes:
    """What a payload is bound to beyond its key."""
    return b"muster/payload/v2" + run_id + u64(round_) + public


def encrypt_payload(update: SparseUpdate, key: bytes, run_id: bytes, round_: int, public: bytes) -> bytes:
    """Encode and encrypt an update; returns the ciphertext with its tag."""
    return encrypt_frames(kernels.encode(update), key, run_id, round_, public, update.codec.version)


def encrypt_frames(frames: bytes, key: bytes, run_id: bytes, round_: int, public: bytes, codec: int = 1) -> bytes:
    """Encrypt frames, after the version byte of their codec, for one peer, round and run; the ciphertext with its tag.

    `codec` is what the run spec names as `sparse.codec`.
    """
    return encrypt(key, NONCE, associated_data(run_id, round_, public), bytes([codec]), frames)


def key_commitment(key: bytes) -> bytes:
    """What a header says of the key before it is published."""
    return blake3(key).digest()


def open_payload(header: Header, ciphertext: bytes | memoryview, key: bytes, codec: Codec) -> SparseUpdate:
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
        payload = decrypt(key, NONCE, associated_data(header.run_id, header.round, header.public), ciphertext)
    except InvalidTag as error:
        raise WireError("payload_auth", "sealed for another peer, round or run") from error
    if payload[:CODEC_BYTES] != bytes([codec.version]):
        raise WireError("codec_version", f"this run has codec {codec.version}")
    try:
        return kernels.decode(memoryview(payload)[CODEC_BYTES:], codec)
    except FrameError as error:
        raise WireError(error.reason, str(error)) from error


def encode_head(header: Header, identity: Identity) -> bytes:
    """The head of a submission, the object that a seal lists."""
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
    return write_object(Type.HEAD, identity, header.run_id, header.round, fields)


def decode_head(head: bytes, run_id: bytes) -> Signed:
    """Parse and verify a submission's head; one that was good a moment ago is not verified again.

    Raises:
        WireError: with the reason.
    """
    return _good_head(head, run_id) if len(head) <= KEPT_BYTES else _read_head(head, run_id)


@lru_cache(maxsize=HEADS_KEPT)
def _good_head(head: bytes, run_id: bytes) -> Signed:
    return _read_head(head, run_id)


def _read_head(head: bytes, run_id: bytes) -> Signed:
    envelope = read_object(head, Type.HEAD, run_id)
    return Signed(_header(envelope), head, envelope.digest)


def encode_submission(header: Header, identity: Identity, ciphertext: bytes) -> bytes:
    """Head ‖ ciphertext, as a miner keeps its submission: both of them, or neither."""
    return joined(encode_head(header, identity), ciphertext)


def decode_submission(data: bytes, run_id: bytes) -> tuple[Signed, bytes]:
    """Parse and verify what `encode_submission` made; returns the signed header and the ciphertext.

    Raises:
        WireError: with the reason.
    """
    signed = submitted_head(data, run_id)
    return signed, joined(memoryview(data)[len(signed.head) :])


def submitted_head(data: bytes, run_id: bytes) -> Signed:
    """The signed header of what `encode_submission` made, without a copy of the rest; errors as `decode_submission`."""
    signed = decode_head(data[: read_prefix(data, Type.HEAD).total_bytes], run_id)
    size = len(data) - len(signed.head)
    if size != signed.ciphertext_bytes:
        raise WireError("ciphertext_size", f"{size} bytes")
    return signed


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
