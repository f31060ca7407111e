"""The outer step of a real model, and its way back: tile by tile, without one of twenty updates ever being dense."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.kernels.codec import Codec
from muster.kernels.fast.compress import limit
from muster.kernels.fast.jobs import SCALE_TABLE, Tiles, flat, jobs_of, run
from muster.kernels.fast.loops import put_tiles, step_tiles
from muster.kernels.grid import Grid
from muster.kernels.undo import Undo
from muster.kernels.update import SparseUpdate


def step_(
    theta: Sequence[Tensor],
    updates: Sequence[SparseUpdate],
    weights: npt.NDArray[np.float32],
    lr: float,
    divisors: npt.NDArray[np.float32],
) -> Undo:
    """What `muster.kernels.aggregate_` does, for updates of one codec.

    A job's entries of all updates are brought together first: 3 bytes each, R · k entries a tile. The undo log is
    written into room for as many values as R updates can list, and moved together in it.
    """
    codec = updates[0].codec
    grid, starts = codec.grid, codec.grid.entry_starts(codec.k)
    arrays = [flat(tensor) for tensor in theta]
    sent = [(update.indices.numpy(), update.codes.numpy(), update.scales.numpy()) for update in updates]
    alpha = np.float32(lr)
    rooms = _rooms(codec, len(updates))
    values = torch.empty(sum(room.stop - room.start for room in rooms.values()))
    old, counts = values.numpy(), np.empty(grid.tiles, np.int64)

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
            (old[rooms[i, tiles]], counts[here]),
        )

    run(grid, work)
    log = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    _move_together(grid, old, rooms, log)
    return Undo(values[: log[-1]], log)


def _rooms(codec: Codec, updates: int) -> dict[tuple[int, Tiles], slice]:
    """Room for each job's old bits, one value more than its tiles can have touched: what a loop may write past them."""
    grid, rooms, at = codec.grid, {}, 0
    most = np.minimum(updates * np.diff(grid.entry_starts(codec.k)), grid.tile_sizes)
    for i, tiles in jobs_of(grid):
        first = grid.tensor_tiles[i][0]
        size = int(most[first + tiles[0] : first + tiles[1]].sum()) + 1
        rooms[i, tiles] = slice(at, at + size)
        at += size
    return rooms


def _move_together(
    grid: Grid, old: npt.NDArray[np.float32], rooms: dict[tuple[int, Tiles], slice], log: npt.NDArray[np.int64]
) -> None:
    """The old bits of all jobs, one after the other, from the beginning of `old`."""
    for (i, tiles), room in rooms.items():
        first = grid.tensor_tiles[i][0]
        begin, end = log[first + tiles[0]], log[first + tiles[1]]
        old[begin:end] = old[room.start : room.start + end - begin]


def put_(theta: Sequence[Tensor], updates: Sequence[SparseUpdate], undo: Undo) -> None:
    """What `muster.kernels.undo_` does, for updates of one codec.

    Raises:
        ValueError: the log is of other updates; θ is void then.
    """
    grid, starts = updates[0].grid, updates[0].grid.entry_starts(updates[0].k)
    arrays, values = [flat(tensor) for tensor in theta], undo.values.cpu().numpy()
    indices = [update.indices.numpy() for update in updates]

    def work(i: int, tiles: Tiles) -> bool:
        first, last = grid.tensor_tiles[i]
        entries = slice(starts[first + tiles[0]], starts[first + tiles[1]])
        return put_tiles(
            arrays[i],
            grid.matrix(i),
            tiles,
            starts[first : last + 1],
            np.stack([each[entries] for each in indices]),
            (undo.starts[first : last + 1], values),
        )

    if not all(run(grid, work)):
        raise ValueError("the undo log is of other updates")
