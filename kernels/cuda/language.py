"""What all Triton programs share: how a tile lies, and how the compiler must leave what is written.

A program handles one tile at a time. Its entries lie in TILE lanes, ordered by index: lane = row · tile_cols +
column of a whole tile, where a clipped tile leaves lanes empty. What decides is integers (which entries, which
scales), so no order of summation shows; what is fp32 is one rounded operation after another, in the order of the
reference; `OPTIONS` tell the compiler to leave them as they are.

A tensor is (rows, cols), row-major, in tiles of TILE / TILE_COLS rows and TILE_COLS columns (`Grid.matrix`).
`starts`, int64, says where each tile of the grid, and not of the tensor, has its entries.
"""

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

import triton
import triton.language as tl

from muster.kernels import grid

P = ParamSpec("P")
T = TypeVar("T")

OPTIONS = {"enable_fp_fusion": False, "enable_reflect_ftz": False, "num_stages": 1}
"""For every launch: no product is fused with a sum, division does not flush subnormal numbers, and (one stage) loads
are not moved ahead of the stores of an earlier pass of a loop."""

TILE: tl.constexpr = tl.constexpr(grid.TILE)


class Program(Protocol):
    """What a compiled program is for its callers: program[(number of instances,)](arguments)."""

    def __getitem__(self, instances: tuple[int]) -> Callable[..., None]:
        """The program, to be run so many times."""


def program(*varying: str) -> Callable[[Callable[..., None]], Program]:
    """Compile for launches from the host; not anew for the values of the arguments named."""

    def compiled(function: Callable[..., None]) -> Program:
        made: Program = triton.jit(function, do_not_specialize=varying)
        return made

    return compiled


def inline(function: Callable[P, T]) -> Callable[P, T]:
    """Compile for use by programs."""
    made: Callable[P, T] = triton.jit(function)
    return made


@inline
def tile_at(tile: tl.tensor, rows: tl.tensor, cols: tl.tensor, TILE_COLS: tl.constexpr) -> tl.tensor:
    """Where a tile of the tensor begins, int64, and its rows and columns."""
    across = (cols + TILE_COLS - 1) // TILE_COLS
    top, left = (tile // across).to(tl.int64) * (TILE // TILE_COLS), (tile % across).to(tl.int64) * TILE_COLS
    return top * cols + left, tl.minimum(rows - top, TILE // TILE_COLS), tl.minimum(cols - left, TILE_COLS)


@inline
def lanes(begin: tl.tensor, height: tl.tensor, width: tl.tensor, cols: tl.tensor, TILE_COLS: tl.constexpr) -> tl.tensor:
    """For each lane: where its entry is, the entry's index inside the tile, and whether there is one."""
    lane = tl.arange(0, TILE)
    row, column = (lane // TILE_COLS).to(tl.int64), lane % TILE_COLS
    return begin + row * cols + column, row * width + column, (row < height) & (column < width)


@inline
def signed(code: tl.tensor, low: tl.tensor, high: tl.tensor) -> tl.tensor:
    """The value of a code. A product, for Triton's negation is 0 − x, which makes +0 of +0."""
    return tl.where((code & 1) != 0, high, low) * tl.where((code & 2) != 0, -1.0, 1.0)
