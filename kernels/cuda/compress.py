"""Compression on the GPU in one pass, and what is taken off θ there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from muster.kernels.codec import Codec
from muster.kernels.cuda.compress_programs import compress_tiles
from muster.kernels.cuda.lanes import lanes_of
from muster.kernels.cuda.language import OPTIONS
from muster.kernels.cuda.step_programs import subtract_tiles
from muster.kernels.cuda.tables import (
    Cut,
    Part,
    bound_table,
    number,
    on_device_of,
    parts,
    pieces,
    scale_table,
    starts,
    widest,
)
from muster.kernels.lanes import PIECE, Lanes, Piece, pass_through
from muster.kernels.update import SparseUpdate


def compress(acc: Sequence[Tensor], codec: Codec) -> SparseUpdate:
    """What `muster.kernels.compress` makes; `acc` only read.

    Raises:
        ValueError: a value is not finite.
    """
    made = _Made(codec, 0.0, acc[0].device)
    for part in parts(codec.grid):
        made.launch(part, acc[part.tensor], None)
    return made.update()


def compress_(
    delta: Sequence[Tensor], error: Sequence[Tensor], decay: float, codec: Codec, left: Sequence[Tensor]
) -> SparseUpdate:
    """What `muster.kernels.compress_` makes; `error` and `left` may be in host memory.

    Raises:
        ValueError: a value is not finite; `delta` and `left` are void then.
    """
    device = delta[0].device
    if any(tensor.device != device for tensor in (*error, *left)):
        return compress_between(delta, error, decay, codec, left, lanes_of(device))
    made = _Made(codec, decay, device)
    for part in parts(codec.grid):
        made.launch(part, delta[part.tensor], error[part.tensor])
    for target, source in zip(left, delta, strict=True):
        if target is not source:
            target.copy_(source)
    return made.update()


def compress_between(
    delta: Sequence[Tensor],
    error: Sequence[Tensor],
    decay: float,
    codec: Codec,
    left: Sequence[Tensor],
    lanes: Lanes,
) -> SparseUpdate:
    """The same of `error` and `left` that are in host memory: they come and go beside the work, piece by piece.

    Raises:
        ValueError: a value is not finite; `delta` and `left` are void then.
    """
    made = _Made(codec, decay, delta[0].device)
    cuts = [cut for part in parts(codec.grid) for cut in pieces(part, PIECE)]
    flat = [[tensor.detach().view(-1) for tensor in tensors] for tensors in (delta, error, left)]

    def piece(cut: Cut) -> Piece:
        there, source, target = (tensors[cut.part.tensor][cut.begin : cut.end] for tensors in flat)
        return Piece(there, source, target, lambda came: made.launch(cut.part, there, came))

    pass_through(map(piece, cuts), lanes, max((cut.end - cut.begin for cut in cuts), default=0))
    return made.update()


class _Made:
    """An update that is being made on the GPU, tile by tile in whatever order."""

    def __init__(self, codec: Codec, decay: float, device: torch.device) -> None:
        self._codec = codec
        self._beta, self._begin = number(decay, device), starts(codec.grid, codec.k, device)
        self._tables = (*bound_table(device), scale_table(device))
        self._indices = torch.empty(codec.count, dtype=torch.int16, device=device)
        self._codes = torch.empty(codec.count, dtype=torch.uint8, device=device)
        self._scales = torch.empty((codec.grid.tiles, 2), dtype=torch.uint8, device=device)
        self._bad = torch.zeros(len(codec.grid.shapes), dtype=torch.int32, device=device)

    def launch(self, part: Part, delta: Tensor, error: Tensor | None) -> None:
        """Compress the tiles of a part; with `error`, delta := a − Δ̂, without it `delta` is only read."""
        with on_device_of(delta):
            compress_tiles[(part.tiles,)](
                (delta if error is None else error).detach(),
                delta.detach(),
                self._beta,
                part.rows,
                part.cols,
                part.first,
                self._begin,
                *self._tables,
                self._indices,
                self._codes,
                self._scales,
                self._bad[part.tensor :],
                TILE_COLS=part.tile_cols,
                IN_PLACE=error is not None,
                num_warps=8,
                **OPTIONS,
            )

    def update(self) -> SparseUpdate:
        """The update, once every tile is done.

        Raises:
            ValueError: a value was not finite.
        """
        for i in self._bad.nonzero().flatten().tolist():
            raise ValueError(f"tensor {i} of the pseudo-gradient has a value that is not finite")
        return SparseUpdate(self._codec, self._indices.cpu(), self._codes.cpu(), self._scales.cpu())


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
