"""Compression of a real model's pseudo-gradient in one pass: error feedback, top-k, codes and residual at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from muster.kernels.codec import Codec
from muster.kernels.fast.jobs import BOUND_TABLE, SCALE_TABLE, Tiles, flat, run
from muster.kernels.fast.loops import compress_tiles, subtract_tiles
from muster.kernels.update import SparseUpdate


def compress(acc: Sequence[Tensor], codec: Codec) -> SparseUpdate:
    """What `muster.kernels.compress` makes; `acc` only read.

    Raises:
        ValueError: a value is not finite.
    """
    return _compress(None, acc, np.float32(0), codec)


def compress_(
    delta: Sequence[Tensor], error: Sequence[Tensor], decay: float, codec: Codec, left: Sequence[Tensor]
) -> SparseUpdate:
    """What `muster.kernels.compress_` makes; `left` is in the memory of Δ, or gets a copy.

    Raises:
        ValueError: a value is not finite; `delta` is void then.
    """
    update = _compress(error, delta, np.float32(decay), codec)
    for target, source in zip(left, delta, strict=True):
        if target is not source:
            target.copy_(source)
    return update


def _compress(error: Sequence[Tensor] | None, delta: Sequence[Tensor], beta: np.float32, codec: Codec) -> SparseUpdate:
    grid, starts = codec.grid, codec.grid.entry_starts(codec.k)
    indices, codes = torch.empty(codec.count, dtype=torch.int16), torch.empty(codec.count, dtype=torch.uint8)
    scales = torch.empty((grid.tiles, 2), dtype=torch.uint8)
    out = (indices.numpy(), codes.numpy(), scales.numpy())
    values = [flat(tensor) for tensor in delta]
    errors = values if error is None else [flat(tensor) for tensor in error]

    def work(i: int, tiles: Tiles) -> tuple[int, bool]:
        first, last = grid.tensor_tiles[i]
        finite = compress_tiles(
            errors[i],
            values[i],
            beta,
            grid.matrix(i),
            tiles,
            starts[first : last + 1],
            (SCALE_TABLE, BOUND_TABLE),
            (out[0], out[1], out[2][first:last]),
            error is not None,
        )
        return i, finite

    for i, finite in run(grid, work):
        if not finite:
            raise ValueError(f"tensor {i} of the pseudo-gradient has a value that is not finite")
    return SparseUpdate(codec=codec, indices=indices, codes=codes, scales=scales)


def subtract_(theta: Sequence[Tensor], update: SparseUpdate, factors: Sequence[float], save: bool) -> Tensor:
    """theta −= fl(factor · Δ̂) in place, contiguous; `factors`, one a tensor, are rounded to fp32 first.

    Returns the values fp32 (N,) that were there, in the update's order; none unless `save`.
    """
    grid, starts = update.grid, update.grid.entry_starts(update.k)
    values = torch.empty(int(starts[-1]) if save else 0)
    saved = values.numpy()
    sent = (update.indices.numpy(), update.codes.numpy(), update.scales.numpy())
    arrays = [flat(tensor) for tensor in theta]

    def work(i: int, tiles: Tiles) -> None:
        first, last = grid.tensor_tiles[i]
        subtract_tiles(
            arrays[i],
            grid.matrix(i),
            tiles,
            starts[first : last + 1],
            (sent[0], sent[1], sent[2][first:last]),
            limit(update, i),
            np.float32(factors[i]),
            SCALE_TABLE,
            saved,
        )

    run(grid, work)
    return values


def limit(update: SparseUpdate, i: int) -> np.float32:
    """The largest scale in force for tensor i of an update."""
    return np.float32(np.inf if update.scale_limit is None else update.scale_limit[i])
