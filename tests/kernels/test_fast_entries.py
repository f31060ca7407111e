"""The compiled loops over an update's entries against the reference: what frames say, and what norms are made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
from fast_inputs import BIG
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_inputs import KEPT, SHAPES, update
from test_frames import GRID, K, bad_frames

from muster.kernels import Codec, FrameError, Grid, SparseUpdate, capped, decode, encode, norms_of, scale_peaks

pytest.importorskip("numba")


@contextmanager
def loops(compiled: bool) -> Iterator[None]:
    """Within, with the compiled loops for every size, or for none."""
    with patch("muster.kernels.fast.suits", lambda _entries: compiled):
        yield


def read(data: bytes, codec: Codec, compiled: bool) -> SparseUpdate | str:
    """What the bytes say, or why they say nothing."""
    try:
        with loops(compiled):
            return decode(data, codec)
    except FrameError as error:
        return str(error)


@given(st.one_of(SHAPES, BIG), KEPT, st.integers(0, 5))
@settings(max_examples=60)
def test_the_loop_reads_what_was_written(shapes: list[tuple[int, ...]], k: int, salt: int) -> None:
    made = update(Grid(shapes), k, salt)
    found = read(encode(made), made.codec, compiled=True)
    assert isinstance(found, SparseUpdate)
    assert found.identical(made)


@pytest.mark.parametrize("name", bad_frames())
def test_bad_bytes_have_one_reason(name: str) -> None:
    reason, data = bad_frames()[name]
    assert read(data, Codec(GRID, K), compiled=True) == read(data, Codec(GRID, K), compiled=False)
    assert str(read(data, Codec(GRID, K), compiled=True)).startswith(reason)


@given(SHAPES, KEPT, st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=3))
@settings(max_examples=200)
def test_changed_bytes_are_the_same_to_both(
    shapes: list[tuple[int, ...]], k: int, changes: list[tuple[int, int]]
) -> None:
    codec = Codec(Grid(shapes), k)
    data = bytearray(encode(update(codec.grid, k, 1)))
    for place, change in changes if data else ():
        data[place % len(data)] ^= change
    one, other = (read(bytes(data), codec, compiled) for compiled in (True, False))
    if isinstance(one, SparseUpdate):
        assert isinstance(other, SparseUpdate)
        assert one.identical(other)
    else:
        assert one == other


@given(SHAPES, KEPT, st.integers(0, 5), st.sampled_from([None, 0.01, 1.0]))
def test_peaks_and_norms_are_the_references(
    shapes: list[tuple[int, ...]], k: int, salt: int, limit: float | None
) -> None:
    made = update(Grid(shapes), k, salt)
    made = made if limit is None else capped(made, [limit] * len(shapes))
    with loops(True):
        found = norms_of(made), scale_peaks(made)
    with loops(False):
        assert found == (norms_of(made), scale_peaks(made))
