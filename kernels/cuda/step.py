"""The outer step on the GPU, and its way back: tile by tile, without an update ever being dense."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.kernels.cuda.compress import limit
from muster.kernels.cuda.programs import OPTIONS, put_listed_tiles, put_tiles, step_tiles
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

    `divisors` are the rule's (`muster.kernels.step.divisors`). The updates' parts go to the GPU one tensor at a time:
    3 bytes an entry. So does the undo log, which stays there: each tile writes into room for all that R updates can
    list of it, and what it wrote is then moved together.
    """
    device, grid, k = theta[0].device, updates[0].grid, updates[0].k
    begin, alpha, table = starts(grid, k, device), number(lr, device), torch.from_numpy(divisors).to(device)
    total, listed = torch.zeros(2, INSTANCES, TILE, device=device)
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
                torch.stack([update.indices[entries] for update in updates]).to(device),
                torch.stack([update.codes[entries] for update in updates]).to(device),
                torch.stack([update.scales[tiles] for update in updates]).to(device),
                torch.tensor([limit(update, i) for update in updates], dtype=torch.float32, device=device),
                torch.from_numpy(np.ascontiguousarray(weights[:, i])).to(device),
                alpha,
                table,
                len(updates),
                entries.stop - entries.start,
                scale_table(device),
                total,
                listed,
                saved,
                room,
                counts,
                TILE_COLS=part.tile_cols,
                KEPT=widest(k),
                **OPTIONS,
            )
            old.append(saved[torch.arange(room, device=device) < counts[tiles, None]])
    return Undo(torch.cat(old), np.concatenate([np.zeros(1, np.int64), counts.cpu().numpy().cumsum(dtype=np.int64)]))


def put_(theta: Sequence[Tensor], updates: Sequence[SparseUpdate], undo: Undo) -> None:
    """What `muster.kernels.undo_` does, for updates of one codec.

    Raises:
        ValueError: the log is of other updates; θ is void then.
    """
    device, grid, k = theta[0].device, updates[0].grid, updates[0].k
    begin, values = starts(grid, k, device), undo.values.to(device)
    if len(updates) == 1 and np.array_equal(grid.entry_starts(k), undo.starts):
        indices = updates[0].indices.to(device)
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
        return
    listed, bad = torch.zeros(INSTANCES, TILE, device=device), torch.zeros(1, dtype=torch.int32, device=device)
    log = torch.from_numpy(undo.starts).to(device)
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
