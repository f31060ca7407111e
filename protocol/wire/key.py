"""A payload's key on the wire: what opens the payload, and which seal it was shown for.

A key that says which seal it answers binds that seal: of two seals of one round only one can have the keys, and a
record is made of the keys that answer the seal it names.
"""

from __future__ import annotations

from dataclasses import dataclass

from muster.protocol.errors import WireError
from muster.protocol.identity import Identity
from muster.protocol.wire.envelope import Type, read_object, read_prefix, write_object

KEY_BYTES = 32

_KEY = 4
_SEAL = 5


@dataclass(frozen=True, slots=True)
class Key:
    """The 32 bytes that open a payload, the digest of the seal they answer, and the whole object."""

    payload_key: bytes
    seal: bytes
    data: bytes


def encode_key(identity: Identity, run_id: bytes, round_: int, payload_key: bytes, seal: bytes) -> bytes:
    """The object a miner publishes once it has seen the seal with this digest."""
    return write_object(Type.KEY, identity, run_id, round_, {_KEY: payload_key, _SEAL: seal})


def key_object_bytes(data: bytes | memoryview) -> int:
    """How many bytes the key object has that `data` begins with, as its prefix says.

    Raises:
        WireError: `key_…`; there is no prefix of one.
    """
    try:
        return read_prefix(data, Type.KEY).total_bytes
    except WireError as error:
        raise WireError(f"key_{error.reason}", error.detail) from error


def decode_key(data: bytes, run_id: bytes, round_: int, public: bytes) -> Key:
    """Parse and verify a key object of one peer and round.

    Raises:
        WireError: `key_round`, `key_hotkey`, or what the envelope raises with `key_` before it: a bad key must
            never go by the name of a bad head, which everybody can look at and would not find.
    """
    try:
        envelope = read_object(data, Type.KEY, run_id)
        key = Key(envelope.fields.sized(_KEY, KEY_BYTES), envelope.fields.digest(_SEAL), data)
        envelope.fields.end()
    except WireError as error:
        raise WireError(f"key_{error.reason}", error.detail) from error
    if envelope.round != round_:
        raise WireError("key_round", f"a key of round {envelope.round}")
    if envelope.signer != public:
        raise WireError("key_hotkey", f"signed by {envelope.hotkey}")
    return key
