"""The GPU outer step, interpreted, against the reference, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import get_args
from unittest.mock import patch

import numpy as np
import pytest
import torch
from blake3 import blake3
from cuda_inputs import CUT, on_gpu
from fast_inputs import KINDS, awkward_list, same_lists
from hypothesis import example, given, settings
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
    compress_,
    perturb_,
    residual,
    scale_caps,
    undo_,
)
from muster.kernels.cuda import compress as cuda_compress
from muster.kernels.cuda import step as cuda_step
from muster.kernels.cuda import tables
from muster.kernels.cuda.tables import Part

F = np.float32
RULES = st.sampled_from(get_args(Rule))
WEIGHTS = st.sampled_from([1.0, -0.3, 2.0**-124])
"""The last makes subnormal terms, sums and quotients."""


def sent(grid: Grid, k: int, kind: str, count: int) -> list[SparseUpdate]:
    """Updates of tensors of which neighbours share half, so that senders meet at entries."""
    parts = [awkward_list(grid, kind, salt) for salt in range(count + 1)]
    mixed = [
        [torch.where(torch.arange(a.numel()).reshape(a.shape) % 2 == 0, a, b) for a, b in zip(left, right, strict=True)]
        for left, right in pairwise(parts)
    ]
    return [compress(acc, Codec(grid, k)) for acc in mixed]


def theta_of(grid: Grid, salt: int) -> list[torch.Tensor]:
    """Parameters whose zeros are negative."""
    return [torch.where(part == 0, -part.abs(), part) for part in tensors(grid, salt)]


@settings(max_examples=15)
@given(SHAPES, KEPT, KINDS, RULES, st.integers(1, 5), st.sampled_from([0.0, 0.9]), WEIGHTS)
@example(CUT, 64, "ties", "sender_mean", 5, 0.9, 1.0)
@example(CUT, 64, "ties", "mean", 5, 0.9, 1.0)
@example(CUT, 300, "spike", "sender_mean", 3, 0.9, 2.0**-124)
@example(CUT, 4096, "bits", "sender_mean", 4, 0.0, -0.3)
@example(CUT, 7, "zeros", "mean", 2, 0.9, -0.3)
@example(CUT, 300, "ties", "damped_mean", 5, 0.9, 2.0**-124)
def test_the_step_is_the_references(
    shapes: list[tuple[int, ...]], k: int, kind: str, rule: Rule, count: int, cap: float, weight: float
) -> None:
    grid = Grid(shapes)
    updates = sent(grid, k, kind, count)
    caps = scale_caps(updates, cap)
    updates = [capped(each, caps) for each in updates]
    weights = np.array([[weight * (3 * r + i - 4) / 7 for i in range(len(shapes))] for r in range(count)], F)
    weights = weights.reshape(count, len(shapes))
    theta = theta_of(grid, 9)
    if weight < 1e-30:
        theta = [torch.zeros_like(part) for part in theta]
    expected = [part.clone() for part in theta]
    aggregate_(expected, updates, weights, 0.65, rule)
    with on_gpu():
        aggregate_(theta, updates, weights, 0.65, rule)
    assert same_lists(theta, expected)


@settings(max_examples=15)
@given(SHAPES, KEPT, KINDS, st.floats(-2.0, 2.0), st.sampled_from([0.01, 0.0, float("inf")]))
@example(CUT, 64, "ties", 0.7, 0.01)
@example(CUT, 64, "equal", 1.0, 0.0)
@example(CUT, 4096, "wide", -1.3, float("inf"))
def test_a_perturbation_is_the_references(
    shapes: list[tuple[int, ...]], k: int, kind: str, scale: float, limit: float
) -> None:
    grid = Grid(shapes)
    update = capped(compress(awkward_list(grid, kind, 1), Codec(grid, k)), [limit] * len(shapes))
    theta = theta_of(grid, 7)
    before, expected = [part.clone() for part in theta], [part.clone() for part in theta]
    reference = perturb_(expected, update, scale)
    with on_gpu():
        saved = perturb_(theta, update, scale)
    assert same_lists(theta, expected)
    assert same_lists([saved.values], [reference.values])
    undo_(expected, [update], saved)
    assert same_lists(expected, before)
    with on_gpu():
        undo_(theta, [update], reference)
    assert same_lists(theta, before)


def test_a_scale_limited_to_nothing_takes_the_sign_of_its_code() -> None:
    """−0 − 0 is −0 and −0 − (−0) is +0."""
    grid = Grid([(64,)])
    update = capped(compress([torch.tensor([1.0, -1.0]).repeat(32)], Codec(grid, 4096)), [0.0])
    theta, expected = [torch.full((64,), -0.0)], [torch.full((64,), -0.0)]
    perturb_(expected, update, 1.0)
    assert expected[0].signbit().sum() == 32
    with on_gpu():
        perturb_(theta, update, 1.0)
    assert same_lists(theta, expected)


@pytest.mark.parametrize("rule", get_args(Rule))
def test_entries_that_no_update_lists_keep_their_bits(rule: Rule) -> None:
    special = torch.tensor([-0.0, 0.0, 2.0**-149, float("nan"), float("inf"), -0.0, 1.0, -1.0]).repeat(512)
    theta = special.clone().reshape(64, 64)
    update = compress([torch.eye(64)], Codec(Grid([(64, 64)]), 64))
    with on_gpu():
        aggregate_([theta], [update], np.ones((1, 1), F), 1.0, rule)
    untouched = ~torch.eye(64, dtype=torch.bool)
    assert same_lists([theta[untouched]], [special.reshape(64, 64)[untouched]])
    assert not same_lists([theta], [special.reshape(64, 64)])


@pytest.mark.parametrize(("rule", "digest"), GOLDEN_STEPS)
def test_golden_step(rule: Rule, digest: str) -> None:
    """The very digests of the reference's test."""
    updates = [compress(tensors(GOLDEN_GRID, salt), Codec(GOLDEN_GRID, 64)) for salt in range(5)]
    caps = scale_caps(updates, 0.9)
    updates = [capped(each, caps) for each in updates]
    theta = tensors(GOLDEN_GRID, 11)
    with on_gpu():
        aggregate_(theta, updates, clip_weights(updates, [1] * 5) / F(5), 0.65, rule)
    assert blake3(b"".join(part.numpy().tobytes() for part in theta)).hexdigest() == digest


