"""The draw has to be the same everywhere, and fair."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.rules.sampling import _below, sample

BEACON = bytes(range(32))
beacons = st.binary(min_size=32, max_size=32)


def reference(beacon: bytes, label: bytes, population: int, count: int) -> list[int]:
    """The same draw on a whole list, with the stream read in one piece."""
    stream = blake3(b"muster/sample/v1" + beacon + label).digest(8 * (4 * count + 8))
    words = [int.from_bytes(stream[i : i + 8], "little") for i in range(0, len(stream), 8)]
    numbers = list(range(population))
    for i in range(count):
        left = population - i
        word = words.pop(0)
        while word >= 2**64 // left * left:
            word = words.pop(0)
        j = i + word % left
        numbers[i], numbers[j] = numbers[j], numbers[i]
    return numbers[:count]


@pytest.mark.parametrize(
    ("beacon", "label", "population", "count", "expected"),
    [
        (bytes(32), b"", 10, 10, [2, 4, 5, 7, 3, 8, 1, 9, 0, 6]),
        (BEACON, b"assigned", 1000, 8, [983, 621, 651, 633, 495, 972, 482, 749]),
        (BEACON, b"unassigned", 1000, 8, [595, 55, 64, 631, 816, 424, 875, 439]),
        (BEACON, b"assigned", 2**64, 2, [5879375034975974983, 5986229519391861627]),
        (BEACON, b"assigned", 1, 1, [0]),
    ],
)
def test_golden(beacon: bytes, label: bytes, population: int, count: int, expected: list[int]) -> None:
    assert sample(beacon, label, population, count) == expected


def test_golden_long_draw() -> None:
    """More than one block of the stream, pinned by digest: a shuffle of 5000 numbers as u64 LE."""
    drawn = sample(BEACON, b"shuffle", 5000, 5000)
    assert sorted(drawn) == list(range(5000))
    digest = blake3(b"".join(number.to_bytes(8, "little") for number in drawn)).hexdigest()
    assert digest == "bd86af4cd78e9d3cab3bfddc3d0abe582878afb6821ec3fddceadae2651f28b7"


@given(beacons, st.binary(max_size=40), st.integers(0, 300), st.integers(0, 400))
def test_equals_the_reference(beacon: bytes, label: bytes, population: int, count: int) -> None:
    drawn = sample(beacon, label, population, count)
    expected = reference(beacon, label, population, count) if count <= population else list(range(population))
    assert drawn == expected


@given(beacons, st.integers(0, 2**64), st.integers(0, 50))
def test_distinct_in_range_and_prefix_stable(beacon: bytes, population: int, count: int) -> None:
    count = min(count, population)
    drawn = sample(beacon, b"x", population, count)
    assert len(set(drawn)) == len(drawn) == count
    assert all(0 <= number < population for number in drawn)
    assert sample(beacon, b"x", population, count // 2) == drawn[: count // 2]


def test_beacon_and_label_both_matter() -> None:
    draws = {tuple(sample(beacon, label, 10**6, 4)) for beacon in (BEACON, bytes(32)) for label in (b"a", b"b", b"")}
    assert len(draws) == 6


def test_every_ordered_draw_is_equally_likely() -> None:
    """Chi-squared of 6000 fixed draws over the 12 ordered pairs of 4 stays below its 99.9 % quantile."""
    seen = Counter(tuple(sample(BEACON, i.to_bytes(4, "little"), 4, 2)) for i in range(6000))
    assert set(seen) == set(permutations(range(4), 2))
    assert sum((n - 500) ** 2 / 500 for n in seen.values()) < 31.26


def test_words_that_would_bias_are_skipped() -> None:
    limit = 2**64 - 2**64 % 10
    words = iter([2**64 - 1, limit, limit - 1, 7])
    assert _below(10, words) == (limit - 1) % 10
    assert next(words) == 7


def test_count_above_population_takes_all_in_order() -> None:
    assert sample(BEACON, b"", 3, 4) == [0, 1, 2]
    assert sample(BEACON, b"", 0, 1) == []
    assert sample(BEACON, b"", 0, 0) == []


@pytest.mark.parametrize(
    ("beacon", "population", "count", "message"),
    [
        (bytes(31), 5, 1, "beacon is 32 bytes"),
        (BEACON, -1, 1, "population"),
        (BEACON, 2**64 + 1, 1, "population"),
        (BEACON, 5, -1, "cannot draw"),
    ],
)
def test_refusals(beacon: bytes, population: int, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(beacon, b"", population, count)
