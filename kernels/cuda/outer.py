"""The outer step on the GPU: all updates into θ, tile by tile, without one of them ever being dense."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.kernels.cuda.compress import limit
from muster.kernels.cuda.programs import OPTIONS, step_tiles
from muster.kernels.cuda.tables import number, on_device_of, parts, scale_table, starts, widest
from muster.kernels.grid import TILE
from muster.kernels.update import SparseUpdate

INSTANCES = 1024
"""Tiles in work at once: enough to fill the largest GPUs, and their 32 MiB of sums still fit those GPUs' caches."""


def aggregate_(
    theta: Sequence[Tensor],
    updates: Sequence[SparseUpdate],
    weights: npt.NDArray[np.float32],
    lr: float,
    divisors: npt.NDArray[np.float32],
) -> None:
    """What `muster.kernels.aggregate_` does, for updates of one grid and one k and contiguous θ.

    `divisors` are the rule's (`muster.kernels.outer.divisors`). The updates' parts go to the GPU one tensor at a time:
    3 bytes an entry.
    """
    device, grid, k = theta[0].device, updates[0].grid, updates[0].k
    begin, alpha, table = starts(grid, k, device), number(lr, device), torch.from_numpy(divisors).to(device)
    total, listed = torch.zeros(2, INSTANCES, TILE, device=device)
    with on_device_of(theta[0]):
        for part in parts(grid):
            i, entries = part.tensor, grid.entries(part.tensor, k)
            tiles = slice(part.first, part.first + part.tiles)
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
                TILE_COLS=part.tile_cols,
                KEPT=widest(k),
                **OPTIONS,
            )
