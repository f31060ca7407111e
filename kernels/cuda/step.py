"""The outer step on the GPU, and its way back: tile by tile, without an update ever being dense."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.kernels.cuda.compress import limit
from muster.kernels.cuda.language import OPTIONS
from muster.kernels.cuda.step_programs import put_listed_tiles, put_tiles, step_tiles
from muster.kernels.cuda.tables import number, on_device_of, parts, scale_table, starts, widest
from muster.kernels.grid import TILE
from muster.kernels.undo import Undo
from muster.kernels.update import SparseUpdate

INSTANCES = 1024
"""Tiles in work at once: enough to fill the largest GPUs, and their 32 MiB of sums still fit those GPUs' caches."""


def step_(
    theta: Sequence[Tensor],
    updates: Sequence[SparseUpdate],
    weights: npt.NDArray[np.float32],
    lr: float,
    divisors: npt.NDArray[np.float32],
) -> Undo:
    """What `muster.kernels.aggregate_` does, for updates of one codec.

    The updates' parts go to the GPU one tensor at a time: 3 bytes an entry. The undo log stays there: each tile writes
    into room for all that R updates can list of it, and what it wrote is then moved together.
    """
    device, grid, k = theta[0].device, updates[0].grid, updates[0].k
    begin, alpha, table = starts(grid, k, device), number(lr, device), torch.from_numpy(divisors).to(device)
    scratch = torch.zeros(INSTANCES, 2, TILE, device=device)
    room = min(len(updates) * k, TILE)
    counts, old = torch.zeros(grid.tiles, dtype=torch.int32, device=device), [torch.empty(0, device=device)]
    with on_device_of(theta[0]):
        for part in parts(grid):
            i, entries = part.tensor, grid.entries(part.tensor, k)
            tiles = slice(part.first, part.first + part.tiles)
            saved = torch.empty(part.tiles, room, device=device)
            step_tiles[(min(part.tiles, INSTANCES),)](
                theta[i].detach(),
                part.rows,
                part.cols,
                part.tiles,
                part.first,
                begin,
                *_sent(updates, entries, tiles, device),
                _factors(updates, weights, i).to(device),
                alpha,
                table,
                len(updates),
                entries.stop - entries.start,
                scale_table(device),
                scratch,
                saved,
                room,
                counts,
                TILE_COLS=part.tile_cols,
                KEPT=widest(k),
                **OPTIONS,
            )
            old.append(saved[torch.arange(room, device=device) < counts[tiles, None]])
    return Undo(torch.cat(old), np.concatenate([np.zeros(1, np.int64), counts.cpu().numpy().cumsum(dtype=np.int64)]))


def _factors(updates: Sequence[SparseUpdate], weights: npt.NDArray[np.float32], i: int) -> Tensor:
    """Limit and weight of tensor i in each update, fp32 (R, 2)."""
    limits = torch.tensor([limit(update, i) for update in updates], dtype=torch.float32)
    return torch.stack([limits, torch.from_numpy(weights[:, i].copy())], dim=1)


def _sent(updates: Sequence[SparseUpdate], entries: slice, tiles: slice, device: torch.device) -> list[Tensor]:
    """Indices, codes and scale bytes of a part of all updates, (R, ...) each."""
    parts = (
        [update.indices[entries] for update in updates],
        [update.codes[entries] for update in updates],
        [update.scales[tiles] for update in updates],
    )
    return [torch.stack(part).to(device) for part in parts]


def put_(theta: Sequence[Tensor], updates: Sequence[SparseUpdate], undo: Undo) -> None:
    """What `muster.kernels.undo_` does, for updates of one codec.

    Raises:
        ValueError: the log is of other updates; θ is void then.
    """
    if len(updates) > 1:
        _put_listed(theta, updates, undo)
    elif np.array_equal(updates[0].grid.entry_starts(updates[0].k), undo.starts):
        _put(theta, updates[0], undo)
    else:
        raise ValueError("the undo log is of other updates")


def _put(theta: Sequence[Tensor], update: SparseUpdate, undo: Undo) -> None:
    """What one update touched is in its own order."""
    device, grid, k = theta[0].device, update.grid, update.k
    begin, indices, values = starts(grid, k, device), update.indices.to(device), undo.values.to(device)
    with on_device_of(theta[0]):
        for part in parts(grid):
            put_tiles[(part.tiles,)](
                theta[part.tensor].detach(),
                part.rows,
                part.cols,
                part.first,
                begin,
                indices,
                values,
                TILE_COLS=part.tile_cols,
                KEPT=widest(k),
                **OPTIONS,
            )


def _put_listed(theta: Sequence[Tensor], updates: Sequence[SparseUpdate], undo: Undo) -> None:
    """What several updates touched is found by listing it again."""
    device, grid, k = theta[0].device, updates[0].grid, updates[0].k
    begin, log, values = starts(grid, k, device), torch.from_numpy(undo.starts).to(device), undo.values.to(device)
    listed, bad = torch.zeros(INSTANCES, TILE, device=device), torch.zeros(1, dtype=torch.int32, device=device)
    with on_device_of(theta[0]):
        for part in parts(grid):
            entries = grid.entries(part.tensor, k)
            put_listed_tiles[(min(part.tiles, INSTANCES),)](
                theta[part.tensor].detach(),
                part.rows,
                part.cols,
                part.tiles,
                part.first,
                begin,
                torch.stack([update.indices[entries] for update in updates]).to(device),
                log,
                values,
                bad,
                len(updates),
                entries.stop - entries.start,
                listed,
                TILE_COLS=part.tile_cols,
                KEPT=widest(k),
                **OPTIONS,
            )
    if bad.item():
        raise ValueError("the undo log is of other updates")
