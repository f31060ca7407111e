"""Compression with error feedback: what of a pseudo-gradient is sent, and what waits for the next round.

    a = β·e + Δ        Δ̂ = Q(topk(a))        e ← a − Δ̂        (SparseLoCo, arXiv 2508.15706 §3)

Each operation rounds to fp32 once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.kernels import cuda, fast
from muster.kernels.grid import TILE, Grid
from muster.kernels.quantiser import quantise
from muster.kernels.update import Saved, SparseUpdate

_Ints = npt.NDArray[np.int64]

_INDEX_BITS = TILE.bit_length() - 1


def fold(residual: Sequence[Tensor], delta: Sequence[Tensor], decay: float) -> list[Tensor]:
    """a = fl(fl(β·e) + Δ) as new tensors, fp32 of the shapes of both; `decay` β is rounded to fp32 first."""
    beta = float(np.float32(decay))
    return [kept * beta + new for kept, new in zip(residual, delta, strict=True)]


def compress(acc: Sequence[Tensor], k: int, grid: Grid) -> SparseUpdate:
    """The k largest entries of each tile of `acc` (fp32 tensors of grid.shapes), quantised.

    Entries are ordered by (|a| as uint32 descending, index ascending), so ties and −0 have one answer.

    Raises:
        ValueError: a value is not finite, a shape or dtype is not the grid's, or k is not in 1..4096.
    """
    _check_shapes(acc, grid)
    if fast.suits(acc):
        from muster.kernels.fast.compress import compress as fast_compress  # noqa: PLC0415 - takes a while to load

        return fast_compress(acc, k, grid)
    if cuda.suits(acc):
        from muster.kernels.cuda.compress import compress as cuda_compress  # noqa: PLC0415 - needs Triton

        return cuda_compress(acc, k, grid)
    count = int(grid.entry_starts(k)[-1])
    indices = torch.empty(count, dtype=torch.int16)
    codes = torch.empty(count, dtype=torch.uint8)
    scales = torch.empty(grid.tiles, 2, dtype=torch.uint8)
    for i, tensor in enumerate(acc):
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"tensor {i} of the pseudo-gradient has a value that is not finite")
        entries, (first, last) = grid.entries(i, k), grid.tensor_tiles[i]
        tile_order = tensor.reshape(-1).cpu()[grid.order(i)]
        _compress_tensor(
            tile_order,
            grid.tile_sizes[first:last].astype(np.int64),
            grid.kept(k)[first:last].astype(np.int64),
            (indices[entries], codes[entries], scales[first:last]),
        )
    return SparseUpdate(grid=grid, k=k, indices=indices, codes=codes, scales=scales)


def residual(acc: Sequence[Tensor], update: SparseUpdate) -> list[Tensor]:
    """e = fl(a − Δ̂) as new tensors; entries that were not kept have the bits they had.

    Raises:
        ValueError: a shape or dtype of `acc` is not the update's.
    """
    _check_shapes(acc, update.grid)
    if fast.suits(acc):
        from muster.kernels.fast.compress import subtract_  # noqa: PLC0415 - takes a while to load

        copies = [tensor.clone() for tensor in acc]
        subtract_(copies, update, 1.0, save=False)
        return copies
    if cuda.suits(acc):
        from muster.kernels.cuda.compress import subtract_ as cuda_subtract_  # noqa: PLC0415 - needs Triton

        copies = [tensor.clone() for tensor in acc]
        cuda_subtract_(copies, update, 1.0, save=False)
        return copies
    left = []
    for i, tensor in enumerate(acc):
        flat = tensor.flatten().clone()
        positions = update.positions(i).to(flat.device)
        flat[positions] = flat[positions] - update.values(i).to(flat.device)
        left.append(flat.reshape(tensor.shape))
    return left


def compress_(delta: Sequence[Tensor], error: Sequence[Tensor], decay: float, k: int, grid: Grid) -> Saved:
    """`fold`, `compress` and `residual` in one, in the memory of Δ: `delta` becomes a − Δ̂, `error` e is only read.

    So the caller needs no third copy of the model, and still has the old e if this fails. Where the update is not
    accepted, `restore_` makes a out of a − Δ̂.

    Raises:
        ValueError: as for `compress`, and where a tensor is not contiguous; where a value is not finite, what `delta`
            holds is void.
    """
    for tensors in (delta, error):
        _check_shapes(tensors, grid)
        _check_contiguous(tensors)
    if fast.suits(delta) and fast.suits(error):
        from muster.kernels.fast.compress import compress_ as fast_compress_  # noqa: PLC0415 - takes a while to load

        return Saved(*fast_compress_(delta, error, decay, k, grid))
    if cuda.suits([*delta, *error]):
        from muster.kernels.cuda.compress import compress_ as cuda_compress_  # noqa: PLC0415 - needs Triton

        return Saved(*cuda_compress_(delta, error, decay, k, grid))
    acc = fold(error, delta, decay)
    update = compress(acc, k, grid)
    kept = torch.empty(len(update.indices))
    for i, (target, whole, left) in enumerate(zip(delta, acc, residual(acc, update), strict=True)):
        kept[grid.entries(i, k)] = whole.flatten()[update.positions(i)]
        target.copy_(left)
    return Saved(update, kept)


def _check_contiguous(tensors: Sequence[Tensor]) -> None:
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise ValueError("what is changed in place must be contiguous tensors")


def _check_shapes(acc: Sequence[Tensor], grid: Grid) -> None:
    shapes = tuple(tuple(tensor.shape) for tensor in acc)
    if shapes != grid.shapes or any(tensor.dtype != torch.float32 for tensor in acc):
        raise ValueError("the tensors must be fp32 and of the shapes of the grid")


def _compress_tensor(values: Tensor, sizes: _Ints, counts: _Ints, out: tuple[Tensor, Tensor, Tensor]) -> None:
    """Write one tensor's indices, codes and scales into `out`; `values` are its entries in tile order.

    Tiles of one size are handled together, as the rows of a matrix.
    """
    indices, codes, scales = out
    value_starts, entry_starts = np.cumsum(sizes) - sizes, np.cumsum(counts) - counts
    for size in np.unique(sizes):
        tiles = np.flatnonzero(sizes == size)
        kept = int(counts[tiles[0]])
        rows = values[torch.from_numpy(value_starts[tiles])[:, None] + torch.arange(int(size))]
        chosen = _top(rows, kept)
        row_codes, row_scales = quantise(rows.gather(1, chosen))
        where = torch.from_numpy(entry_starts[tiles])[:, None] + torch.arange(kept)
        indices[where] = chosen.to(torch.int16)
        codes[where] = row_codes
        scales[torch.from_numpy(tiles)] = row_scales


def _top(rows: Tensor, kept: int) -> Tensor:
    """Ascending indices, int64 (T, kept), of the `kept` largest |a| of each row of fp32 (T, n), n ≤ 4096.

    One integer key, different for all, holds the whole order: the bits of |a| above the complement of the
    index.
    """
    magnitude = rows.abs().view(torch.int32).long()
    index = torch.arange(rows.shape[1])
    keys = (magnitude << _INDEX_BITS) | (TILE - 1 - index)
    chosen = torch.topk(keys, kept, dim=1, sorted=False).values & (TILE - 1)
    return (TILE - 1 - chosen).sort(dim=1).values
