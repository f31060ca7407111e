"""An amendment on the wire: a signed wish to change one field of the spec from some round on, and who else signs it.

The object is the usual one, by whoever signs first. Others sign the same body, and their signatures follow the object:

    offset  size  field
         0     n  the object: prefix, body, signature (`envelope`)
         n  96·c  c co-signatures: public key (32) ‖ signature (64), by key ascending, none of the object's own signer

A co-signature is over what the object's own is over, so whoever has the bytes can verify each by itself, and adding one
changes neither the body nor the digest.
"""

from __future__ import annotations

from dataclasses import dataclass

from muster.protocol.errors import WireError
from muster.protocol.identity import PUBLIC_BYTES, SIGNATURE_BYTES, Identity, hotkey_of, verify
from muster.protocol.wire.envelope import PREFIX_BYTES, Type, read_object, read_prefix, write_object
from muster.protocol.wire.seal import chunks, strictly_ascending
from muster.protocol.wire.tlv import u64

_PATH = 4
_VALUE = 5
_NUMBER = 6
MAX_PATH = 64
MAX_VALUE = 4096
MAX_COSIGNERS = 64
"""As many validators as a run may list (`spec.sections.MAX_LEADERS`)."""

_COSIGNATURE = PUBLIC_BYTES + SIGNATURE_BYTES
MAX_AMENDMENT_BYTES = 1024 + MAX_PATH + MAX_VALUE + MAX_COSIGNERS * _COSIGNATURE
"""Cap of an amendment: path, value, the frame with room for optional fields, and the co-signatures."""


@dataclass(frozen=True, slots=True)
class Amendment:
    """`path` (for instance `outer.alpha`) becomes `value` (RFC 8785 JSON text) from `round` on.

    `number` counts the run's amendments from 1: each is recorded once and in order, so an old one that is shown again
    undoes nothing. `signer` and `cosigners`, ascending, are public keys.
    """

    number: int
    round: int
    path: str
    value: str
    signer: bytes
    cosigners: tuple[bytes, ...] = ()

    @property
    def signers(self) -> frozenset[bytes]:
        """Everybody who has signed it."""
        return frozenset((self.signer, *self.cosigners))


def encode_amendment(identity: Identity, run_id: bytes, number: int, round_: int, path: str, value: str) -> bytes:
    """The signed object, which nobody has co-signed yet."""
    fields = {_PATH: path.encode("ascii"), _VALUE: value.encode("ascii"), _NUMBER: u64(number)}
    return write_object(Type.AMENDMENT, identity, run_id, round_, fields)


def cosign_amendment(identity: Identity, run_id: bytes, data: bytes) -> bytes:
    """A valid amendment with one signature more; as it is where this hotkey has signed it."""
    if identity.public in decode_amendment(data, run_id).signers:
        return data
    end = read_prefix(data, Type.AMENDMENT).total_bytes
    signed = identity.public + identity.sign(_message(run_id, data, end))
    return data[:end] + b"".join(sorted([*chunks(data[end:], _COSIGNATURE), signed]))


def decode_amendment(data: bytes, run_id: bytes) -> Amendment:
    """Parse it and verify every signature.

    Raises:
        WireError: `amendment_size`, what an object raises, `trailing` (part of a co-signature), `too_many` of them,
            `cosigners` (not ascending, or the object's own signer), `cosignature` (not by the key that it names).
    """
    if len(data) > MAX_AMENDMENT_BYTES:
        raise WireError("amendment_size", f"{len(data)} bytes")
    end = read_prefix(data, Type.AMENDMENT).total_bytes
    envelope = read_object(data[:end], Type.AMENDMENT, run_id)
    path, value = envelope.fields.text(_PATH, MAX_PATH), envelope.fields.text(_VALUE, MAX_VALUE)
    number = envelope.fields.u64(_NUMBER)
    envelope.fields.end()
    cosigners = _cosigners(run_id, data, end, envelope.signer)
    return Amendment(number, envelope.round, path, value, envelope.signer, cosigners)


def _cosigners(run_id: bytes, data: bytes, end: int, signer: bytes) -> tuple[bytes, ...]:
    """The keys whose signatures follow the object, which ends there."""
    after = data[end:]
    if len(after) % _COSIGNATURE:
        raise WireError("trailing", f"{len(data)} bytes")
    if len(after) > MAX_COSIGNERS * _COSIGNATURE:
        raise WireError("too_many", f"more than {MAX_COSIGNERS} co-signatures")
    parts = chunks(after, _COSIGNATURE)
    keys = tuple(part[:PUBLIC_BYTES] for part in parts)
    if signer in keys or not strictly_ascending(keys):
        raise WireError("cosigners", "co-signatures are each hotkey's once, in key order, beside the signer's own")
    message = _message(run_id, data, end)
    for key, part in zip(keys, parts, strict=True):
        if not verify(key, message, part[PUBLIC_BYTES:]):
            raise WireError("cosignature", f"not signed by {hotkey_of(key)}")
    return keys


def _message(run_id: bytes, data: bytes, end: int) -> bytes:
    """What the object's own signature is over."""
    return Type.AMENDMENT.tag + run_id + data[PREFIX_BYTES : end - SIGNATURE_BYTES]
