"""Compression on the GPU in one pass, and what is taken off θ there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from muster.kernels.codec import Codec
from muster.kernels.cuda.compress_programs import compress_tiles
from muster.kernels.cuda.language import OPTIONS
from muster.kernels.cuda.step_programs import subtract_tiles
from muster.kernels.cuda.tables import bound_table, number, on_device_of, parts, scale_table, starts, widest
from muster.kernels.update import SparseUpdate


def compress(acc: Sequence[Tensor], codec: Codec) -> SparseUpdate:
    """What `muster.kernels.compress` makes; `acc` only read.

    Raises:
        ValueError: a value is not finite.
    """
    return _compress(None, acc, 0.0, codec)


def compress_(delta: Sequence[Tensor], error: Sequence[Tensor], decay: float, codec: Codec) -> SparseUpdate:
    """What `muster.kernels.compress_` makes.

    Raises:
        ValueError: a value is not finite; `delta` is void then.
    """
    return _compress(error, delta, decay, codec)


def _compress(error: Sequence[Tensor] | None, delta: Sequence[Tensor], decay: float, codec: Codec) -> SparseUpdate:
    grid, device = codec.grid, delta[0].device
    indices = torch.empty(codec.count, dtype=torch.int16, device=device)
    codes = torch.empty(codec.count, dtype=torch.uint8, device=device)
    scales = torch.empty((grid.tiles, 2), dtype=torch.uint8, device=device)
    bad = torch.zeros(len(delta), dtype=torch.int32, device=device)
    beta, begin = number(decay, device), starts(grid, codec.k, device)
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
                bad[i:],
                TILE_COLS=part.tile_cols,
                IN_PLACE=error is not None,
                num_warps=8,
                **OPTIONS,
            )
    for i in bad.nonzero().flatten().tolist():
        raise ValueError(f"tensor {i} of the pseudo-gradient has a value that is not finite")
    return SparseUpdate(codec=codec, indices=indices.cpu(), codes=codes.cpu(), scales=scales.cpu())


def subtract_(theta: Sequence[Tensor], update: SparseUpdate, factors: Sequence[float], save: bool) -> Tensor:
    """theta −= fl(factor · Δ̂) in place, contiguous; `factors`, one a tensor, are rounded to fp32 first.

    Returns the values fp32 (N,) that were there, in the update's order, on the GPU; none unless `save`.
    """
    device = theta[0].device
    sent = [tensor.to(device) for tensor in (update.indices, update.codes, update.scales)]
    saved = torch.empty(len(update.indices) if save else 0, device=device)
    begin = starts(update.grid, update.k, device)
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
                number(factors[part.tensor], device),
                scale_table(device),
                saved,
                TILE_COLS=part.tile_cols,
                KEPT=widest(update.k),
                SAVE=save,
                **OPTIONS,
            )
    return saved


def limit(update: SparseUpdate, i: int) -> float:
    """The largest scale in force for tensor i of an update."""
    return math.inf if update.scale_limit is None else update.scale_limit[i]
