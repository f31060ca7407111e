"""An amendment on the wire: the owner's signed wish to change one field of the spec from some round on."""

from __future__ import annotations

from dataclasses import dataclass

from muster.protocol.identity import Identity
from muster.protocol.wire.envelope import Type, read_object, write_object
from muster.protocol.wire.tlv import u64

_PATH = 4
_VALUE = 5
_NUMBER = 6
MAX_PATH = 64
MAX_VALUE = 4096


@dataclass(frozen=True, slots=True)
class Amendment:
    """`path` (for instance `outer.alpha`) becomes `value` (RFC 8785 JSON text) from `round` on.

    `number` counts the run's amendments from 1: each is recorded once and in order, so an old one that is shown again
    undoes nothing.
    """

    number: int
    round: int
    path: str
    value: str
    signer: bytes


def encode_amendment(identity: Identity, run_id: bytes, number: int, round_: int, path: str, value: str) -> bytes:
    """The signed object."""
    fields = {_PATH: path.encode("ascii"), _VALUE: value.encode("ascii"), _NUMBER: u64(number)}
    return write_object(Type.AMENDMENT, identity, run_id, round_, fields)


def decode_amendment(data: bytes, run_id: bytes) -> Amendment:
    """Parse and verify.

    Raises:
        WireError: with the reason.
    """
    envelope = read_object(data, Type.AMENDMENT, run_id)
    path, value = envelope.fields.text(_PATH, MAX_PATH), envelope.fields.text(_VALUE, MAX_VALUE)
    number = envelope.fields.u64(_NUMBER)
    envelope.fields.end()
    return Amendment(number, envelope.round, path, value, envelope.signer)
