"""What a step overwrote is put back to the bit, by every back end from the log of any other."""

from __future__ import annotations

from typing import get_args
from unittest.mock import patch

import numpy as np
import pytest
import torch
from cuda_inputs import CUT, on_gpu
from fast_inputs import BIG, KINDS, SPLITS, awkward_list, same_lists, shared_out
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_inputs import KEPT, SHAPES, tensors, update
from torch import Tensor

from muster.kernels import Codec, Grid, Rule, SparseUpdate, Undo, aggregate_, compress, fast, perturb_, undo_

F = np.float32
RULES = st.sampled_from(get_args(Rule))


def sent(grid: Grid, k: int, kind: str, count: int) -> list[SparseUpdate]:
    return [compress(awkward_list(grid, kind, salt // 2), Codec(grid, k)) for salt in range(count)]


def weights_of(grid: Grid, count: int) -> np.ndarray:
    return np.full((count, len(grid.shapes)), 0.3, F)


def touched_bits(theta: list[Tensor], updates: list[SparseUpdate]) -> list[float]:
    """By the words of the definition: each listed coordinate once, by tile and ascending index."""
    grid, found = updates[0].grid, []
    for i, tensor in enumerate(theta):
        listed = {at for each in updates for at in each.positions(i).tolist()}
        found += [tensor.flatten()[at].item() for at in grid.order(i).tolist() if at in listed]
    return found


@given(SHAPES, KEPT, KINDS, RULES, st.integers(1, 4))
def test_the_log_is_the_old_bits_and_undoes_the_step(
    shapes: list[tuple[int, ...]], k: int, kind: str, rule: Rule, count: int
) -> None:
    grid = Grid(shapes)
    updates, theta = sent(grid, k, kind, count), [torch.where(part == 0, -part, part) for part in tensors(grid, 9)]
    before = [part.clone() for part in theta]
    undo = aggregate_(theta, updates, weights_of(grid, count), 0.65, rule)
    assert undo.values.tolist() == touched_bits(before, updates)
    undo_(theta, updates, undo)
    assert same_lists(theta, before)


@settings(max_examples=30)
@given(st.one_of(SHAPES, BIG), KEPT, KINDS, st.integers(1, 5), SPLITS)
def test_the_compiled_loops_leave_the_references_log_and_undo_it(
    shapes: list[tuple[int, ...]], k: int, kind: str, count: int, split: tuple[int, int]
) -> None:
    grid = Grid(shapes)
    updates, theta, other = sent(grid, k, kind, count), tensors(grid, 9), tensors(grid, 9)
    expected = aggregate_(other, updates, weights_of(grid, count), 0.65, "damped_mean")
    with patch.object(fast, "FAST_ENTRIES", 0), shared_out(split):
        undo = aggregate_(theta, updates, weights_of(grid, count), 0.65, "damped_mean")
        assert same_lists([undo.values], [expected.values])
        assert np.array_equal(undo.starts, expected.starts)
        undo_(theta, updates, expected)
    assert same_lists(theta, tensors(grid, 9))


@settings(max_examples=10)
@given(SHAPES, KEPT, KINDS, st.integers(1, 4))
@example(CUT, 64, "ties", 4)
@example(CUT, 300, "zeros", 3)
@example(CUT, 4096, "bits", 2)
def test_the_gpu_programs_leave_the_references_log_and_undo_it(
    shapes: list[tuple[int, ...]], k: int, kind: str, count: int
) -> None:
    grid = Grid(shapes)
    updates, theta, other = sent(grid, k, kind, count), tensors(grid, 9), tensors(grid, 9)
    expected = aggregate_(other, updates, weights_of(grid, count), 0.65, "sender_mean")
    with on_gpu():
        undo = aggregate_(theta, updates, weights_of(grid, count), 0.65, "sender_mean")
        assert same_lists([undo.values], [expected.values])
        assert np.array_equal(undo.starts, expected.starts)
        undo_(theta, updates, expected)
    assert same_lists(theta, tensors(grid, 9))


def test_steps_are_undone_in_the_reverse_of_their_order() -> None:
    grid = Grid([(70, 130), (5000,)])
    theta, logs = tensors(grid, 9), []
    rounds = [[update(grid, 64, 3 * r + n) for n in range(3)] for r in range(4)]
    for updates in rounds:
        logs.append(aggregate_(theta, updates, weights_of(grid, 3), 0.65, "damped_mean"))
    assert not same_lists(theta, tensors(grid, 9))
    for updates, undo in zip(reversed(rounds), reversed(logs), strict=True):
        undo_(theta, updates, undo)
    assert same_lists(theta, tensors(grid, 9))


def test_updates_of_different_k_are_undone() -> None:
    grid = Grid([(70, 130)])
    updates, theta = [update(grid, 64, 1), update(grid, 32, 2)], tensors(grid, 9)
    with patch.object(fast, "FAST_ENTRIES", 0):
        undo_(theta, updates, aggregate_(theta, updates, weights_of(grid, 2), 0.65, "mean"))
    assert same_lists(theta, tensors(grid, 9))


@pytest.mark.parametrize("entries", [0, 1 << 40])
def test_a_log_of_other_updates_is_refused(entries: int) -> None:
    grid = Grid([(70, 130)])
    ours, others = [update(grid, 64, 1), update(grid, 64, 2)], [update(grid, 64, 3), update(grid, 64, 3)]
    undo = aggregate_(tensors(grid, 9), ours, weights_of(grid, 2), 0.65, "mean")
    alone = perturb_(tensors(grid, 9), ours[0], 1.0)
    with patch.object(fast, "FAST_ENTRIES", entries):
        for updates, log in ((others, undo), (ours[:1], undo), (ours, alone)):
            with pytest.raises(ValueError, match="of other updates"):
                undo_(tensors(grid, 9), updates, log)
        with pytest.raises(ValueError, match="of another grid"):
            undo_([torch.zeros(8)], [update(Grid([(8,)]), 64, 1)], undo)


def test_a_log_of_other_updates_is_refused_by_the_gpu_programs() -> None:
    grid = Grid([(70, 130)])
    ours, others = [update(grid, 64, 1), update(grid, 64, 2)], [update(grid, 64, 3), update(grid, 64, 3)]
    undo = aggregate_(tensors(grid, 9), ours, weights_of(grid, 2), 0.65, "mean")
    with on_gpu(), pytest.raises(ValueError, match="of other updates"):
        undo_(tensors(grid, 9), others, undo)


def test_a_log_that_no_step_leaves_is_refused() -> None:
    with pytest.raises(ValueError, match="3 coordinates"):
        Undo(torch.zeros(2), np.array([0, 1, 3]))
    with pytest.raises(ValueError, match="3 coordinates"):
        Undo(torch.zeros(3).double(), np.array([0, 1, 3]))


def test_twenty_updates_of_independent_places_touch_a_quarter_of_the_model() -> None:
    """What an undo log costs: 1 − (1 − 1/64)**20 = 27 %, under a third of what their entries are together."""
    grid = Grid([(512, 512)])
    draws = [torch.randn(512, 512, generator=torch.Generator().manual_seed(n)) for n in range(20)]
    undo = aggregate_(
        tensors(grid, 9), [compress([each], Codec(grid, 64)) for each in draws], weights_of(grid, 20), 1.0, "mean"
    )
    assert len(undo.values) / 512**2 == pytest.approx(1 - (1 - 1 / 64) ** 20, abs=0.005)
