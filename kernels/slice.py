"""Slice: the part of a model that is held here, where it is spread over several devices or machines.

Of each tensor a slice holds a range of bands: the rows from one multiple of 64 to another (of 4096, for a vector), so
whole tiles and contiguous memory. Its own grid has exactly those tiles, which is why every operation of the kernels
works on a slice as it is: what it makes of each tile is what it would make of it in the whole model, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from muster.kernels.grid import Grid
from muster.kernels.update import SparseUpdate


@dataclass(frozen=True)
class Slice:
    """Of each tensor of `whole`, the bands from bands[i][0] up to bands[i][1]; none where the two are equal.

    Raises:
        ValueError: a range of bands is not one of the tensor's.
    """

    whole: Grid
    bands: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        """Refuse ranges that no tensor has."""
        if len(self.bands) != len(self.whole.shapes):
            raise ValueError(f"a slice must have one range of bands a tensor, {len(self.whole.shapes)} in all")
        for i, (first, last) in enumerate(self.bands):
            most = self.whole.band_count(i)
            if not 0 <= first <= last <= most:
                raise ValueError(f"tensor {i} has bands 0 to {most}, not {first} to {last}")

    @staticmethod
    def all_of(grid: Grid) -> Slice:
        """The slice of a process that holds the whole model."""
        return _whole(grid)

    @classmethod
    def of_rank(cls, grid: Grid, rank: int, ranks: int) -> Slice:
        """What rank `rank` of `ranks` holds, where each has ⌈d0 / ranks⌉ rows as FSDP2 shards the first dimension.

        A band that two ranks have rows of belongs to the one that has its first row, which gets the others from its
        neighbours.

        Raises:
            ValueError: there is no such rank.
        """
        if not 0 <= rank < ranks:
            raise ValueError(f"rank {rank} is not one of {ranks}")
        held = []
        for i, shape in enumerate(grid.shapes):
            rows, most = -(-(shape[0] if shape else 1) // ranks), grid.band_count(i)
            before = [min(-(-each * rows // grid.band_rows(i)), most) for each in (rank, rank + 1)]
            held.append((before[0], before[1]))
        return cls(grid, tuple(held))

    @cached_property
    def grid(self) -> Grid:
        """The tiles held here, as the grid of the tensors' parts."""
        shapes = tuple(self._shape(i) for i in range(len(self.bands)))
        return self.whole if shapes == self.whole.shapes else Grid(shapes)  # the whole one has worked out much already

    def rows(self, i: int) -> tuple[int, int]:
        """First row of tensor i that is held, and the row after the last; entries, for a vector."""
        height = self.whole.shapes[i][0] if self.whole.shapes[i] else 1
        first, last = (min(band * self.whole.band_rows(i), height) for band in self.bands[i])
        return first, last

    def _shape(self, i: int) -> tuple[int, ...]:
        first, last = self.rows(i)
        shape = self.whole.shapes[i]
        return shape if not shape and last > first else (last - first, *shape[1:])

    def parts(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The parts of whole tensors that are held: views of them, of the shapes of `grid`."""
        parts = []
        for i, tensor in enumerate(tensors):
            first, last = self.rows(i)
            rows = tensor if tensor.dim() else tensor.reshape(1)
            parts.append(rows[first:last].reshape(self._shape(i)))
        return parts

    def tiles(self, i: int) -> tuple[int, int]:
        """First tile of tensor i that is held and the tile after the last, in the numbers of `whole`."""
        begin, across = self.whole.tensor_tiles[i][0], self.whole.across(i)
        first, last = self.bands[i]
        return begin + first * across, begin + last * across

    def tile(self, whole_tile: int) -> int | None:
        """The number in `grid` of a tile of `whole`; None where it is not held."""
        i = self.whole.tensor_of(whole_tile)
        first, last = self.tiles(i)
        return self.grid.tensor_tiles[i][0] + whole_tile - first if first <= whole_tile < last else None

    def part(self, update: SparseUpdate) -> SparseUpdate:
        """What an update of the whole model says about the bands that are held; its scale limit stays."""
        starts = self.whole.entry_starts(update.k)
        spans = [self.tiles(i) for i in range(len(self.bands))]
        entries = [slice(int(starts[first]), int(starts[last])) for first, last in spans]
        return replace(
            update,
            codec=replace(update.codec, grid=self.grid),
            indices=_cat([update.indices[each] for each in entries], update.indices),
            codes=_cat([update.codes[each] for each in entries], update.codes),
            scales=_cat([update.scales[first:last] for first, last in spans], update.scales),
        )


@lru_cache(maxsize=8)
def _whole(grid: Grid) -> Slice:
    return Slice(grid, tuple((0, grid.band_count(i)) for i in range(len(grid.shapes))))


def cover(slices: Sequence[Slice], i: int) -> list[int]:
    """Which of the slices hold bands of tensor i, in the order of the bands.

    Raises:
        ValueError: a band is held by none of them, or by two.
    """
    order = sorted(
        (n for n, held in enumerate(slices) if held.bands[i][0] < held.bands[i][1]), key=lambda n: slices[n].bands[i]
    )
    at, most = 0, slices[0].whole.band_count(i)
    for n in order:
        if slices[n].bands[i][0] != at:
            raise ValueError(f"band {at} of tensor {i} is not held exactly once")
        at = slices[n].bands[i][1]
    if at != most:
        raise ValueError(f"band {at} of tensor {i} is not held exactly once")
    return order


def join(slices: Sequence[Slice], updates: Sequence[SparseUpdate]) -> SparseUpdate:
    """The update of the whole model from those of its slices.

    Raises:
        ValueError: the slices do not hold each band once, or an update is not of its slice.
    """
    if [update.grid for update in updates] != [held.grid for held in slices]:
        raise ValueError("each update must be of its own slice")
    whole = slices[0].whole
    indices, codes, scales = [], [], []
    for i in range(len(whole.shapes)):
        for update in (updates[n] for n in cover(slices, i)):
            entries, tiles = update.grid.entries(i, update.k), slice(*update.grid.tensor_tiles[i])
            indices.append(update.indices[entries])
            codes.append(update.codes[entries])
            scales.append(update.scales[tiles])
    first = updates[0]
    return replace(
        first,
        codec=replace(first.codec, grid=whole),
        indices=_cat(indices, first.indices),
        codes=_cat(codes, first.codes),
        scales=_cat(scales, first.scales),
    )


def _cat(parts: list[Tensor], like: Tensor) -> Tensor:
    return torch.cat([like[:0], *parts])
