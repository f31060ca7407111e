"""The outer step against scalar arithmetic in numpy, one operation and one rounding at a time."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import GOLDEN_GRID, GOLDEN_STEPS, HI, KEPT, LO, SHAPES, one, same_bits, tensors, update

from muster.kernels import (
    Grid,
    Rule,
    aggregate_,
    capped,
    clip_weights,
    perturb_,
    scale_caps,
    undo_,
)
from muster.kernels.step import divisors

F = np.float32
RULES = st.sampled_from(get_args(Rule))


def stepped(
    theta: list[float], sent: list[list[tuple[int, float]]], weights: list[float], lr: float, rule: str
) -> list[float]:
    """θ after the outer step, coordinate by coordinate."""
    result = [F(value) for value in theta]
    for place, value in enumerate(result):
        total, listed = F(0), 0
        for entries, weight in zip(sent, weights, strict=True):
            for position, sent_value in entries:
                if position == place:
                    total = F(total + F(F(weight) * F(sent_value)))
                    listed += 1
        if listed:
            by = {"mean": 1.0, "sender_mean": listed, "damped_mean": math.sqrt(listed * len(sent))}[rule]
            result[place] = F(value - F(F(lr) * F(total / F(by))))
    return [float(value) for value in result]


@given(SHAPES, KEPT, RULES, st.integers(1, 4), st.floats(0.01, 2.0))
def test_the_step_is_the_scalar_one(shapes: list[tuple[int, ...]], k: int, rule: Rule, count: int, lr: float) -> None:
    grid = Grid([tuple(min(n, 40) for n in shape) for shape in shapes])
    updates = [update(grid, k, salt) for salt in range(count)]
    weights = np.array([[(3 * r + i + 1) / 7 for i in range(len(shapes))] for r in range(count)], F).reshape(
        count, len(shapes)
    )
    theta = tensors(grid, 9)
    expected = [
        stepped(
            theta[i].flatten().tolist(),
            [list(zip(u.positions(i).tolist(), u.values(i).tolist(), strict=True)) for u in updates],
            weights[:, i].tolist(),
            lr,
            rule,
        )
        for i in range(len(shapes))
    ]
    aggregate_(theta, updates, weights, lr, rule)
    for made, wanted, shape in zip(theta, expected, grid.shapes, strict=True):
        assert same_bits(made, torch.tensor(wanted).reshape(shape))


def test_entries_that_no_update_lists_keep_their_bits() -> None:
    theta = torch.tensor([-0.0, 0.0, 2.0**-149, 5.0, float("nan"), -0.0, 1.0, 1.0])
    before = theta.clone()
    aggregate_([theta], [one(3, 0, 242)], np.ones((1, 1), F), 1.0, "mean")
    aggregate_([theta], [one(3, 0, 242)], np.ones((1, 1), F), 1.0, "sender_mean")
    aggregate_([theta], [one(3, 0, 242)], np.ones((1, 1), F), 1.0, "damped_mean")
    untouched = torch.arange(8) != 3
    assert same_bits(theta[untouched], before[untouched])
    assert theta[3] == 5 - 3 * LO


@given(st.integers(0, 300))
def test_a_damped_mean_divides_by_the_geometric_mean_of_senders_and_all(count: int) -> None:
    table = divisors("damped_mean", count)
    assert table.dtype == F
    assert table.tolist() == [float(F(math.sqrt(senders * count))) for senders in range(count + 1)]
    assert all(divisors("sender_mean", count)[1:] <= table[1:])
    assert table[count] == count


def test_divisors_by_hand() -> None:
    assert divisors("mean", 4).tolist() == [1, 1, 1, 1, 1]
    assert divisors("sender_mean", 4).tolist() == [0, 1, 2, 3, 4]
    assert divisors("damped_mean", 4)[[0, 1, 4]].tolist() == [0, 2, 4]
    assert divisors("damped_mean", 4)[2:4].tobytes().hex() == "f3043540d7b35d40"
    with pytest.raises(ValueError, match="there are mean, sender_mean, damped_mean"):
        divisors("median", 1)  # type: ignore[arg-type]


def test_senders_share_an_entry_and_everybody_a_mean() -> None:
    updates = [one(0, 0, 242), one(0, 1, 242), one(1, 2, 242)]
    cases: list[tuple[Rule, float]] = [("sender_mean", 1.0), ("mean", 0.5)]
    for rule, weight in cases:
        theta = torch.zeros(8)
        aggregate_([theta], updates, np.full((3, 1), weight, F), 2.0, rule)
        assert theta[0] == -(LO + HI)
        assert theta[1] == 2 * weight * LO


def test_an_entry_of_one_in_four_moves_half_as_much_by_the_damped_mean() -> None:
    updates = [one(0, 0, 242), one(1, 0, 242), one(1, 0, 242), one(1, 0, 242)]
    moved = {}
    for rule in get_args(Rule):
        theta = torch.zeros(8)
        aggregate_([theta], updates, np.full((4, 1), 0.25 if rule == "mean" else 1, F), 1.0, rule)
        moved[rule] = -theta[0].item() / LO
    assert moved == {"mean": 0.25, "sender_mean": 1.0, "damped_mean": 0.5}


def test_the_order_of_updates_shows() -> None:
    """Rounding makes sums depend on the order, so records fix it."""
    updates = [one(0, 0, 242), one(0, 0, 42), one(0, 2, 242)]
    results = []
    for order in ([0, 1, 2], [0, 2, 1]):
        theta = torch.zeros(8)
        aggregate_([theta], [updates[j] for j in order], np.ones((3, 1), F), 1.0, "mean")
        results.append(float(theta[0]))
    assert results == [0.0, -LO * 2.0**-25]


def test_the_learning_rate_is_rounded_to_fp32_first() -> None:
    theta = torch.zeros(8)
    aggregate_([theta], [one(0, 1, 245)], np.ones((1, 1), F), 0.1, "mean")
    value = one(0, 1, 245).values(0).numpy()[0]
    assert theta[0].item() == float(-(F(0.1) * value))


def test_a_parameter_that_needs_a_gradient_is_stepped() -> None:
    theta = torch.nn.Parameter(torch.zeros(8))
    aggregate_([theta], [one(0, 0, 242)], np.ones((1, 1), F), 1.0, "mean")
    undo_([theta], [one(1, 0, 242)], perturb_([theta], one(1, 0, 242), 1.0))
    assert theta.tolist() == [-LO, *[0.0] * 7]
    assert theta.grad is None


def test_what_does_not_fit_is_refused() -> None:
    theta, weights = [torch.zeros(8)], np.ones((1, 1), F)
    with pytest.raises(ValueError, match="unknown outer rule"):
        aggregate_(theta, [one(0, 0, 1)], weights, 1.0, "median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one"):
        aggregate_(theta, [], np.ones((0, 1), F), 1.0, "mean")
    with pytest.raises(ValueError, match="different grids"):
        aggregate_(theta, [one(0, 0, 1), one(0, 0, 1, size=9)], np.ones((2, 1), F), 1.0, "mean")
    with pytest.raises(ValueError, match="weights must be"):
        aggregate_(theta, [one(0, 0, 1)], weights.astype(np.float64), 1.0, "mean")
    with pytest.raises(ValueError, match="weights must be"):
        aggregate_(theta, [one(0, 0, 1)], np.ones((1, 2), F), 1.0, "mean")
    with pytest.raises(ValueError, match="shapes"):
        aggregate_([torch.zeros(9)], [one(0, 0, 1)], weights, 1.0, "mean")
    with pytest.raises(ValueError, match="contiguous"):
        perturb_([torch.zeros(16)[::2]], one(0, 0, 1), 1.0)
    with pytest.raises(ValueError, match="contiguous"):
        perturb_([torch.zeros(8).double()], one(0, 0, 1), 1.0)


@given(SHAPES, KEPT, st.floats(-2.0, 2.0))
def test_a_perturbation_is_undone_to_the_bit(shapes: list[tuple[int, ...]], k: int, scale: float) -> None:
    grid = Grid(shapes)
    made = update(grid, k, 6)
    theta = [torch.where(part == 0, -part, part) for part in tensors(grid, 7)]
    before = [part.clone() for part in theta]
    saved = perturb_(theta, made, scale)
    for part, was, sent in zip(theta, before, made.dense(), strict=True):
        assert torch.equal(part, was - sent * float(F(scale)))
    undo_(theta, [made], saved)
    assert all(same_bits(part, was) for part, was in zip(theta, before, strict=True))


def test_each_tensor_has_a_weight_of_its_own() -> None:
    grid = Grid([(70, 64), (33,)])
    made, theta = update(grid, 64, 6), tensors(grid, 7)
    before = [part.clone() for part in theta]
    saved = perturb_(theta, made, 0.3, np.array([0.5, 0.0], F))
    assert torch.equal(theta[0], before[0] - made.dense()[0] * float(F(0.3) * F(0.5)))
    assert torch.equal(theta[1], before[1])
    undo_(theta, [made], saved)
    assert all(same_bits(part, was) for part, was in zip(theta, before, strict=True))
    with pytest.raises(ValueError, match="one a tensor"):
        perturb_(theta, made, 0.3, np.ones(3, F))


def test_a_negative_zero_survives_a_perturbation() -> None:
    theta = torch.full((8,), -0.0)
    saved = perturb_([theta], one(2, 2, 242), 0.5)
    assert theta[2] == LO / 2
    undo_([theta], [one(2, 2, 242)], saved)
    assert same_bits(theta, torch.full((8,), -0.0))


@pytest.mark.parametrize(("rule", "digest"), GOLDEN_STEPS)
def test_golden_step(rule: Rule, digest: str) -> None:
    updates = [update(GOLDEN_GRID, 64, salt) for salt in range(5)]
    caps = scale_caps(updates, 0.9)
    updates = [capped(each, caps) for each in updates]
    theta = tensors(GOLDEN_GRID, 11)
    aggregate_(theta, updates, clip_weights(updates, [1] * 5) / F(5), 0.65, rule)
    assert blake3(b"".join(part.numpy().tobytes() for part in theta)).hexdigest() == digest
