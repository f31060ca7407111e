"""The seal of a round: the leader's signed list of what it had seen when the round closed. Nothing later counts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blake3 import blake3

from muster.protocol.errors import WireError
from muster.protocol.identity import PUBLIC_BYTES, Identity
from muster.protocol.types import Block
from muster.protocol.wire.envelope import Type, read_whole, write_head
from muster.protocol.wire.tlv import Cursor, counted, u32, u64, whole

_PARENT, _TURN, _BLOCK, _HASH, _HEADERS, _EARLY = range(4, 10)
DIGEST_BYTES = 32
MAX_SEALED = 65_536
"""More headers than any subnet has slots."""


@dataclass(frozen=True, slots=True)
class Seal:
    """`headers` maps each sealed peer's public key to its header digest, in key order.

    `early` lists the peers among them whose key was already public: whoever shows his work before the seal lets
    others copy it, so it does not count. `parent` is the previous record's digest.
    """

    run_id: bytes
    leader: bytes
    round: int
    parent: bytes
    turn: int
    block: Block
    headers: tuple[tuple[bytes, bytes], ...]
    early: tuple[bytes, ...]

    def sealed(self, public: bytes) -> bool:
        """Whether a peer's submission is in."""
        return any(peer == public for peer, _ in self.headers)


def encode_seal(seal: Seal, identity: Identity) -> bytes:
    """The signed object."""
    fields = {
        _PARENT: seal.parent,
        _TURN: u32(seal.turn),
        _BLOCK: u64(seal.block.number),
        _HASH: seal.block.hash,
        _HEADERS: b"".join(peer + digest for peer, digest in seal.headers),
        _EARLY: b"".join(seal.early),
    }
    return write_head(Type.SEAL, identity, seal.run_id, seal.round, fields)


def decode_seal(data: bytes, run_id: bytes) -> tuple[Seal, bytes]:
    """The seal and its digest.

    Raises:
        WireError: `seal_order` where the lists are not strictly ascending, or what the envelope raises.
    """
    envelope = read_whole(data, Type.SEAL, run_id)
    fields = envelope.fields
    pairs = chunks(fields.raw(_HEADERS), PUBLIC_BYTES + DIGEST_BYTES)
    seal = Seal(
        run_id=run_id,
        leader=envelope.signer,
        round=envelope.round,
        parent=fields.digest(_PARENT),
        turn=fields.u32(_TURN),
        block=Block(fields.u64(_BLOCK), fields.digest(_HASH)),
        headers=tuple((pair[:PUBLIC_BYTES], pair[PUBLIC_BYTES:]) for pair in pairs),
        early=tuple(chunks(fields.raw(_EARLY), PUBLIC_BYTES)),
    )
    fields.end()
    peers = [peer for peer, _ in seal.headers]
    if not strictly_ascending(peers) or not strictly_ascending(seal.early) or not set(seal.early) <= set(peers):
        raise WireError("seal_order", "peers of a seal must be listed once, in key order")
    return seal, envelope.digest


def encode_heads(heads: Mapping[bytes, bytes]) -> bytes:
    """The heads that a seal lists, for a later life of its leader: peers' public keys to their heads' bytes.

    They lie in the leader's own bucket, unsigned; the BLAKE3 of the rest in front tells a damaged read, which the
    seal's digests do not, because they do not cover signatures.
    """
    items = counted(public + heads[public] for public in sorted(heads))
    return blake3(items).digest() + items


def decode_heads(data: bytes) -> dict[bytes, bytes]:
    """What `encode_heads` wrote.

    Raises:
        WireError: `heads_digest`, `truncated`, `trailing`, `too_many`.
    """
    items = data[DIGEST_BYTES:]
    if blake3(items).digest() != data[:DIGEST_BYTES]:
        raise WireError("heads_digest", "the bytes are not those that were written")
    heads = whole(items, lambda cursor: cursor.items(MAX_SEALED))
    return {item[:PUBLIC_BYTES]: item[PUBLIC_BYTES:] for item in heads}


def strictly_ascending(items: Sequence[bytes]) -> bool:
    """Whether every item is greater than the one before it."""
    return all(a < b for a, b in itertools.pairwise(items))


def chunks(value: bytes, size: int) -> list[bytes]:
    """Split a field into items of `size` bytes; a remainder or too many of them is a WireError."""
    if len(value) % size or len(value) // size > MAX_SEALED:
        raise WireError("field_size", f"{len(value)} bytes are not a list of {size}-byte items")
    cursor = Cursor(value)
    return [cursor.take(size) for _ in range(len(value) // size)]
