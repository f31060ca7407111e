"""A model on 1, 2, 3 or 5 slices makes what the whole one makes, to the byte, without a GPU and in one process."""

from __future__ import annotations

from typing import get_args
from unittest.mock import patch

import numpy as np
import pytest
import torch
from fast_inputs import KINDS, awkward_list, same_lists
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import KEPT, tensors, update
from slices import sliced

from muster.kernels import (
    Codec,
    Grid,
    Rule,
    Slice,
    SparseUpdate,
    aggregate_,
    capped,
    caps_of,
    clip_of,
    clip_weights,
    compress,
    compress_,
    cover,
    encode,
    fast,
    join,
    medians_of,
    norm_of,
    norm_part,
    perturb_,
    scale_caps,
    scale_peaks,
    undo_,
)

F = np.float32
RULES = st.sampled_from(get_args(Rule))


def sent(grid: Grid, k: int, kind: str, count: int) -> list[SparseUpdate]:
    return [compress(awkward_list(grid, kind, salt // 2), Codec(grid, k)) for salt in range(count)]


@given(sliced(), KEPT, KINDS, st.sampled_from([0.95, 0.0]))
def test_compression_with_error_feedback_is_the_whole_models(
    slices: list[Slice], k: int, kind: str, decay: float
) -> None:
    grid = slices[0].whole
    error, delta = awkward_list(grid, "ties", 1), [part.clamp(-1e37, 1e37) for part in awkward_list(grid, kind, 2)]
    parts = [held.parts([tensor.clone() for tensor in delta]) for held in slices]
    expected = compress_(delta, error, decay, Codec(grid, k))
    made = [
        compress_(part, held.parts(error), decay, Codec(held.grid, k)) for held, part in zip(slices, parts, strict=True)
    ]
    assert join(slices, made).identical(expected)
    assert encode(join(slices, made)) == encode(expected)
    for held, part, one in zip(slices, parts, made, strict=True):
        assert same_lists(part, held.parts(delta))
        assert held.part(expected).identical(one)


@given(sliced(), KEPT, KINDS, RULES, st.integers(1, 4), st.booleans())
def test_the_step_and_its_undoing_are_the_whole_models(
    slices: list[Slice], k: int, kind: str, rule: Rule, count: int, compiled: bool
) -> None:
    grid = slices[0].whole
    updates = sent(grid, k, kind, count)
    updates = [capped(each, scale_caps(updates, 0.9)) for each in updates]
    weights = clip_weights(updates, range(1, count + 1))
    theta, before = tensors(grid, 9), tensors(grid, 9)
    parts = [held.parts([tensor.clone() for tensor in theta]) for held in slices]
    with patch.object(fast, "FAST_ENTRIES", 0 if compiled else 1 << 40):
        undo = aggregate_(theta, updates, weights, 0.65, rule)
        touched = 0
        for held, part in zip(slices, parts, strict=True):
            mine = [held.part(each) for each in updates]
            log = aggregate_(part, mine, weights, 0.65, rule)
            assert same_lists(part, held.parts(theta))
            undo_(part, mine, log)
            assert same_lists(part, held.parts(before))
            touched += len(log.values)
        assert touched == len(undo.values)


@given(sliced(), KEPT, st.floats(-2.0, 2.0))
def test_a_perturbation_is_the_whole_models(slices: list[Slice], k: int, scale: float) -> None:
    grid = slices[0].whole
    made, theta = update(grid, k, 6), tensors(grid, 7)
    parts = [held.parts([tensor.clone() for tensor in theta]) for held in slices]
    perturb_(theta, made, scale)
    for held, part in zip(slices, parts, strict=True):
        log = perturb_(part, held.part(made), scale)
        assert same_lists(part, held.parts(theta))
        undo_(part, [held.part(made)], log)
        assert same_lists(part, held.parts(tensors(grid, 7)))


@given(sliced(), KEPT, KINDS, st.integers(1, 4), st.sampled_from([0.0, 0.9]))
def test_norms_and_caps_come_from_what_slices_tell_each_other(
    slices: list[Slice], k: int, kind: str, count: int, cap: float
) -> None:
    grid = slices[0].whole
    updates = sent(grid, k, kind, count)
    parts = [[held.part(each) for held in slices] for each in updates]
    peaks = [[max(found) for found in zip(*map(scale_peaks, each), strict=True)] for each in parts]
    caps = scale_caps(updates, cap)
    assert caps_of(peaks, cap) == caps
    capped_parts = [[capped(part, caps) for part in each] for each in parts]
    tensors_of = range(len(grid.shapes))
    norms = [[norm_of(norm_part(part, i) for part in each) for i in tensors_of] for each in capped_parts]
    amounts = range(1, count + 1)
    medians = medians_of(norms, amounts)
    rows = [clip_of(row, amount, medians) for row, amount in zip(norms, amounts, strict=True)]
    assert np.stack(rows).tobytes() == clip_weights([capped(each, caps) for each in updates], amounts).tobytes()


@given(sliced())
def test_every_tile_is_held_once_and_is_the_same_tile(slices: list[Slice]) -> None:
    grid = slices[0].whole
    whole = tensors(grid, 3)
    parts = [held.parts(whole) for held in slices]
    for tile in range(grid.tiles):
        owners = [n for n, held in enumerate(slices) if held.tile(tile) is not None]
        assert len(owners) == 1
        held, mine = slices[owners[0]], slices[owners[0]].tile(tile)
        assert mine is not None
        part = held.grid.gather_tile(parts[owners[0]][held.grid.tensor_of(mine)], mine)
        assert torch.equal(part, grid.gather_tile(whole[grid.tensor_of(tile)], tile))
    assert sum(held.grid.tiles for held in slices) == grid.tiles


def test_parts_are_views() -> None:
    whole = [torch.zeros(130, 3), torch.zeros(5000), torch.zeros(())]
    grid = Grid([tuple(each.shape) for each in whole])
    for rank in range(2):
        for part in Slice.of_rank(grid, rank, 2).parts(whole):
            part.fill_(rank + 1)
    assert whole[0][:, 0].tolist() == [1] * 128 + [2] * 2
    assert whole[1].unique_consecutive(return_counts=True)[1].tolist() == [4096, 904]
    assert whole[2] == 1


@pytest.mark.parametrize(
    ("rows", "ranks", "expected"),
    [
        (256, 2, [(0, 2), (2, 4)]),
        (200, 3, [(0, 2), (2, 3), (3, 4)]),  # ranks begin at rows 0, 67 and 134: band 1 begins with rank 0's row 64
        (64, 2, [(0, 1), (1, 1)]),
        (130, 5, [(0, 1), (1, 1), (1, 2), (2, 2), (2, 3)]),
    ],
)
def test_the_rank_that_has_a_bands_first_row_has_the_band(
    rows: int, ranks: int, expected: list[tuple[int, int]]
) -> None:
    grid = Grid([(rows, 7)])
    assert [Slice.of_rank(grid, rank, ranks).bands[0] for rank in range(ranks)] == expected
    chunk = -(-rows // ranks)
    owners = [band * 64 // chunk for band in range(len(grid.bands(0)))]
    assert owners == [rank for rank, (first, last) in enumerate(expected) for _ in range(first, last)]


def test_what_no_model_has_is_refused() -> None:
    grid = Grid([(130, 3), (5000,)])
    for bands in (((0, 4), (0, 1)), ((2, 1), (0, 1)), ((-1, 1), (0, 1)), ((0, 3),)):
        with pytest.raises(ValueError, match=r"has bands|one range of bands"):
            Slice(grid, bands)
    for rank in (-1, 2):
        with pytest.raises(ValueError, match="not one of 2"):
            Slice.of_rank(grid, rank, 2)


def test_slices_that_leave_something_out_or_hold_it_twice_do_not_join() -> None:
    grid = Grid([(130, 3)])
    whole, lower, upper = (Slice(grid, ((first, last),)) for first, last in ((0, 3), (0, 2), (2, 3)))
    made = update(grid, 64, 1)
    assert cover([upper, lower], 0) == [1, 0]
    for slices in ([lower], [upper], [whole, upper], [lower, lower]):
        with pytest.raises(ValueError, match="not held exactly once"):
            join(slices, [held.part(made) for held in slices])
    with pytest.raises(ValueError, match="of its own slice"):
        join([lower, upper], [upper.part(made), lower.part(made)])
