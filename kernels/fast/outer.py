"""The outer step of a real model: twenty updates into θ, tile by tile, without one of them ever being dense."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from muster.kernels.fast.compress import limit
from muster.kernels.fast.jobs import SCALE_TABLE, Tiles, flat, run
from muster.kernels.fast.loops import step_tiles
from muster.kernels.update import SparseUpdate


def aggregate_(
    theta: Sequence[Tensor],
    updates: Sequence[SparseUpdate],
    weights: npt.NDArray[np.float32],
    lr: float,
    divisors: npt.NDArray[np.float32],
) -> None:
    """What `muster.kernels.aggregate_` does, for updates of one grid and one k and contiguous θ.

    `divisors` are the rule's (`muster.kernels.outer.divisors`). A job's entries of all updates are brought together
    first: 3 bytes each, R · k entries a tile.
    """
    grid, starts = updates[0].grid, updates[0].grid.entry_starts(updates[0].k)
    arrays = [flat(tensor) for tensor in theta]
    sent = [(update.indices.numpy(), update.codes.numpy(), update.scales.numpy()) for update in updates]
    alpha = np.float32(lr)

    def work(i: int, tiles: Tiles) -> None:
        first, last = grid.tensor_tiles[i]
        here = slice(first + tiles[0], first + tiles[1])
        entries = slice(starts[here.start], starts[here.stop])
        step_tiles(
            arrays[i],
            grid.matrix(i),
            tiles,
            starts[first : last + 1],
            (
                np.stack([indices[entries] for indices, _, _ in sent]),
                np.stack([codes[entries] for _, codes, _ in sent]),
                np.stack([scales[here] for _, _, scales in sent]),
            ),
            np.array([limit(update, i) for update in updates], np.float32),
            np.ascontiguousarray(weights[:, i]),
            alpha,
            divisors,
            SCALE_TABLE,
        )

    run(grid, work)
