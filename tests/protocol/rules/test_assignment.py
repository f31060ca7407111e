"""Windows of peers never overlap, and everybody computes the same ones."""

from __future__ import annotations

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.errors import WireError
from muster.protocol.rules.assignment import (
    assigned,
    assigned_digest,
    data_digest,
    permute,
    permute_all,
    share,
    unassigned,
)
from muster.protocol.spec import DataSpec

BEACON = bytes(range(32))
beacons = st.binary(min_size=32, max_size=32)


def data(windows: int, slots: int) -> DataSpec:
    return DataSpec(window=8, slots=slots, windows=windows)


@given(beacons, st.integers(1, 700))
def test_permutation_is_a_bijection(beacon: bytes, size: int) -> None:
    assert sorted(permute(beacon, position, size) for position in range(size)) == list(range(size))


@given(beacons, st.integers(1, 2**40), st.data())
def test_permutation_stays_inside_a_large_range(beacon: bytes, size: int, draw: st.DataObject) -> None:
    first, second = draw.draw(st.integers(0, size - 1)), draw.draw(st.integers(0, size - 1))
    images = permute(beacon, first, size), permute(beacon, second, size)
    assert all(0 <= image < size for image in images)
    assert (images[0] == images[1]) == (first == second)


@given(beacons, st.integers(0, 400), st.integers(1, 20))
def test_shares_are_disjoint_and_one_is_nobodys(beacon: bytes, windows: int, slots: int) -> None:
    spec = data(windows, slots)
    each = share(spec)
    taken = [assigned(beacon, uid, spec, each) for uid in range(slots)]
    taken.append(unassigned(beacon, spec, range(each)))
    flat = [window for windows_of_one in taken for window in windows_of_one]
    assert len(flat) == len(set(flat)) == (slots + 1) * each
    assert all(0 <= window < windows for window in flat)
    assert windows - len(flat) < slots + 1


def test_a_shorter_assignment_is_a_prefix() -> None:
    spec = data(1000, 4)
    assert assigned(BEACON, 2, spec, 50) == assigned(BEACON, 2, spec, 200)[:50]


def reference(beacon: bytes, position: int, size: int) -> int:
    """The network as the protocol page describes it, with the whole codebook walked by hand."""
    bits = 1
    while 4**bits < size:
        bits += 1
    value = position
    while True:
        left, right = divmod(value, 1 << bits)
        for i in range(4):
            word = blake3(beacon + bytes([i]) + right.to_bytes(8, "little")).digest()[:8]
            left, right = right, left ^ (int.from_bytes(word, "little") % (1 << bits))
        value = (left << bits) + right
        if value < size:
            return value


@given(beacons, st.integers(1, 2**33), st.data())
def test_equals_the_description(beacon: bytes, size: int, draw: st.DataObject) -> None:
    position = draw.draw(st.integers(0, size - 1))
    assert permute(beacon, position, size) == reference(beacon, position, size)


@given(beacons, st.one_of(st.integers(1, 3000), st.integers(1, 2**33)), st.data())
def test_many_at_once_are_what_each_is(beacon: bytes, size: int, draw: st.DataObject) -> None:
    asked = draw.draw(st.lists(st.lists(st.integers(0, size - 1), max_size=20), max_size=3))
    for positions in asked:  # of one beacon: the later ones find hashes that the earlier ones have asked for
        found = permute_all(beacon, np.array(positions, np.int64), size)
        assert found.tolist() == [permute(beacon, position, size) for position in positions]


@given(beacons, st.integers(0, 400), st.integers(1, 20), st.data())
def test_the_digest_of_an_assignment_is_that_of_its_windows(
    beacon: bytes, windows: int, slots: int, draw: st.DataObject
) -> None:
    spec, uid = data(windows, slots), draw.draw(st.integers(0, slots - 1))
    count = draw.draw(st.integers(0, share(spec)))
    found = assigned_digest(beacon, uid, spec, count)
    first = uid * share(spec)
    assert found == data_digest([permute(beacon, first + i, windows) for i in range(count)])


def test_golden() -> None:
    assert [permute(BEACON, i, 10) for i in range(10)] == [6, 8, 4, 2, 9, 0, 5, 3, 7, 1]
    assert [permute(BEACON, i, 10**9) for i in range(3)] == [611779480, 87200980, 882078528]
    assert assigned(BEACON, 3, data(1000, 4), 5) == [444, 981, 911, 436, 935]


def test_data_digest_is_of_u64_words() -> None:
    words = (5).to_bytes(8, "little") + (2**40).to_bytes(8, "little")
    assert data_digest([5, 2**40]) == blake3(b"muster/data/v1" + words).digest()
    assert data_digest([2**40, 5]) != data_digest([5, 2**40])


@pytest.mark.parametrize(
    ("uid", "count", "reason"),
    [(-1, 1, "uid_range"), (4, 1, "uid_range"), (0, 201, "windows_range"), (0, -1, "windows_range")],
)
def test_refusals(uid: int, count: int, reason: str) -> None:
    with pytest.raises(WireError) as caught:
        assigned(BEACON, uid, data(1000, 4), count)
    assert caught.value.reason == reason
