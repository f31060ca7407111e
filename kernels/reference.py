"""The reference: what every operation on a model means, in plain torch, whatever the device.

Every other back end is right when it equals this one bit for bit. Each operation rounds to fp32 once; there is no fused
multiply-add.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.kernels.codec import Codec
from muster.kernels.grid import TILE, Grid
from muster.kernels.quantiser import quantise
from muster.kernels.undo import Undo
from muster.kernels.update import SparseUpdate

_Ints = npt.NDArray[np.int64]

_INDEX_BITS = TILE.bit_length() - 1


def fold(residual: Sequence[Tensor], delta: Sequence[Tensor], decay: float) -> list[Tensor]:
    """a = fl(fl(β·e) + Δ) as new tensors, fp32 of the shapes of both; `decay` β is rounded to fp32 first."""
    beta = float(np.float32(decay))
    return [kept * beta + new for kept, new in zip(residual, delta, strict=True)]


def compress(acc: Sequence[Tensor], codec: Codec) -> SparseUpdate:
    """See `muster.kernels.compress.compress`."""
    grid, k = codec.grid, codec.k
    indices = torch.empty(codec.count, dtype=torch.int16)
    codes = torch.empty(codec.count, dtype=torch.uint8)
    scales = torch.empty(grid.tiles, 2, dtype=torch.uint8)
    for i, tensor in enumerate(acc):
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"tensor {i} of the pseudo-gradient has a value that is not finite")
        entries, (first, last) = grid.entries(i, k), grid.tensor_tiles[i]
        tile_order = tensor.reshape(-1).cpu()[grid.order(i)]
        compress_tiles(
            tile_order,
            grid.tile_sizes[first:last].astype(np.int64),
            grid.kept(k)[first:last].astype(np.int64),
            (indices[entries], codes[entries], scales[first:last]),
        )
    return SparseUpdate(codec=codec, indices=indices, codes=codes, scales=scales)


def compress_(
    delta: Sequence[Tensor], error: Sequence[Tensor], decay: float, codec: Codec, left: Sequence[Tensor]
) -> SparseUpdate:
    """See `muster.kernels.compress.compress_`."""
    acc = fold([kept.to(new.device) for kept, new in zip(error, delta, strict=True)], delta, decay)
    update = compress(acc, codec)
    subtract_(acc, update, [1.0] * len(acc), save=False)
    for target, rest in zip(left, acc, strict=True):
        target.copy_(rest)
    return update


def subtract_(theta: Sequence[Tensor], update: SparseUpdate, factors: Sequence[float], save: bool) -> Tensor:
    """See `muster.kernels.step.perturb_`."""
    before = [torch.empty(0)]
    for i, (tensor, factor) in enumerate(zip(theta, factors, strict=True)):
        flat = tensor.detach().view(-1)
        positions, values = _entries(update, i, flat)
        old = flat[positions]
        if save:
            before.append(old.cpu())
        flat[positions] = old - float(np.float32(factor)) * values
    return torch.cat(before)


def step_(
    theta: Sequence[Tensor],
    updates: Sequence[SparseUpdate],
    weights: npt.NDArray[np.float32],
    lr: float,
    divisors: npt.NDArray[np.float32],
) -> Undo:
    """See `muster.kernels.step.aggregate_`; takes updates of several k as well."""
    grid, alpha = updates[0].grid, float(np.float32(lr))
    old, counts = [torch.empty(0)], []
    for i, tensor in enumerate(theta):
        flat = tensor.detach().view(-1)
        total, listed = torch.zeros_like(flat), torch.zeros_like(flat, dtype=torch.int32)
        for update, weight in zip(updates, weights[:, i].tolist(), strict=True):
            positions, values = _entries(update, i, flat)
            total[positions] = total[positions] + weight * values
            listed[positions] = listed[positions] + 1
        touched, per_tile = _touched(grid, i, listed > 0)
        old.append(flat[touched].cpu())
        counts.append(per_tile)
        # By a tensor and not a number: torch multiplies by the inverse of a number on some devices.
        step = total[touched] / torch.from_numpy(divisors).to(flat.device)[listed[touched]]
        flat[touched] = flat[touched] - alpha * step
    return Undo(torch.cat(old), np.concatenate([[0], *counts]).cumsum(dtype=np.int64))


def put_(theta: Sequence[Tensor], updates: Sequence[SparseUpdate], undo: Undo) -> None:
    """See `muster.kernels.step.undo_`; takes updates of several k as well."""
    grid = updates[0].grid
    for i, tensor in enumerate(theta):
        flat = tensor.detach().view(-1)
        listed = torch.zeros_like(flat, dtype=torch.bool)
        for update in updates:
            listed[update.positions(i).to(flat.device)] = True
        touched, per_tile = _touched(grid, i, listed)
        first, last = grid.tensor_tiles[i]
        starts = undo.starts[first : last + 1]
        if not np.array_equal(np.diff(starts), per_tile):
            raise ValueError("the undo log is of other updates")
        flat[touched] = undo.values[starts[0] : starts[-1]].to(flat.device)


def _touched(grid: Grid, i: int, listed: Tensor) -> tuple[Tensor, _Ints]:
    """Where tensor i is listed (bool, flat), as offsets in tile order, and how often in each tile."""
    order, (first, last) = grid.order(i).to(listed.device), grid.tensor_tiles[i]
    chosen = listed[order]
    if first == last:
        return order, np.empty(0, np.int64)
    sizes = grid.tile_sizes[first:last].astype(np.int64)
    return order[chosen], np.add.reduceat(chosen.cpu().numpy(), np.cumsum(sizes) - sizes, dtype=np.int64)


def _entries(update: SparseUpdate, i: int, like: Tensor) -> tuple[Tensor, Tensor]:
    return update.positions(i).to(like.device), update.values(i).to(like.device)


def compress_tiles(values: Tensor, sizes: _Ints, counts: _Ints, out: tuple[Tensor, Tensor, Tensor]) -> None:
    """Write the indices, codes and scales of tiles into `out`; `values` are their entries, one tile after the other.

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
