"""The quantiser's table, its independence of order, and the error it was chosen by."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import HI, LO, MID, SCALES, choose_scales, dequantise, quantise, scale_values

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
TILE_VALUES = st.lists(FINITE, min_size=1, max_size=64)


def test_the_table_is_the_powers_of_an_eighth_octave() -> None:
    expected = [0.0] + [float(np.float32(2.0 ** ((byte - 242) / 8))) for byte in range(1, 256)]
    assert SCALES.dtype == torch.float32
    assert SCALES.tolist() == expected
    assert all(float(np.float32(level)) == level for level in (LO, HI, MID))


@pytest.mark.parametrize("byte", [1, 2, 117, 241, 242, 254, 255])
def test_a_tile_of_one_magnitude_gets_its_own_scale(byte: int) -> None:
    values = SCALES[byte].repeat(1, 5)
    assert choose_scales(values).tolist() == [byte]


def test_the_bounds_between_scales_are_geometric_means() -> None:
    for byte in range(1, 255):
        middle = np.float32(2.0 ** ((byte - 241.5) / 8))
        below = np.nextafter(middle, np.float32(0))
        pair = torch.tensor([[float(below)], [float(middle)]])
        assert choose_scales(pair).tolist() == [byte, byte + 1]


def test_a_tile_of_zeros_has_one_form() -> None:
    codes, scales = quantise(torch.tensor([[0.0, -0.0, 0.0]]))
    assert codes.tolist() == [[0, 0, 0]]
    assert scales.tolist() == [0]
    assert dequantise(codes[0], scale_values(scales).repeat(3)).tolist() == [0.0, 0.0, 0.0]


def test_magnitudes_outside_the_table_are_clamped() -> None:
    tiles = torch.tensor([[2.0**-149], [3e38]])
    assert choose_scales(tiles).tolist() == [1, 255]


def test_codes_are_sign_then_magnitude() -> None:
    codes = torch.tensor([0, 1, 2, 3], dtype=torch.uint8)
    assert dequantise(codes, torch.ones(4)).tolist() == [LO, HI, -LO, -HI]
    values = torch.tensor([[1.0, 1.25, -1.0, -1.25, 1.125, -0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    made, scales = quantise(values)
    assert scales.tolist() == [242]
    assert made.tolist() == [[0, 1, 2, 3, 1, 0, 0, 0, 0, 0, 0, 0]]


@given(TILE_VALUES, st.randoms(use_true_random=False))
def test_the_order_of_entries_does_not_show(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert torch.equal(choose_scales(torch.tensor([values])), choose_scales(torch.tensor([shuffled])))


@given(TILE_VALUES)
def test_the_scale_is_next_to_the_mean_by_exact_arithmetic(values: list[float]) -> None:
    largest = max(abs(value) for value in values)
    byte = int(choose_scales(torch.tensor([values]))[0])
    if largest == 0:
        assert byte == 0
        return
    unit = Fraction(2) ** (math.frexp(largest)[1] - 24)
    mean = float(Fraction(sum(Fraction(abs(value)) // unit for value in values), len(values)) * unit)
    bounds = [float(np.float32(2.0 ** ((middle - 241.5) / 8))) for middle in range(1, 255)]
    assert byte == 1 + sum(bound <= mean for bound in bounds)


@given(TILE_VALUES)
def test_negation_flips_the_sign_bits_alone(values: list[float]) -> None:
    tile = torch.tensor([values])
    codes, scales = quantise(tile)
    negated, negated_scales = quantise(-tile)
    assert torch.equal(scales, negated_scales)
    nonzero = (tile != 0) & (scales[:, None] > 0)
    assert torch.equal(negated, torch.where(nonzero, codes ^ 2, codes))


@pytest.mark.parametrize(
    ("name", "bound"), [("gaussian", 0.0075), ("laplace", 0.0140), ("student", 0.1400), ("rows", 0.0500)]
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
    codes, scales = quantise(values)
    made = dequantise(codes.reshape(-1), scale_values(scales).repeat_interleave(64)).reshape(-1, 64)
    error = ((values - made) ** 2).sum(dim=1) / (values**2).sum(dim=1)
    assert bound / 2 < error.mean() < bound
