"""The tile grid: why every replica, shard and device agrees which entries share a top-k and a scale.

A tile belongs to the full logical tensor whatever the sharding. A tensor of two or more dimensions is read as
a matrix (d0, rest) and cut into 64 × 64 tiles; a vector is cut into runs of 4096 (SparseLoCo, arXiv
2508.15706 §3). Tiles at the lower and right edge are clipped, never padded. A *band* is the tiles of the
same rows: contiguous memory.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

TILE_ROWS = 64
"""Rows, and columns, of a matrix tile."""
TILE = TILE_ROWS * TILE_ROWS
"""Entries of a whole tile: C of the density k/C."""
FRAME_TILES = 128
"""A frame of the codec holds at least so many tiles (the last one excepted): its fixed cost is under 1 %."""

CACHED_ENTRIES = 1 << 16
"""Kept entries of a tensor up to which their tiles are kept in memory."""


Values = TypeVar("Values", Tensor, npt.NDArray[np.float32])


@dataclass(frozen=True, slots=True)
class _Cut:
    """How one tensor is cut: a rows × cols matrix into tiles of at most tile_rows × tile_cols.

    A vector of n entries is n × 1 in tiles of 4096 × 1, so one set of formulas serves both.
    """

    rows: int
    cols: int
    tile_rows: int
    tile_cols: int

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> _Cut:
        if len(shape) < 2:
            return cls(math.prod(shape), 1, TILE, 1)
        return cls(shape[0], math.prod(shape[1:]), TILE_ROWS, TILE_ROWS)

    @property
    def bands(self) -> int:
        return -(-self.rows // self.tile_rows) if self.cols else 0

    @property
    def across(self) -> int:
        """Tiles in a band."""
        return -(-self.cols // self.tile_cols) if self.rows else 0

    def band(self, band: int) -> tuple[int, int]:
        """First row and the row after the last."""
        return band * self.tile_rows, min((band + 1) * self.tile_rows, self.rows)

    def sizes(self) -> npt.NDArray[np.int32]:
        """Entries of each tile, int32 (bands · across,)."""
        heights = np.minimum(self.rows - np.arange(self.bands) * self.tile_rows, self.tile_rows)
        widths = np.minimum(self.cols - np.arange(self.across) * self.tile_cols, self.tile_cols)
        return np.outer(heights, widths).reshape(-1).astype(np.int32)

    def offsets(self, tiles: Tensor, indices: Tensor) -> Tensor:
        """Row-major offsets of entries given by tile (within the tensor) and index inside the tile; int64."""
        band, column = tiles // self.across, tiles % self.across * self.tile_cols
        width = torch.clamp(self.cols - column, max=self.tile_cols)
        row = band * self.tile_rows + indices // width
        return row * self.cols + column + indices % width


class Grid:
    """The tiles of a list of tensors, in global order: tensors, bands downwards, tiles left to right.

    A pure function of the shapes; two grids of the same shapes are equal.

    Attributes:
        shapes: the tensors' shapes; a 0-d tensor is a vector of one entry, an empty one has no tiles.
        numel: entries of each tensor.
        tensor_tiles: (first tile, tile after the last) of each tensor, global tile ids.
        tiles: tiles in all.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Cut tensors of `shapes`.

        Raises:
            ValueError: a dimension is negative.
        """
        if any(dimension < 0 for shape in shapes for dimension in shape):
            raise ValueError("a tensor's dimensions must not be negative")
        self.shapes: tuple[tuple[int, ...], ...] = tuple(tuple(shape) for shape in shapes)
        self.numel: tuple[int, ...] = tuple(math.prod(shape) for shape in self.shapes)
        self._cuts = tuple(_Cut.of(shape) for shape in self.shapes)
        spans, tiles = [], 0
        for cut in self._cuts:
            spans.append((tiles, tiles + cut.bands * cut.across))
            tiles = spans[-1][1]
        self.tensor_tiles: tuple[tuple[int, int], ...] = tuple(spans)
        self.tiles: int = tiles
        self._firsts = [first for first, _ in spans]
        self._starts: dict[int, npt.NDArray[np.int64]] = {}
        # Layers repeat their shapes, so permutations are kept per shape and not per tensor.
        self._orders: dict[_Cut, Tensor] = {}
        self._entry_tiles: dict[tuple[_Cut, int], Tensor] = {}

    def __eq__(self, other: object) -> bool:
        return self.shapes == other.shapes if isinstance(other, Grid) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.shapes)

    def __repr__(self) -> str:
        return f"Grid({len(self.shapes)} tensors, {sum(self.numel)} entries, {self.tiles} tiles)"

    @cached_property
    def tile_sizes(self) -> npt.NDArray[np.int32]:
        """Entries of each tile, int32 (tiles,), read-only."""
        sizes = np.concatenate([cut.sizes() for cut in self._cuts] or [np.empty(0, np.int32)])
        sizes.flags.writeable = False
        return sizes

    @cached_property
    def frames(self) -> tuple[tuple[int, int], ...]:
        """(first tile, tile after the last) of each frame of the codec.

        A frame is as few whole bands as hold FRAME_TILES tiles, running across tensors; the last is the rest.
        """
        frames, start, stop = [], 0, 0
        for cut in self._cuts:
            for _ in range(cut.bands):
                stop += cut.across
                if stop - start >= FRAME_TILES:
                    frames.append((start, stop))
                    start = stop
        if stop > start:
            frames.append((start, stop))
        return tuple(frames)

    def bands(self, i: int) -> list[tuple[int, int]]:
        """(start, stop) of each band of tensor i, in entries of the row-major tensor."""
        cut = self._cuts[i]
        rows = (cut.band(band) for band in range(cut.bands))
        return [(first * cut.cols, last * cut.cols) for first, last in rows]

    def band_count(self, i: int) -> int:
        """Bands of tensor i."""
        return self._cuts[i].bands

    def across(self, i: int) -> int:
        """Tiles in each band of tensor i."""
        return self._cuts[i].across

    def band_rows(self, i: int) -> int:
        """What a whole band of tensor i spans of its first dimension: 64 rows of a matrix, 4096 entries of a vector."""
        return self._cuts[i].tile_rows

    def matrix(self, i: int) -> tuple[int, int, int, int]:
        """Tensor i as loops over tiles read it: rows and columns, then rows and columns of a whole tile.

        A vector is one row, cut into tiles of 1 × 4096.
        """
        cut = self._cuts[i]
        if cut.tile_cols == 1:
            return 1, cut.rows, 1, cut.tile_rows
        return cut.rows, cut.cols, cut.tile_rows, cut.tile_cols

    def kept(self, k: int) -> npt.NDArray[np.int32]:
        """Entries kept of each tile, int32 (tiles,): max(1, ⌊k·n/4096⌋) of a tile of n entries.

        Raises:
            ValueError: k is not in 1..4096.
        """
        if not 1 <= k <= TILE:
            raise ValueError(f"k is the number of entries kept of {TILE}, so 1 to {TILE}, not {k}")
        return np.maximum(1, k * self.tile_sizes // TILE).astype(np.int32)

    def entry_starts(self, k: int) -> npt.NDArray[np.int64]:
        """Where each tile's kept entries begin among all, and at the end their number; int64 (tiles + 1,).

        Read-only and cached.

        Raises:
            ValueError: k is not in 1..4096.
        """
        if k not in self._starts:
            starts = np.zeros(self.tiles + 1, np.int64)
            np.cumsum(self.kept(k), dtype=np.int64, out=starts[1:])
            starts.flags.writeable = False
            self._starts[k] = starts
        return self._starts[k]

    def entries(self, i: int, k: int) -> slice:
        """Which of all kept entries are tensor i's."""
        first, last = self.tensor_tiles[i]
        starts = self.entry_starts(k)
        return slice(int(starts[first]), int(starts[last]))

    def entry_tiles(self, i: int, k: int) -> Tensor:
        """The tile, counted within tensor i, of each of its kept entries, int64 (N_i,): only read.

        Cached where it is small: there, making it costs more than what it is asked for.
        """
        cut = self._cuts[i]
        if (cut, k) in self._entry_tiles:
            return self._entry_tiles[cut, k]
        first, last = self.tensor_tiles[i]
        counts = np.diff(self.entry_starts(k)[first : last + 1])
        made = torch.repeat_interleave(torch.arange(last - first), torch.from_numpy(counts))
        if len(made) <= CACHED_ENTRIES:
            self._entry_tiles[cut, k] = made
        return made

    def offsets(self, i: int, k: int, indices: Tensor) -> Tensor:
        """Row-major offsets in tensor i, int64, of its kept entries, whose indices inside their tiles are given.

        `indices` are int64 (N_i,) and trusted: the codec has checked what came from a peer.
        """
        return self._cuts[i].offsets(self.entry_tiles(i, k), indices)

    def order(self, i: int) -> Tensor:
        """Row-major offsets of tensor i in tile order, int64 (numel_i,), a permutation; cached: only read."""
        cut = self._cuts[i]
        if cut not in self._orders:
            sizes = torch.from_numpy(cut.sizes().astype(np.int64))
            tiles = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
            begins = torch.cumsum(sizes, 0) - sizes
            self._orders[cut] = cut.offsets(tiles, torch.arange(len(tiles)) - begins[tiles])
        return self._orders[cut]

    def tensor_of(self, tile: int) -> int:
        """The tensor that a global tile id belongs to.

        Raises:
            ValueError: there is no such tile.
        """
        if not 0 <= tile < self.tiles:
            raise ValueError(f"tile {tile} is not one of {self.tiles}")
        return bisect_right(self._firsts, tile) - 1

    def cut_tile(self, values: Values, tile: int) -> Values:
        """The entries of one tile (global id), a view of its rows and columns.

        `values` is the whole tensor `tensor_of(tile)`, of torch or of numpy, contiguous, of any shape.

        Raises:
            ValueError: there is no such tile, or the tensor is not of the size the grid gives it.
        """
        i = self.tensor_of(tile)
        if math.prod(values.shape) != self.numel[i]:
            raise ValueError(f"tile {tile} is of a tensor of {self.numel[i]} entries, not {math.prod(values.shape)}")
        cut = self._cuts[i]
        band, column = divmod(tile - self.tensor_tiles[i][0], cut.across)
        first, last = cut.band(band)
        left = column * cut.tile_cols
        return values.reshape(cut.rows, cut.cols)[first:last, left : left + cut.tile_cols]

    def gather_tile(self, tensor: Tensor, tile: int) -> Tensor:
        """The entries of one tile (global id), a copy of (tile_sizes[tile],), row-major inside the tile.

        `tensor` is the whole tensor `tensor_of(tile)`, any shape of its number of entries.

        Raises:
            ValueError: there is no such tile, or the tensor is not of the size the grid gives it.
        """
        return self.cut_tile(tensor, tile).clone(memory_format=torch.contiguous_format).view(-1)
