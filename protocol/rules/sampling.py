"""Whoever holds a beacon must draw the same sample from it: windows to judge by, tiles that prove possession.

The draw is exact integer arithmetic over one byte stream, so it is the same in every language:

    stream   BLAKE3-XOF("muster/sample/v1" ‖ beacon (32 bytes) ‖ label), read as little-endian u64 words
    below n  the next word that is < 2^64 − (2^64 mod n), modulo n; words at or above that bound are
             skipped, because they would make small remainders likelier
    draw     a Fisher–Yates shuffle of 0…population−1 that stops after `count` places: place i swaps with
             place i + (below population − i), for i = 0, 1, …
"""

from __future__ import annotations

from collections.abc import Iterator

from blake3 import blake3

BEACON_BYTES = 32
_DOMAIN = b"muster/sample/v1"
_WORD_BYTES = 8
_WORD_RANGE = 2**64
_BLOCK_BYTES = 1024
"""The stream is read this much at a time: sixteen BLAKE3 output blocks, 128 words."""


def sample(beacon: bytes, label: bytes, population: int, count: int) -> list[int]:
    """Draw `count` distinct numbers below `population`, in the order drawn; all ordered draws equally likely.

    A shorter draw of the same beacon, label and population is a prefix of a longer one, and `count ==
    population` shuffles. With `count > population` there is nothing to choose: all numbers come back,
    ascending. Memory and time grow with the numbers drawn, not with the population. `label` tells apart the
    draws that share a beacon.

    Raises:
        ValueError: the beacon is not 32 bytes, the population is not in 0…2^64, or the count is negative.
    """
    if len(beacon) != BEACON_BYTES:
        raise ValueError(f"a beacon is {BEACON_BYTES} bytes, not {len(beacon)}")
    if not 0 <= population <= _WORD_RANGE:
        raise ValueError(f"a population of {population} is not in 0…2^64")
    if count < 0:
        raise ValueError(f"cannot draw {count} numbers")
    if count > population:
        return list(range(population))
    words = _words(beacon, label)
    moved: dict[int, int] = {}  # what the shuffled places hold; a place not listed still holds its own number
    drawn = []
    for place in range(count):
        other = place + _below(population - place, words)
        drawn.append(moved.get(other, other))
        moved[other] = moved.get(place, place)
    return drawn


def _words(beacon: bytes, label: bytes) -> Iterator[int]:
    """The u64 words of the stream, without end."""
    stream = blake3(_DOMAIN + beacon + label)
    position = 0
    while True:
        block = stream.digest(_BLOCK_BYTES, seek=position)
        position += _BLOCK_BYTES
        for start in range(0, _BLOCK_BYTES, _WORD_BYTES):
            yield int.from_bytes(block[start : start + _WORD_BYTES], "little")


def _below(bound: int, words: Iterator[int]) -> int:
    """A number below `bound`, all equally likely; consumes as many words as it rejects, and one more."""
    limit = _WORD_RANGE - _WORD_RANGE % bound
    return next(word for word in words if word < limit) % bound
