"""Who trains on what: every peer's own windows of the text, disjoint by construction and known to everybody.

The train split's windows are put in a random order by a keyed permutation of the round's beacon; the order is cut
into equal shares, one per registration slot and a last one that is nobody's (the unassigned data of the round).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from muster.protocol.errors import WireError
from muster.protocol.spec import DataSpec

_ROUNDS = 4
"""Feistel rounds; four make a permutation indistinguishable from random (Luby and Rackoff 1988)."""

TABLE_BITS = 16
"""Halves of so many bits, so up to 2³² windows, are looked up: tables of 2 MiB, where hashing takes 50× as long."""

_Ints = npt.NDArray[np.int64]


def permute(beacon: bytes, position: int, size: int) -> int:
    """Where `position` of 0…size−1 goes: a four-round balanced Feistel network over BLAKE3, cycle-walked.

    The domain is the smallest even number of bits that holds `size`; half-round i is
    BLAKE3(beacon ‖ i u8 ‖ right half u64) truncated to the half's bits.
    """
    half = _half(size)
    mask = (1 << half) - 1
    while True:
        left, right = position >> half, position & mask
        for i in range(_ROUNDS):
            left, right = right, left ^ (_hash(beacon, i, right) & mask)
        position = (left << half) | right
        if position < size:
            return position


def _half(size: int) -> int:
    """Bits of a half of the domain of 0…size−1."""
    return max(1, ((size - 1).bit_length() + 1) // 2)


def _hash(beacon: bytes, half_round: int, right: int) -> int:
    """The 64 bits that a half-round takes its own from."""
    return int.from_bytes(
        blake3(beacon + bytes((half_round,)) + right.to_bytes(8, "little")).digest(length=8), "little"
    )


def permute_all(beacon: bytes, positions: _Ints, size: int) -> _Ints:
    """`permute` of each of positions (n,), all in 0…size−1.

    The heads of a round ask for the same few hashes again and again: each is worked out once a beacon.
    """
    half = _half(size)
    if half > TABLE_BITS:
        return np.array([permute(beacon, position, size) for position in positions.tolist()], np.int64)
    found, walking = positions.copy(), np.arange(len(positions))
    while len(walking):
        left, right = found[walking] >> half, found[walking] & ((1 << half) - 1)
        for i in range(_ROUNDS):
            left, right = right, left ^ _looked_up(beacon, half, i, right)
        found[walking] = (left << half) | right
        walking = walking[found[walking] >= size]
    return found


@lru_cache(maxsize=4 * _ROUNDS)
def _table(beacon: bytes, half: int, half_round: int) -> _Ints:  # noqa: ARG001 - what it is of
    """The hashes of a half-round as far as they were asked for, −1 where not yet; int64 (2**half,).

    Filled in by `_looked_up`, by several threads at once where it so happens: all write the same.
    """
    return np.full(1 << half, -1, np.int64)


def _looked_up(beacon: bytes, half: int, half_round: int, right: _Ints) -> _Ints:
    """A half-round's own bits of the hash of each right half."""
    table, mask = _table(beacon, half, half_round), (1 << half) - 1
    hashes = table[right]
    if (hashes < 0).any():
        for asked in np.unique(right[hashes < 0]).tolist():
            table[asked] = _hash(beacon, half_round, asked) & mask
        hashes = table[right]
    return hashes


def share(data: DataSpec) -> int:
    """How many windows each slot has in a round."""
    return data.windows // (data.slots + 1)


def assigned(beacon: bytes, uid: int, data: DataSpec, count: int) -> list[int]:
    """The first `count` windows assigned to slot `uid`, in training order.

    Raises:
        WireError: `uid_range` for a slot the run does not have, `windows_range` for more than the slot's share.
    """
    windows: list[int] = _assigned(beacon, uid, data, count).tolist()
    return windows


def assigned_digest(beacon: bytes, uid: int, data: DataSpec, count: int) -> bytes:
    """`data_digest` of `assigned`.

    Raises:
        WireError: as `assigned`.
    """
    return _digest(_assigned(beacon, uid, data, count).astype("<u8").tobytes())


def unassigned(beacon: bytes, data: DataSpec, positions: Iterable[int]) -> list[int]:
    """Windows of the share that belongs to nobody this round, by position in it (0…share−1)."""
    first = data.slots * share(data)
    windows: list[int] = permute_all(beacon, first + np.fromiter(positions, np.int64), data.windows).tolist()
    return windows


def data_digest(windows: Iterable[int]) -> bytes:
    """BLAKE3 of window ids as u64: what a header says about what was trained on."""
    return _digest(np.fromiter(windows, "<u8").tobytes())


def _digest(ids: bytes) -> bytes:
    return blake3(b"muster/data/v1" + ids).digest()


def _assigned(beacon: bytes, uid: int, data: DataSpec, count: int) -> _Ints:
    if not 0 <= uid < data.slots:
        raise WireError("uid_range", f"slot {uid} of {data.slots}")
    if not 0 <= count <= share(data):
        raise WireError("windows_range", f"{count} windows of a share of {share(data)}")
    first = uid * share(data)
    return permute_all(beacon, np.arange(first, first + count), data.windows)
