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
    """One tensor with tiles: its number, rows and columns, columns of a whole tile, first tile, number of tiles."""

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
