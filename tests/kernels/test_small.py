"""All tensors of a small model at once against the reference, bit for bit."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from fast_inputs import KINDS, awkward_list, same_lists
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import KEPT, SHAPES, same_bits, tensors

from muster.kernels import Codec, Grid, Rule, SparseUpdate, capped, reference, scale_caps, small
from muster.kernels.step import divisors
from muster.kernels.undo import Undo

F = np.float32
RULES = st.sampled_from(get_args(Rule))


def signed(grid: Grid, salt: int) -> list[torch.Tensor]:
    """θ with zeros of either sign."""
    return [torch.where(part == 0, -part, part) for part in tensors(grid, salt)]


def copies(theta: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same bits elsewhere."""
    return [part.clone() for part in theta]


def sent(grid: Grid, k: int, kind: str, count: int, cap: float) -> list[SparseUpdate]:
    """Capped updates by the reference, some of whose entries meet."""
    updates = [reference.compress(awkward_list(grid, kind, salt // 2), Codec(grid, k)) for salt in range(count)]
    caps = scale_caps(updates, cap)
    return [capped(each, caps) for each in updates]


@given(SHAPES, KEPT, KINDS, st.integers(0, 3))
def test_compression_is_the_references(shapes: list[tuple[int, ...]], k: int, kind: str, salt: int) -> None:
    codec = Codec(Grid(shapes), k)
    acc = awkward_list(codec.grid, kind, salt)
    assert small.compress(acc, codec).identical(reference.compress(acc, codec))


@given(SHAPES, KEPT, KINDS, st.sampled_from([0.0, 0.95, 1.0]), st.booleans())
def test_compression_with_error_feedback_is_the_references(
    shapes: list[tuple[int, ...]], k: int, kind: str, decay: float, in_place: bool
) -> None:
    codec = Codec(Grid(shapes), k)
    found, kept = [], []
    for operations in (small, reference):
        delta, error = awkward_list(codec.grid, kind, 1), awkward_list(codec.grid, kind, 2)
        left = delta if in_place else copies(delta)
        found.append(operations.compress_(delta, error, decay, codec, left))
        kept.append(left)
        assert same_lists(error, awkward_list(codec.grid, kind, 2)), "e is only read"
    assert found[0].identical(found[1])
    assert same_lists(*kept)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_value_that_is_not_finite_is_told_of_its_tensor(value: float) -> None:
    codec = Codec(Grid([(3, 5), (70, 70)]), 64)
    acc = tensors(codec.grid, 1)
    acc[1][69, 3] = value
    with pytest.raises(ValueError, match="tensor 1 of the pseudo-gradient"):
        small.compress(acc, codec)


@given(SHAPES, KEPT, KINDS, RULES, st.integers(1, 5), st.sampled_from([0.0, 0.9]))
def test_a_step_its_log_and_the_way_back_are_the_references(
    shapes: list[tuple[int, ...]], k: int, kind: str, rule: Rule, count: int, cap: float
) -> None:
    grid = Grid(shapes)
    updates = sent(grid, k, kind, count, cap)
    weights = np.array([[(3 * r + i - 4) / 7 for i in range(len(shapes))] for r in range(count)], F)
    weights = weights.reshape(count, len(shapes))
    before = signed(grid, 9)
    ours, expected = copies(before), copies(before)
    log = small.step_(ours, updates, weights, 0.65, divisors(rule, count))
    right = reference.step_(expected, updates, weights, 0.65, divisors(rule, count))
    assert same_lists(ours, expected)
    assert np.array_equal(log.starts, right.starts)
    assert same_bits(log.values, right.values)
    small.put_(ours, updates, log)
    assert same_lists(ours, before)


@given(SHAPES, KEPT, KINDS, st.floats(-2.0, 2.0), st.booleans())
def test_a_perturbation_is_the_references(
    shapes: list[tuple[int, ...]], k: int, kind: str, scale: float, save: bool
) -> None:
    grid = Grid(shapes)
    update = capped(reference.compress(awkward_list(grid, kind, 1), Codec(grid, k)), [0.01] * len(shapes))
    factors = [scale / (i + 1) for i in range(len(shapes))]
    ours, expected = signed(grid, 3), signed(grid, 3)
    old = small.subtract_(ours, update, factors, save)
    assert same_bits(old, reference.subtract_(expected, update, factors, save))
    assert same_lists(ours, expected)


def test_a_log_of_other_updates_is_refused() -> None:
    grid = Grid([(70, 70)])
    one, other = (reference.compress(tensors(grid, salt), Codec(grid, 64)) for salt in (1, 2))
    theta = tensors(grid, 3)
    log = small.step_(theta, [one, other], np.ones((2, 1), F), 1.0, divisors("mean", 2))
    after = copies(theta)
    with pytest.raises(ValueError, match="of other updates"):
        small.put_(theta, [one], Undo(log.values, log.starts))
    assert same_lists(theta, after)
