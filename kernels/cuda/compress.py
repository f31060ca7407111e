"""Compression on the GPU in one pass, and what is taken off θ there or put back; see `muster.kernels.cuda.programs`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from muster.kernels.cuda.programs import OPTIONS, compress_tiles, put_tiles, subtract_tiles
from muster.kernels.cuda.tables import bound_table, number, on_device_of, parts, scale_table, starts, widest
from muster.kernels.grid import Grid
from muster.kernels.update import SparseUpdate


def compress(acc: Sequence[Tensor], k: int, grid: Grid) -> SparseUpdate:
    """What `muster.kernels.compress` makes; `acc` only read, contiguous.

    Raises:
        ValueError: a value is not finite.
    """
    return _compress(None, acc, 0.0, k, grid)[0]


def compress_(
    delta: Sequence[Tensor], error: Sequence[Tensor], decay: float, k: int, grid: Grid
) -> tuple[SparseUpdate, Tensor]:
    """What `muster.kernels.compress_` makes, and the kept entries of a, which stay on the GPU; both lists contiguous.

    Raises:
        ValueError: a value is not finite; `delta` is void then.
    """
    return _compress(error, delta, decay, k, grid)


def _compress(
    error: Sequence[Tensor] | None, delta: Sequence[Tensor], decay: float, k: int, grid: Grid
) -> tuple[SparseUpdate, Tensor]:
    device, begins = delta[0].device, grid.entry_starts(k)
    count = int(begins[-1])
    indices = torch.empty(count, dtype=torch.int16, device=device)
    codes = torch.empty(count, dtype=torch.uint8, device=device)
    scales = torch.empty((grid.tiles, 2), dtype=torch.uint8, device=device)
    kept = torch.empty(0 if error is None else count, device=device)
    bad = torch.zeros(len(delta), dtype=torch.int32, device=device)
    beta, begin = number(decay, device), starts(grid, k, device)
    with on_device_of(delta[0]):
        for part in parts(grid):
            i = part.tensor
            compress_tiles[(part.tiles,)](
                (delta if error is None else error)[i].detach(),
                delta[i].detach(),
                beta,
                part.rows,
                part.cols,
                part.first,
                begin,
                *bound_table(device),
                scale_table(device),
                indices,
                codes,
                scales,
                kept,
                bad[i:],
                TILE_COLS=part.tile_cols,
                IN_PLACE=error is not None,
                num_warps=8,
                **OPTIONS,
            )
    for i in bad.nonzero().flatten().tolist():
        raise ValueError(f"tensor {i} of the pseudo-gradient has a value that is not finite")
    return SparseUpdate(grid=grid, k=k, indices=indices.cpu(), codes=codes.cpu(), scales=scales.cpu()), kept


def subtract_(theta: Sequence[Tensor], update: SparseUpdate, factor: float, save: bool) -> Tensor:
    """theta −= fl(factor · Δ̂) in place, contiguous; `factor` is rounded to fp32 first.

    Returns the values fp32 (N,) that were there, in the update's order, on the GPU; none unless `save`.
    """
    device = theta[0].device
    sent = [tensor.to(device) for tensor in (update.indices, update.codes, update.scales)]
    saved = torch.empty(len(update.indices) if save else 0, device=device)
    begin, rounded = starts(update.grid, update.k, device), number(factor, device)
    with on_device_of(theta[0]):
        for part in parts(update.grid):
            subtract_tiles[(part.tiles,)](
                theta[part.tensor].detach(),
                part.rows,
                part.cols,
                part.first,
                begin,
                *sent,
                number(limit(update, part.tensor), device),
                rounded,
                scale_table(device),
                saved,
                TILE_COLS=part.tile_cols,
                KEPT=widest(update.k),
                SAVE=save,
                **OPTIONS,
            )
    return saved


def put_(theta: Sequence[Tensor], update: SparseUpdate, values: Tensor) -> None:
    """theta := values at the update's entries, in place, contiguous; `values` fp32 (N,) in the update's order."""
    device = theta[0].device
    begin, indices, source = starts(update.grid, update.k, device), update.indices.to(device), values.to(device)
    with on_device_of(theta[0]):
        for part in parts(update.grid):
            put_tiles[(part.tiles,)](
                theta[part.tensor].detach(),
                part.rows,
                part.cols,
                part.first,
                begin,
                indices,
                source,
                TILE_COLS=part.tile_cols,
                KEPT=widest(update.k),
                **OPTIONS,
            )


def limit(update: SparseUpdate, i: int) -> float:
    """The largest scale in force for tensor i of an update."""
    return math.inf if update.scale_limit is None else update.scale_limit[i]
