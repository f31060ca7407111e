"""Who trains on what: every peer's own windows of the text, disjoint by construction and known to everybody.

The train split's windows are put in a random order by a keyed permutation of the round's beacon; the order is cut
into equal shares, one per registration slot and a last one that is nobody's (the unassigned data of the round).
"""

from __future__ import annotations

from collections.abc import Iterable

from blake3 import blake3

from muster.protocol.errors import WireError
from muster.protocol.spec import DataSpec

_ROUNDS = 4
"""Feistel rounds; four make a permutation indistinguishable from random (Luby and Rackoff 1988)."""


def permute(beacon: bytes, position: int, size: int) -> int:
    """Where `position` of 0…size−1 goes: a four-round balanced Feistel network over BLAKE3, cycle-walked.

    The domain is the smallest even number of bits that holds `size`; half-round i is
    BLAKE3(beacon ‖ i u8 ‖ right half u64) truncated to the half's bits.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = position >> half, position & mask
        for i in range(_ROUNDS):
            digest = blake3(beacon + bytes((i,)) + right.to_bytes(8, "little")).digest(length=8)
            left, right = right, left ^ (int.from_bytes(digest, "little") & mask)
        position = (left << half) | right
        if position < size:
            return position


def share(data: DataSpec) -> int:
    """How many windows each slot has in a round."""
    return data.windows // (data.slots + 1)


def assigned(beacon: bytes, uid: int, data: DataSpec, count: int) -> list[int]:
    """The first `count` windows assigned to slot `uid`, in training order.

    Raises:
        WireError: `uid_range` for a slot the run does not have, `windows_range` for more than the slot's share.
    """
    if not 0 <= uid < data.slots:
        raise WireError("uid_range", f"slot {uid} of {data.slots}")
    return _cut(beacon, uid, data, count)


def unassigned(beacon: bytes, data: DataSpec, positions: Iterable[int]) -> list[int]:
    """Windows of the share that belongs to nobody this round, by position in it (0…share−1)."""
    first = data.slots * share(data)
    return [permute(beacon, first + position, data.windows) for position in positions]


def data_digest(windows: Iterable[int]) -> bytes:
    """BLAKE3 of window ids as u64: what a header says about what was trained on."""
    return blake3(b"muster/data/v1" + b"".join(w.to_bytes(8, "little") for w in windows)).digest()


def _cut(beacon: bytes, slot: int, data: DataSpec, count: int) -> list[int]:
    if not 0 <= count <= share(data):
        raise WireError("windows_range", f"{count} windows of a share of {share(data)}")
    first = slot * share(data)
    return [permute(beacon, first + i, data.windows) for i in range(count)]
