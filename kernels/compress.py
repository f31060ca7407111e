"""Compression with error feedback: what of a pseudo-gradient is sent, and what waits for the next round.

    a = β·e + Δ        Δ̂ = Q(topk(a))        e ← a − Δ̂        (SparseLoCo, arXiv 2508.15706 §3)

Each operation rounds to fp32 once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from muster.kernels.backend import backend_of
from muster.kernels.codec import Codec
from muster.kernels.grid import Grid
from muster.kernels.reference import fold
from muster.kernels.update import SparseUpdate

__all__ = ["compress", "compress_", "fold", "residual"]


def compress(acc: Sequence[Tensor], codec: Codec) -> SparseUpdate:
    """The k largest entries of each tile of `acc` (fp32 tensors of the grid's shapes, only read), quantised.

    Entries are ordered by (|a| as uint32 descending, index ascending), so ties and −0 have one answer.

    Raises:
        ValueError: a value is not finite, or a shape or dtype is not the codec's.
    """
    _check_shapes(acc, codec.grid)
    packed = [tensor.contiguous() for tensor in acc]
    return backend_of(packed).compress(packed, codec)


def residual(acc: Sequence[Tensor], update: SparseUpdate) -> list[Tensor]:
    """e = fl(a − Δ̂) as new tensors; entries that were not kept have the bits they had.

    Raises:
        ValueError: a shape or dtype of `acc` is not the update's.
    """
    _check_shapes(acc, update.grid)
    left = [tensor.clone(memory_format=torch.contiguous_format) for tensor in acc]
    backend_of(left).subtract_(left, update, [1.0] * len(left), save=False)
    return left


def compress_(
    delta: Sequence[Tensor],
    error: Sequence[Tensor],
    decay: float,
    codec: Codec,
    left: Sequence[Tensor] | None = None,
) -> SparseUpdate:
    """`fold`, `compress` and `residual` in one: `left` becomes a − Δ̂, e, `error`, is only read; `decay` is β.

    `left` is the memory of Δ, `delta`, unless other tensors are given; then Δ's is void. So the caller needs no third
    copy of the model, and still has the old e if this fails. `error` and `left` may be in host memory where Δ is on a
    GPU: they come and go while it computes, and take none of its memory but two small buffers.

    Raises:
        ValueError: as for `compress`, and where a tensor is not contiguous; where a value is not finite, what `delta`
            and `left` hold is void.
    """
    left = delta if left is None else left
    for tensors in (delta, error, left):
        _check_shapes(tensors, codec.grid)
        _check_contiguous(tensors)
    return backend_of(delta).compress_(delta, error, decay, codec, left)


def _check_contiguous(tensors: Sequence[Tensor]) -> None:
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise ValueError("what is changed in place must be contiguous tensors")


def _check_shapes(acc: Sequence[Tensor], grid: Grid) -> None:
    shapes = tuple(tuple(tensor.shape) for tensor in acc)
    if shapes != grid.shapes or any(tensor.dtype != torch.float32 for tensor in acc):
        raise ValueError("the tensors must be fp32 and of the shapes of the grid")
