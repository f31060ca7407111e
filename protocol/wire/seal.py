"""The seal of a round: the leader's signed list of what it had seen when the round closed. Nothing later counts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from muster.protocol.errors import WireError
from muster.protocol.identity import PUBLIC_BYTES, Identity
from muster.protocol.types import Block
from muster.protocol.wire.envelope import Type, read_object, write_object
from muster.protocol.wire.tlv import Cursor, counted, u32, u64

PARENT = 4
TURN = 5
_BLOCK = 6
_HASH = 7
_HEADERS = 8

DIGEST_BYTES = 32
MAX_SEALED = 65_536
"""More headers than any subnet has slots."""


@dataclass(frozen=True, slots=True)
class Seal:
    """`headers` maps each sealed peer's public key to the digest of its whole head, in key order.

    `parent` is the previous record's digest.
    """

    run_id: bytes
    leader: bytes
    round: int
    parent: bytes
    turn: int
    block: Block
    headers: tuple[tuple[bytes, bytes], ...]

    def sealed(self, public: bytes) -> bool:
        """Whether a head of this peer is in."""
        return any(peer == public for peer, _ in self.headers)

    def lists(self, public: bytes, head: bytes) -> bool:
        """Whether a peer's head with this digest is in."""
        return (public, head) in self.headers


def encode_seal(seal: Seal, identity: Identity) -> bytes:
    """The signed object."""
    fields = {
        PARENT: seal.parent,
        TURN: u32(seal.turn),
        _BLOCK: u64(seal.block.number),
        _HASH: seal.block.hash,
        _HEADERS: b"".join(peer + digest for peer, digest in seal.headers),
    }
    return write_object(Type.SEAL, identity, seal.run_id, seal.round, fields)


def decode_seal(data: bytes, run_id: bytes) -> tuple[Seal, bytes]:
    """The seal and its digest.

    Raises:
        WireError: `seal_order` where the list is not strictly ascending, or what the envelope raises.
    """
    envelope = read_object(data, Type.SEAL, run_id)
    fields = envelope.fields
    pairs = chunks(fields.raw(_HEADERS), PUBLIC_BYTES + DIGEST_BYTES)
    seal = Seal(
        run_id=run_id,
        leader=envelope.signer,
        round=envelope.round,
        parent=fields.digest(PARENT),
        turn=fields.u32(TURN),
        block=Block(fields.u64(_BLOCK), fields.digest(_HASH)),
        headers=tuple((pair[:PUBLIC_BYTES], pair[PUBLIC_BYTES:]) for pair in pairs),
    )
    fields.end()
    peers = [peer for peer, _ in seal.headers]
    if not strictly_ascending(peers):
        raise WireError("seal_order", "peers of a seal must be listed once, in key order")
    return seal, envelope.digest


def encode_sealed(seal: bytes, heads: Mapping[bytes, bytes]) -> bytes:
    """A seal's object and the heads it lists (peers' public keys to their bytes), for a later life of its leader.

    They lie in the leader's own bucket: length of the seal u32 ‖ seal ‖ list of public key ‖ head. The seal's signature
    and the digests in it tell a damaged read.
    """
    return u32(len(seal)) + seal + counted(public + heads[public] for public in sorted(heads))


def decode_sealed(data: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """What `encode_sealed` wrote; neither seal nor heads are judged.

    Raises:
        WireError: `truncated`, `trailing`, `too_many`.
    """
    cursor = Cursor(data)
    seal = cursor.take(cursor.u32())
    heads = cursor.items(MAX_SEALED)
    cursor.end()
    return seal, {item[:PUBLIC_BYTES]: item[PUBLIC_BYTES:] for item in heads}


def strictly_ascending(items: Sequence[bytes]) -> bool:
    """Whether every item is greater than the one before it."""
    return all(a < b for a, b in itertools.pairwise(items))


def chunks(value: bytes, size: int) -> list[bytes]:
    """Split a field into items of `size` bytes; a remainder or too many of them is a WireError."""
    if len(value) % size or len(value) // size > MAX_SEALED:
        raise WireError("field_size", f"{len(value)} bytes are not a list of {size}-byte items")
    cursor = Cursor(value)
    return [cursor.take(size) for _ in range(len(value) // size)]