def test_updates_of_different_k_are_stepped_by_the_reference() -> None:
    grid = Grid([(64, 64)])
    updates = [compress(tensors(grid, k), Codec(grid, k)) for k in (64, 32)]
    theta, expected = tensors(grid, 9), tensors(grid, 9)
    weights = np.ones((2, 1), F)
    aggregate_(expected, updates, weights, 1.0, "mean")
    with on_gpu():
        aggregate_(theta, updates, weights, 1.0, "mean")
    assert same_lists(theta, expected)


def test_parameters_that_need_a_gradient_are_stepped() -> None:
    grid = Grid([(64, 64)])
    update = compress([torch.eye(64)], Codec(grid, 64))
    theta = torch.nn.Parameter(torch.zeros(64, 64))
    with on_gpu():
        undo_([theta], [update], perturb_([theta], update, 0.5))
        aggregate_([theta], [update], np.ones((1, 1), F), 1.0, "mean")
    assert torch.equal(theta.detach(), -torch.eye(64))
    assert theta.grad is None


def test_tensors_that_suit_the_gpu_are_handed_to_its_programs() -> None:
    grid = Grid([(70, 70)])
    error, delta, theta = tensors(grid, 1), tensors(grid, 2), tensors(grid, 3)
    launched = []

    def parts(of: Grid) -> Iterator[Part]:
        launched.append(of)
        return tables.parts(of)

    with on_gpu(), patch.object(cuda_compress, "parts", parts), patch.object(cuda_step, "parts", parts):
        sent = compress(delta, Codec(grid, 64))
        residual(delta, sent)
        compress_(delta, error, 0.95, Codec(grid, 64))
        undo_(theta, [sent], perturb_(theta, sent, 1.0))
        assert len(launched) == 5
        undo_(theta, [sent, sent], aggregate_(theta, [sent, sent], np.ones((2, 1), F), 1.0, "mean"))
    assert launched == [grid] * 7
