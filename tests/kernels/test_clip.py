"""Norms, clip weights and caps against exact arithmetic and by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import HI, KEPT, SHAPES, octave, one, update

from muster.kernels import (
    Codec,
    Grid,
    SparseUpdate,
    capped,
    clip_of,
    clip_weights,
    medians_of,
    norm,
    norm_of,
    norm_part,
    norms_of,
    scale_caps,
    scale_peaks,
)
from muster.kernels import clip as clip_module

F = np.float32


@given(SHAPES, KEPT)
def test_the_norm_is_the_exact_one_to_a_rounding(shapes: list[tuple[int, ...]], k: int) -> None:
    grid = Grid(shapes)
    made = capped(update(grid, k, 8), [0.01] * len(shapes))
    for i in range(len(shapes)):
        exact = sum((Fraction(value) ** 2 for value in made.values(i).tolist()), Fraction(0))
        assert norm(made, i) == pytest.approx(math.sqrt(exact), rel=1e-15)


@given(SHAPES, KEPT, st.integers(1, 8))
def test_tensors_worked_on_together_are_those_worked_on_one_by_one(
    shapes: list[tuple[int, ...]], k: int, together: int
) -> None:
    made = update(Grid(shapes), k, 8)
    limited = capped(made, [0.01 * i for i in range(len(shapes))])
    with patch.object(clip_module, "TOGETHER", together):
        found = [(scale_peaks(each), norms_of(each)) for each in (made, limited)]
    for each, (peaks, norms) in zip((made, limited), found, strict=True):
        for i in range(len(shapes)):
            moved = each.grid.entry_tiles(i, k)[each.values(i) != 0]
            assert peaks[i] == (float(each.tensor_scales(i)[moved].max()) if moved.numel() else 0.0)
            assert norms[i] == norm(each, i)


def test_norms_by_hand() -> None:
    assert norm(one(0, 3, 250), 0) == 2 * HI
    assert norm(one(0, 0, 0), 0) == 0.0


def test_a_large_update_is_scaled_to_the_lower_median() -> None:
    updates = [one(0, 0, scale) for scale in (234, 226, 242, 250)]
    assert clip_weights(updates, [6] * 4).tolist() == [[1.0], [1.0], [0.5], [0.25]]
    assert clip_weights(updates, [6] * 4).dtype == F
    assert clip_weights(updates[:3], [6] * 3).tolist() == [[1.0], [1.0], [0.5]]
    assert clip_weights(updates[2:], [6] * 2).tolist() == [[1.0], [0.5]]


def test_norms_are_compared_by_the_work_in_them() -> None:
    """Twice the work may have twice the norm; the measure is the update whose norm / amount is in the middle."""
    updates = [one(0, 0, scale) for scale in (242, 250, 250, 242)]
    assert clip_weights(updates[:2], [1, 2]).tolist() == [[1.0], [1.0]]
    assert clip_weights(updates[:2], [2, 1]).tolist() == [[1.0], [0.25]]
    assert clip_weights(updates, [4, 8, 4, 2]).tolist() == [[1.0], [1.0], [0.5], [0.5]]
    assert medians_of([[2.0], [3.0], [4.0]], [1, 1, 2]) == [(4.0, 2)], "of equal quotients the smaller norm is first"
    assert medians_of([[2.0], [4.0]], [1, 2]) == [(2.0, 1)]


def test_the_roundings_of_a_clip() -> None:
    allowed = 0.3 * (5 / 7)
    assert clip_of([0.9], 5, [(0.3, 7)]).tolist() == [float(F(allowed / 0.9))]
    assert clip_of([allowed], 5, [(0.3, 7)]).tolist() == [1.0]
    assert clip_of([math.nextafter(allowed, 1)], 5, [(0.3, 7)]).tolist() == [1.0], "rounded to fp32 once"


def test_a_norm_of_zero_has_no_part_in_the_median() -> None:
    updates = [one(0, 0, scale) for scale in (0, 242, 0, 250, 0)]
    assert clip_weights(updates, [5] * 5).tolist() == [[1.0], [1.0], [1.0], [0.5], [1.0]]
    assert medians_of([[0.0], [0.0]], [5, 5]) == [(math.inf, 1)]
    assert clip_weights([one(0, 0, 0)], [5]).tolist() == [[1.0]]


def clips_before(norms: list[list[float]]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """The clip as it was before work and zeros counted: min(1, lower median / norm)."""
    table = np.array(norms, np.float64)
    median = np.sort(table, axis=0)[(len(table) - 1) // 2]
    ratios = np.ones_like(table)
    np.divide(median, table, out=ratios, where=table > median)
    return ratios.astype(np.float32)


above = st.floats(2.0**-200, 2.0**200)
columns = st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(above, min_size=n, max_size=n), min_size=1, max_size=9))


@given(columns, st.integers(1, 2**53 - 1))
def test_equal_work_gives_the_bits_of_the_plain_median(norms: list[list[float]], amount: int) -> None:
    medians = medians_of(norms, [amount] * len(norms))
    rows = np.stack([clip_of(row, amount, medians) for row in norms])
    assert rows.tobytes() == clips_before(norms).tobytes()


@given(columns, st.data())
def test_who_brings_nothing_moves_no_clip(norms: list[list[float]], data: st.DataObject) -> None:
    amounts = data.draw(st.lists(st.integers(1, 1 << 20), min_size=len(norms), max_size=len(norms)))
    idle = data.draw(st.lists(st.integers(1, 1 << 20), max_size=9))
    alone = medians_of(norms, amounts)
    zeros = [[0.0] * len(norms[0])] * len(idle)
    assert medians_of(zeros + norms, idle + amounts) == alone
    assert medians_of(norms + zeros, amounts + idle) == alone


def test_weights_are_per_tensor() -> None:
    def pair(first: int, second: int) -> SparseUpdate:
        return SparseUpdate(
            codec=Codec(Grid([(8,), (0,), (4,)]), 1),
            indices=torch.zeros(2, dtype=torch.int16),
            codes=torch.zeros(2, dtype=torch.uint8),
            scales=octave(first, second),
        )

    updates = [pair(242, 250), pair(250, 242)]
    assert clip_weights(updates, [1, 1]).tolist() == [[1.0, 1.0, 0.5], [0.5, 1.0, 1.0]]
    assert scale_caps([*updates, pair(250, 242)], 3.0) == [6.0, math.inf, 3.0]


def test_the_cap_follows_the_lower_median_of_the_largest_scales() -> None:
    updates = [one(0, 1, scale) for scale in (234, 242, 250, 255)]
    assert scale_caps(updates, 2.0) == [2.0]
    assert scale_caps(updates, 0.1) == [float(F(0.1))]
    assert scale_caps(updates[1:], 2.0) == [4.0]
    assert scale_caps(updates, 0.0) == [math.inf]
    assert capped(updates[3], scale_caps(updates, 2.0)).values(0).tolist() == [2 * HI]
    assert capped(updates[0], scale_caps(updates, 2.0)).values(0).tolist() == [HI / 2]


def test_the_cap_is_that_of_those_who_bring_something() -> None:
    updates = [one(0, 1, scale) for scale in (0, 0, 234, 242, 250, 0, 0)]
    assert scale_caps(updates, 2.0) == [2.0]
    assert scale_caps(updates[:2], 2.0) == [math.inf]


def test_a_scale_that_no_value_has_is_none_of_a_tile_that_brings_nothing() -> None:
    """Codes say low, the low scale is 0: the high one would raise the cap and move nothing."""
    idle = replace(one(0, 0, 242), scales=torch.tensor([[0, 255]], dtype=torch.uint8))
    assert scale_peaks(idle) == [0.0]
    assert norm(idle, 0) == 0
    busy = replace(idle, codes=idle.codes + 1)
    assert scale_peaks(busy) == [busy.values(0).abs().max()]
    assert scale_caps([idle, one(0, 1, 242), idle], 2.0) == [2.0]


def test_tiles_that_hardly_move_do_not_cap_those_that_do() -> None:
    """Where most rows of an embedding belong to tokens that did not occur, honest updates are not capped."""
    honest = replace(update(Grid([(256, 64)]), 64, 0), scales=octave(242, 240, 60, 60))
    spiked = replace(honest, scales=octave(242, 240, 60, 255))
    caps = scale_caps([honest, honest, spiked], 1.5)
    assert torch.equal(capped(honest, caps).scale_values(), honest.scale_values())
    assert capped(spiked, caps).scale_values()[3].tolist() == [1.5, 1.5]


@given(SHAPES, KEPT)
def test_a_norms_part_is_its_exact_sum_in_a_few_numbers(shapes: list[tuple[int, ...]], k: int) -> None:
    """What slices exchange loses nothing: the numbers add up to the very sum, in exact arithmetic."""
    grid = Grid(shapes)
    made = capped(update(grid, k, 8), [0.01] * len(shapes))
    for i, (first, last) in enumerate(grid.tensor_tiles):
        starts, scales = grid.entry_starts(k), made.tensor_scales(i).tolist()
        exact = Fraction(0)
        for tile in range(first, last):
            codes = made.codes[starts[tile] : starts[tile + 1]].tolist()
            for bit, scale in enumerate(scales[tile - first]):
                exact += Fraction(sum(code & 1 == bit for code in codes) * scale**2)
        part = norm_part(made, i)
        assert sum(map(Fraction, part), Fraction(0)) == exact
        assert len(part) <= 4
        assert norm_of([part]) == norm(made, i)
