"""What an update says about dense tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from kernel_inputs import KEPT, SHAPES, update

from muster.kernels import SCALES, Codec, Grid, SparseUpdate

LO, HI = 0.5, 1.0
"""The scales of the first tile of `small`."""


def small() -> SparseUpdate:
    """Two and one entries in the tiles of 128 and 4 entries of a 2 × 66 matrix, one in a vector of 3."""
    return SparseUpdate(
        codec=Codec(Grid([(2, 66), (3,)]), 64),
        indices=torch.tensor([63, 65, 2, 1], dtype=torch.int16),
        codes=torch.tensor([0, 3, 2, 1], dtype=torch.uint8),
        scales=torch.tensor([[234, 242], [242, 250], [226, 234]], dtype=torch.uint8),
    )


def test_positions_and_values_by_hand() -> None:
    made = small()
    assert made.positions(0).tolist() == [63, 67, 130]
    assert made.values(0).tolist() == [LO, -HI, -2 * LO]
    assert made.positions(1).tolist() == [1]
    assert made.values(1).tolist() == [HI / 2]
    dense = made.dense()
    assert [tuple(part.shape) for part in dense] == [(2, 66), (3,)]
    assert dense[0].nonzero().tolist() == [[0, 63], [1, 1], [1, 64]]
    assert dense[1].tolist() == [0, HI / 2, 0]


def test_a_limit_caps_the_scales_of_its_tensor() -> None:
    limited = replace(small(), scale_limit=(0.75, float("inf")))
    assert limited.scale_values().tolist() == [[0.5, 0.75], [0.75, 0.75], [0.25, 0.5]]
    assert limited.values(0).tolist() == [LO, -0.75, -0.75]
    assert limited.values(1).tolist() == small().values(1).tolist()


@given(SHAPES, KEPT)
def test_positions_are_the_tile_order_of_the_grid(shapes: list[tuple[int, ...]], k: int) -> None:
    grid = Grid(shapes)
    made = update(grid, k, 2)
    starts = torch.tensor(grid.tile_sizes.tolist(), dtype=torch.long).cumsum(0)
    for i, (first, last) in enumerate(grid.tensor_tiles):
        tiles = grid.entry_tiles(i, k) + first
        assert tiles.tolist() == [tile for tile in range(first, last) for _ in range(grid.kept(k)[tile])]
        begin = starts[tiles] - torch.from_numpy(grid.tile_sizes.astype("int64"))[tiles]
        origin = int(grid.tile_sizes[:first].sum())
        places = begin - origin + made.indices[grid.entries(i, k)].long()
        assert made.positions(i).tolist() == grid.order(i)[places].tolist()
        assert len(set(made.positions(i).tolist())) == len(made.positions(i))
    assert made.scale_values().tolist() == SCALES[made.scales.long()].tolist()


def test_identical_compares_every_part() -> None:
    made = small()
    assert made.identical(small())
    for name in ("indices", "codes", "scales"):
        changed = getattr(made, name).clone()
        changed[0] ^= 1
        assert not made.identical(replace(made, **{name: changed}))
    assert not made.identical(replace(made, scale_limit=(1.0, 1.0)))
    assert not made.identical(replace(made, codec=replace(made.codec, k=65)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"indices": torch.zeros(4, dtype=torch.int32)},
        {"indices": torch.zeros(5, dtype=torch.int16)},
        {"codes": torch.zeros(3, dtype=torch.uint8)},
        {"scales": torch.zeros(3, 2)},
        {"scales": torch.zeros(3, dtype=torch.uint8)},
        {"scale_limit": (1.0,)},
        {"codec": Codec(Grid([(2, 66)]), 64)},
    ],
)
def test_parts_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|must have"):
        replace(small(), **wrong)
