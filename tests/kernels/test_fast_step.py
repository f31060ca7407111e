"""The compiled outer step against the reference, bit for bit."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args
from unittest.mock import patch

import numpy as np
import pytest
import torch
from blake3 import blake3
from fast_inputs import BIG, KINDS, SPLITS, awkward_list, same_lists, shared_out
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_inputs import GOLDEN_GRID, GOLDEN_STEPS, KEPT, SHAPES, tensors

from muster.kernels import (
    Codec,
    Grid,
    Rule,
    SparseUpdate,
    aggregate_,
    capped,
    clip_weights,
    compress,
    fast,
    perturb_,
    scale_caps,
    undo_,
)
from muster.kernels.fast import compress as fast_compress
from muster.kernels.fast import step as fast_step
from muster.kernels.step import divisors

F = np.float32
RULES = st.sampled_from(get_args(Rule))


def sent(grid: Grid, k: int, kind: str, count: int) -> list[SparseUpdate]:
    """Updates of tensors of which neighbours share half, so that senders meet at entries."""
    parts = [awkward_list(grid, kind, salt) for salt in range(count + 1)]
    mixed = [
        [torch.where(torch.arange(a.numel()).reshape(a.shape) % 2 == 0, a, b) for a, b in zip(left, right, strict=True)]
        for left, right in pairwise(parts)
    ]
    return [compress(acc, Codec(grid, k)) for acc in mixed]


@settings(max_examples=60)
@given(st.one_of(SHAPES, BIG), KEPT, KINDS, RULES, st.integers(1, 5), st.sampled_from([0.0, 0.9]), SPLITS)
def test_the_step_is_the_references(
    shapes: list[tuple[int, ...]],
    k: int,
    kind: str,
    rule: Rule,
    count: int,
    cap: float,
    split: tuple[int, int],
) -> None:
    grid = Grid(shapes)
    updates = sent(grid, k, kind, count)
    caps = scale_caps(updates, cap)
    updates = [capped(each, caps) for each in updates]
    weights = np.array([[(3 * r + i - 4) / 7 for i in range(len(shapes))] for r in range(count)], F)
    weights = weights.reshape(count, len(shapes))
    theta = [torch.where(part == 0, -part, part) for part in tensors(grid, 9)]
    expected = [part.clone() for part in theta]
    aggregate_(expected, updates, weights, 0.65, rule)
    with shared_out(split):
        fast_step.step_(theta, updates, weights, 0.65, divisors(rule, count))
    assert same_lists(theta, expected)


@given(SHAPES, KEPT, KINDS, st.floats(-2.0, 2.0), SPLITS)
def test_a_perturbation_is_the_references(
    shapes: list[tuple[int, ...]], k: int, kind: str, scale: float, split: tuple[int, int]
) -> None:
    grid = Grid(shapes)
    update = capped(compress(awkward_list(grid, kind, 1), Codec(grid, k)), [0.01] * len(shapes))
    theta = [torch.where(part == 0, -part, part) for part in tensors(grid, 7)]
    before, expected = [part.clone() for part in theta], [part.clone() for part in theta]
    weights = np.linspace(0.25, 1.0, len(expected), dtype=np.float32)
    saved = perturb_(expected, update, scale, weights)
    with patch.object(fast, "FAST_ENTRIES", 0), shared_out(split):
        fast_saved = perturb_(theta, update, scale, weights)
    assert same_lists(theta, expected)
    assert same_lists([fast_saved.values], [saved.values])
    undo_(expected, [update], fast_saved)
    assert same_lists(expected, before)
    with patch.object(fast, "FAST_ENTRIES", 0), shared_out(split):
        undo_(theta, [update], saved)
    assert same_lists(theta, before)


def test_entries_that_no_update_lists_keep_their_bits() -> None:
    special = torch.tensor([-0.0, 0.0, 2.0**-149, float("nan"), float("inf"), -0.0, 1.0, -1.0]).repeat(512)
    theta = special.clone().reshape(64, 64)
    update = fast_compress.compress([torch.eye(64)], Codec(Grid([(64, 64)]), 64))
    for rule in get_args(Rule):
        fast_step.step_([theta], [update], np.ones((1, 1), F), 1.0, divisors(rule, 1))
    untouched = ~torch.eye(64, dtype=torch.bool)
    left, right = theta[untouched], special.reshape(64, 64)[untouched]
    assert torch.equal(left.view(torch.int32), right.view(torch.int32))
    assert not torch.equal(theta.view(torch.int32), special.reshape(64, 64).view(torch.int32))


@pytest.mark.parametrize(("rule", "digest"), GOLDEN_STEPS)
@pytest.mark.parametrize("split", [(1, 256), (2, 1)])
def test_golden_step(rule: Rule, digest: str, split: tuple[int, int]) -> None:
    """The very digests of the reference's test, by the public functions."""
    with patch.object(fast, "FAST_ENTRIES", 0), shared_out(split):
        updates = [compress(tensors(GOLDEN_GRID, salt), Codec(GOLDEN_GRID, 64)) for salt in range(5)]
        caps = scale_caps(updates, 0.9)
        updates = [capped(each, caps) for each in updates]
        theta = tensors(GOLDEN_GRID, 11)
        aggregate_(theta, updates, clip_weights(updates, [1] * 5) / F(5), 0.65, rule)
    assert blake3(b"".join(part.numpy().tobytes() for part in theta)).hexdigest() == digest


def test_updates_of_different_k_are_stepped_by_the_reference() -> None:
    grid = Grid([(64, 64)])
    updates = [compress(tensors(grid, k), Codec(grid, k)) for k in (64, 32)]
    theta, expected = tensors(grid, 9), tensors(grid, 9)
    weights = np.ones((2, 1), F)
    aggregate_(expected, updates, weights, 1.0, "mean")
    with patch.object(fast, "FAST_ENTRIES", 0):
        aggregate_(theta, updates, weights, 1.0, "mean")
    assert same_lists(theta, expected)


def test_parameters_that_need_a_gradient_are_stepped() -> None:
    grid = Grid([(64, 64)])
    update = compress([torch.eye(64)], Codec(grid, 64))
    theta = torch.nn.Parameter(torch.zeros(64, 64))
    with patch.object(fast, "FAST_ENTRIES", 0):
        undo_([theta], [update], perturb_([theta], update, 0.5))
        aggregate_([theta], [update], np.ones((1, 1), F), 1.0, "mean")
    assert torch.equal(theta.detach(), -torch.eye(64))
    assert theta.grad is None
