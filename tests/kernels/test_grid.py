"""The tile grid against a plain loop over tiles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from muster.kernels import FRAME_TILES, TILE, TILE_ROWS, Grid

SHAPES = st.lists(
    st.one_of(
        st.just(()),
        st.tuples(st.integers(0, 9000)),
        st.tuples(st.integers(0, 140), st.integers(0, 140)),
        st.tuples(st.integers(0, 70), st.integers(0, 9), st.integers(0, 9)),
    ),
    max_size=4,
)


def tiles_of(shape: tuple[int, ...]) -> list[list[int]]:
    """Row-major offsets of each tile, by the words of the definition."""
    if len(shape) < 2:
        n = math.prod(shape)
        return [list(range(start, min(start + TILE, n))) for start in range(0, n, TILE)]
    rows, cols = shape[0], math.prod(shape[1:])
    return [
        [
            row * cols + col
            for row in range(top, min(top + TILE_ROWS, rows))
            for col in range(left, min(left + TILE_ROWS, cols))
        ]
        for top in range(0, rows, TILE_ROWS)
        for left in range(0, cols, TILE_ROWS)
        if rows and cols
    ]


@given(SHAPES)
def test_every_tile_is_the_defined_one(shapes: list[tuple[int, ...]]) -> None:
    grid = Grid(shapes)
    expected = [tiles_of(shape) for shape in shapes]
    assert grid.tile_sizes.tolist() == [len(tile) for tiles in expected for tile in tiles]
    assert [stop - start for start, stop in grid.tensor_tiles] == [len(tiles) for tiles in expected]
    assert grid.tiles == sum(len(tiles) for tiles in expected)
    for i, tiles in enumerate(expected):
        assert grid.order(i).tolist() == [offset for tile in tiles for offset in tile]
        tensor = torch.arange(grid.numel[i]).reshape(shapes[i])
        for j, tile in enumerate(tiles):
            number = grid.tensor_tiles[i][0] + j
            assert grid.tensor_of(number) == i
            assert grid.gather_tile(tensor, number).tolist() == tile


@given(SHAPES)
def test_bands_are_whole_tiles_and_contiguous(shapes: list[tuple[int, ...]]) -> None:
    grid = Grid(shapes)
    for i in range(len(shapes)):
        bands = grid.bands(i)
        assert [0, *(stop for _, stop in bands)] == [*(start for start, _ in bands), grid.numel[i]]
        ends = {int(end) for end in np.cumsum(grid.tile_sizes[slice(*grid.tensor_tiles[i])])}
        assert {stop for _, stop in bands} <= ends


def test_frames_are_as_few_whole_bands_as_hold_enough_tiles() -> None:
    # 2 bands of 100 tiles, 3 of 1, 1 of 127, 2 of 130.
    grid = Grid([(128, 6400), (0, 7), (2 * TILE + 1,), (1, 127 * 64), (65, 130 * 64)])
    assert grid.frames == ((0, 200), (200, 330), (330, 460), (460, 590))
    assert Grid([(64 * FRAME_TILES, 64), (1,)]).frames == ((0, 128), (128, 129))
    assert Grid([(0,)]).frames == Grid([]).frames == ()


def test_a_clipped_tile_keeps_its_share_but_at_least_one() -> None:
    grid = Grid([(65, 128), (), (100,)])
    assert grid.tile_sizes.tolist() == [4096, 4096, 64, 64, 1, 100]
    assert grid.kept(64).tolist() == [64, 64, 1, 1, 1, 1]
    assert grid.kept(128).tolist() == [128, 128, 2, 2, 1, 3]
    assert grid.kept(TILE).tolist() == grid.tile_sizes.tolist()
    assert grid.entry_starts(64).tolist() == [0, 64, 128, 129, 130, 131, 132]
    assert [grid.entries(i, 64) for i in range(3)] == [slice(0, 130), slice(130, 131), slice(131, 132)]


@pytest.mark.parametrize("k", [0, -1, TILE + 1])
def test_k_outside_a_tile_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="1 to 4096"):
        Grid([(4,)]).kept(k)


def test_bad_shapes_tiles_and_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Grid([(3, -1)])
    grid = Grid([(3, 5)])
    with pytest.raises(ValueError, match="not one of 1"):
        grid.tensor_of(1)
    with pytest.raises(ValueError, match="15 entries, not 16"):
        grid.gather_tile(torch.zeros(16), 0)


def test_a_gathered_tile_is_a_copy() -> None:
    tensor = torch.zeros(8)
    Grid([(8,)]).gather_tile(tensor, 0).fill_(1)
    assert not tensor.any()


def test_equal_shapes_make_equal_grids() -> None:
    assert Grid([(3, 5), ()]) == Grid([(3, 5), ()])
    assert hash(Grid([(3, 5)])) == hash(Grid([(3, 5)]))
    assert Grid([(3, 5)]) != Grid([(5, 3)])
    assert Grid([(3, 5)]) != "grid"


def test_shared_arrays_cannot_be_written() -> None:
    grid = Grid([(8,)])
    for array in (grid.tile_sizes, grid.entry_starts(1)):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7
