"""An amendment on the wire: the owner's signed wish to change one field of the spec from some round on."""

from __future__ import annotations

from dataclasses import dataclass

from muster.protocol.identity import Identity
from muster.protocol.wire.envelope import Type, read_object, write_object

_PATH = 4
_VALUE = 5
MAX_PATH = 64
MAX_VALUE = 4096


@dataclass(frozen=True, slots=True)
class Amendment:
    """`path` (for instance `outer.alpha`) becomes `value` (RFC 8785 JSON text) from `round` on."""

    round: int
    path: str
    value: str
    signer: bytes


def encode_amendment(identity: Identity, run_id: bytes, round_: int, path: str, value: str) -> bytes:
    """The signed object."""
    fields = {_PATH: path.encode("ascii"), _VALUE: value.encode("ascii")}
    return write_object(Type.AMENDMENT, identity, run_id, round_, fields)


def decode_amendment(data: bytes, run_id: bytes) -> Amendment:
    """Parse and verify.

    Raises:
        WireError: with the reason.
    """
    envelope = read_object(data, Type.AMENDMENT, run_id)
    path, value = envelope.fields.text(_PATH, MAX_PATH), envelope.fields.text(_VALUE, MAX_VALUE)
    envelope.fields.end()
    return Amendment(envelope.round, path, value, envelope.signer)
