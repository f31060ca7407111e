"""What every GPU program is handed: the quantiser's numbers, and how the tiles of one tensor lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from muster.kernels.grid import TILE, Grid
from muster.kernels.quantiser import BOUNDS, SCALES

_BOUND_BITS = 24
"""The bounds are fp32 numbers, so integers of so many bits times powers of two."""


@cache
def scale_table(device: torch.device) -> Tensor:
    """The scale of each byte, fp32 (256,), on a device."""
    return SCALES.to(device)


@cache
def bound_table(device: torch.device) -> tuple[Tensor, Tensor]:
    """The quantiser's bounds as mantissa · 2**power, on a device: int64 (255,), int32 (255,)."""
    fractions, exponents = torch.frexp(BOUNDS)
    mantissas = torch.ldexp(fractions, torch.tensor(_BOUND_BITS)).long()
    return mantissas.to(device), (exponents - _BOUND_BITS).int().to(device)


def on_device_of(tensor: Tensor) -> AbstractContextManager[None]:
    """Launch on the device of a tensor, whichever is the current one."""
    context: AbstractContextManager[None] = torch.cuda.device_of(tensor)  # type: ignore[no-untyped-call]
    return context


def number(value: float, device: torch.device) -> Tensor:
    """A number rounded to fp32, as a tensor (1,): an argument's type would depend on its value."""
    return torch.from_numpy(np.array([value], np.float32)).to(device)


def starts(grid: Grid, k: int, device: torch.device) -> Tensor:
    """`Grid.entry_starts` on a device."""
    return torch.tensor(grid.entry_starts(k), device=device)


def widest(k: int) -> int:
    """Lanes for the entries of one tile: the power of two that holds k."""
    return 1 << (k - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor, or whole bands of it: its number, rows and columns, columns of a whole tile, first tile, tiles."""

    tensor: int
    rows: int
    cols: int
    tile_cols: int
    first: int
    tiles: int


def parts(grid: Grid) -> Iterator[Part]:
    """The tensors that have tiles, in order."""
    for i, (first, last) in enumerate(grid.tensor_tiles):
        rows, cols, tile_rows, tile_cols = grid.matrix(i)
        assert tile_rows * tile_cols == TILE, "the programs derive a tile's rows from its columns"
        if last > first:
            yield Part(i, rows, cols, tile_cols, first, last - first)


@dataclass(frozen=True, slots=True)
class Cut:
    """Whole bands of a tensor, and which entries (begin, end) of its row-major memory they are."""

    part: Part
    begin: int
    end: int


def pieces(part: Part, most: int) -> Iterator[Cut]:
    """A tensor in pieces of at most `most` entries, but of one band at least, in order."""
    across = -(-part.cols // part.tile_cols)
    # A vector is one row: its tiles, and not its rows, follow each other in memory.
    length, tiles, line = (part.cols, 1, 1) if part.rows == 1 else (part.rows, across, part.cols)
    band = part.tile_cols if part.rows == 1 else TILE // part.tile_cols
    step = band * max(1, most // (band * line))
    for begin in range(0, length, step):
        end = min(begin + step, length)
        first, count = begin // band * tiles, -(-(end - begin) // band) * tiles
        rows, cols = (1, end - begin) if part.rows == 1 else (end - begin, part.cols)
        cut = Part(part.tensor, rows, cols, part.tile_cols, part.first + first, count)
        yield Cut(cut, begin * line, end * line)
