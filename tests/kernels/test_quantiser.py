"""The quantiser's table, its independence of order, and the error it was chosen by."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from muster.kernels import SCALES, choose_scales, dequantise, quantise, scale_values

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
TILE_VALUES = st.lists(FINITE, min_size=1, max_size=64)


def made(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The values (T, n) that codes (T, n) and scale bytes (T, 2) stand for."""
    own = scale_values(scales).repeat_interleave(codes.shape[1], dim=0)
    return dequantise(codes.reshape(-1), own).reshape(codes.shape)


def test_the_table_is_the_powers_of_an_eighth_octave() -> None:
    expected = [0.0] + [float(np.float32(2.0 ** ((byte - 242) / 8))) for byte in range(1, 256)]
    assert SCALES.dtype == torch.float32
    assert SCALES.tolist() == expected


@pytest.mark.parametrize("byte", [1, 2, 117, 241, 242, 254, 255])
def test_a_tile_of_one_magnitude_has_its_own_scale_twice(byte: int) -> None:
    values = SCALES[byte].repeat(1, 5) * torch.tensor([1, -1, 1, 1, -1])
    codes, scales = quantise(values)
    assert scales.tolist() == [[byte, byte]]
    assert torch.equal(made(codes, scales), values)


@pytest.mark.parametrize("byte", [1, 100, 242, 254])
def test_the_bounds_between_scales_are_geometric_means(byte: int) -> None:
    middle = np.float32(2.0 ** ((byte - 241.5) / 8))
    below = float(np.nextafter(middle, np.float32(0)))
    pair = torch.tensor([[below], [float(middle)]])
    assert choose_scales(pair).tolist() == [[byte, byte], [byte + 1, byte + 1]]


def test_each_part_has_the_scale_next_to_its_mean() -> None:
    # The mean is 2.25, so 2.5 and 7.5 are the high part, of mean 5; the low part's is 0.875.
    tile = torch.tensor([[0.25, -0.5, 1.0, -1.75, 2.5, -7.5]])
    codes, scales = quantise(tile)
    assert scales.tolist() == [[242 + round(8 * math.log2(0.875)), 255]]
    # 2**(13/8) = 3.08 is the largest scale: 2.5 is nearer to it than to 0.87.
    assert codes.tolist() == [[0, 2, 0, 2, 1, 3]]


def test_an_entry_equal_to_the_mean_is_in_the_high_part() -> None:
    tile = torch.tensor([[0.25, 0.5, 0.75]])
    assert choose_scales(tile).tolist() == [[226, 242 + round(8 * math.log2(0.625))]]


def test_a_tile_of_zeros_has_one_form() -> None:
    codes, scales = quantise(torch.tensor([[0.0, -0.0, 0.0]]))
    assert codes.tolist() == [[0, 0, 0]]
    assert scales.tolist() == [[0, 0]]
    assert made(codes, scales).tolist() == [[0.0, 0.0, 0.0]]


def test_entries_far_below_the_others_are_sent_as_zeros_of_one_form() -> None:
    codes, scales = quantise(torch.tensor([[0.5, -0.0, -(2.0**-140), 0.0, -0.5]]))
    assert scales.tolist() == [[0, 234]]
    assert codes.tolist() == [[1, 0, 0, 0, 3]]


def test_magnitudes_outside_the_table() -> None:
    least = float(np.float32(2.0 ** (-241.5 / 8)))
    tiles = torch.tensor([[2.0**-149], [float(np.nextafter(np.float32(least), np.float32(0)))], [least], [3e38]])
    codes, scales = quantise(-tiles)
    assert scales.tolist() == [[0, 0], [0, 0], [1, 1], [255, 255]]
    assert codes.tolist() == [[0], [0], [2], [3]]


def test_codes_are_sign_then_scale() -> None:
    codes = torch.tensor([0, 1, 2, 3], dtype=torch.uint8)
    assert dequantise(codes, torch.tensor([[0.5, 2.0]]).repeat(4, 1)).tolist() == [0.5, 2.0, -0.5, -2.0]


def test_a_value_has_the_scale_it_is_nearer_to() -> None:
    border = float((SCALES[238] + SCALES[246]) / 2)
    below = float(np.nextafter(np.float32(border), np.float32(0)))
    tile = torch.tensor([[border, -below, *[float(SCALES[238])] * 30, *[float(-SCALES[246])] * 30]])
    codes, scales = quantise(tile)
    assert scales.tolist() == [[238, 246]]
    assert codes[0].tolist() == [1, 2, *[0] * 30, *[3] * 30]


@given(TILE_VALUES, st.randoms(use_true_random=False))
def test_the_order_of_entries_does_not_show(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert torch.equal(choose_scales(torch.tensor([values])), choose_scales(torch.tensor([shuffled])))


@given(TILE_VALUES)
def test_scales_and_codes_by_exact_arithmetic(values: list[float]) -> None:
    codes, scales = quantise(torch.tensor([values]))
    largest = max(abs(value) for value in values)
    if largest == 0:
        assert scales.tolist() == [[0, 0]]
        return
    unit = Fraction(2) ** (math.frexp(largest)[1] - 24)
    steps = [Fraction(abs(value)) // unit for value in values]
    high = [step for step in steps if len(steps) * step >= sum(steps)]
    low = [step for step in steps if len(steps) * step < sum(steps)] or high
    bounds = [float(np.float32(2.0 ** ((byte - 242.5) / 8))) for byte in range(1, 256)]
    # One rounding each: a float is the nearest to an exact quotient.
    means = [float(Fraction(sum(part), len(part))) * float(unit) for part in (low, high)]
    expected = [sum(bound <= mean for bound in bounds) for mean in means]
    assert scales.tolist() == [expected]
    border = (SCALES[expected[0]] + SCALES[expected[1]]) / 2
    for value, code in zip(values, codes[0].tolist(), strict=True):
        above = bool(torch.tensor(abs(value)) >= border)
        assert code == (2 * (value < 0) + above if expected[above] else 0)


@given(TILE_VALUES)
def test_negation_flips_the_sign_bits_alone(values: list[float]) -> None:
    tile = torch.tensor([values])
    codes, scales = quantise(tile)
    negated, negated_scales = quantise(-tile)
    assert torch.equal(scales, negated_scales)
    nonzero = (tile != 0) & (scales.gather(1, (codes & 1).long()) > 0)
    assert torch.equal(negated, torch.where(nonzero, codes ^ 2, codes))


@pytest.mark.parametrize(
    ("name", "bound"), [("gaussian", 0.0055), ("laplace", 0.0150), ("student", 0.1250), ("rows", 0.0400)]
)
def test_the_measured_error_holds(name: str, bound: float) -> None:
    generator = np.random.default_rng(7)
    shape = (400, 64, 64)
    data = {
        "gaussian": lambda: generator.standard_normal(shape),
        "laplace": lambda: generator.laplace(size=shape),
        "student": lambda: generator.standard_t(3, shape),
        "rows": lambda: generator.standard_normal(shape) * np.exp(generator.standard_normal((400, 64, 1))),
    }[name]()
    flat = 1e-3 * data.reshape(400, -1)
    kept = np.take_along_axis(flat, np.argsort(-np.abs(flat), axis=1)[:, :64], axis=1)
    values = torch.from_numpy(kept.astype(np.float32))
    error = ((values - made(*quantise(values))) ** 2).sum(dim=1) / (values**2).sum(dim=1)
    assert bound / 2 < error.mean() < bound
