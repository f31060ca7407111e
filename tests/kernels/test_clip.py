"""Norms, clip weights and caps against exact arithmetic and by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from kernel_inputs import HI, KEPT, SHAPES, octave, one, update

from muster.kernels import Codec, Grid, SparseUpdate, capped, clip_weights, norm, norm_of, norm_part, scale_caps

F = np.float32


@given(SHAPES, KEPT)
def test_the_norm_is_the_exact_one_to_a_rounding(shapes: list[tuple[int, ...]], k: int) -> None:
    grid = Grid(shapes)
    made = capped(update(grid, k, 8), [0.01] * len(shapes))
    for i in range(len(shapes)):
        exact = sum((Fraction(value) ** 2 for value in made.values(i).tolist()), Fraction(0))
        assert norm(made, i) == pytest.approx(math.sqrt(exact), rel=1e-15)


def test_norms_by_hand() -> None:
    assert norm(one(0, 3, 250), 0) == 2 * HI
    assert norm(one(0, 0, 0), 0) == 0.0


def test_a_large_update_is_scaled_to_the_lower_median() -> None:
    updates = [one(0, 0, scale) for scale in (234, 226, 242, 0)]
    assert clip_weights(updates).tolist() == [[0.5], [1.0], [0.25], [1.0]]
    assert clip_weights(updates).dtype == F
    assert clip_weights(updates[:3]).tolist() == [[1.0], [1.0], [0.5]]
    assert clip_weights(updates[2:]).tolist() == [[0.0], [1.0]]


def test_weights_are_per_tensor() -> None:
    def pair(first: int, second: int) -> SparseUpdate:
        return SparseUpdate(
            codec=Codec(Grid([(8,), (0,), (4,)]), 1),
            indices=torch.zeros(2, dtype=torch.int16),
            codes=torch.zeros(2, dtype=torch.uint8),
            scales=octave(first, second),
        )

    updates = [pair(242, 250), pair(250, 242)]
    assert clip_weights(updates).tolist() == [[1.0, 1.0, 0.5], [0.5, 1.0, 1.0]]
    assert scale_caps([*updates, pair(250, 242)], 3.0) == [6.0, math.inf, 3.0]


def test_the_cap_follows_the_lower_median_of_the_largest_scales() -> None:
    updates = [one(0, 1, scale) for scale in (234, 242, 250, 255)]
    assert scale_caps(updates, 2.0) == [2.0]
    assert scale_caps(updates, 0.1) == [float(F(0.1))]
    assert scale_caps(updates[1:], 2.0) == [4.0]
    assert scale_caps(updates, 0.0) == [math.inf]
    assert capped(updates[3], scale_caps(updates, 2.0)).values(0).tolist() == [2 * HI]
    assert capped(updates[0], scale_caps(updates, 2.0)).values(0).tolist() == [HI / 2]


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
