"""How tiles are shared out between threads, so that no core waits and no thread holds more than a few tiles.

Results do not depend on it: a tile is computed by one thread, from nothing but its own entries.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.kernels.grid import Grid
from muster.kernels.quantiser import BOUNDS, SCALES

T = TypeVar("T")
Tiles = tuple[int, int]
"""First tile and tile after the last, counted within a tensor."""

JOB_TILES = 256
"""Tiles of a job: 4 MiB of a tensor, over a millisecond of work against microseconds to hand it out."""

SCALE_TABLE: npt.NDArray[np.float32] = SCALES.numpy()
BOUND_TABLE: npt.NDArray[np.float64] = BOUNDS.numpy()


def jobs_of(grid: Grid) -> list[tuple[int, Tiles]]:
    """(tensor, tiles) of each job of the grid, in its order."""
    return [
        (i, (tile, min(tile + JOB_TILES, last - first)))
        for i, (first, last) in enumerate(grid.tensor_tiles)
        for tile in range(0, last - first, JOB_TILES)
    ]


def run(grid: Grid, work: Callable[[int, Tiles], T]) -> list[T]:
    """work(tensor, tiles) for all tiles of the grid, on torch's number of threads; results in grid order."""
    jobs = jobs_of(grid)
    threads = min(torch.get_num_threads(), len(jobs))
    if threads <= 1:
        return [work(*job) for job in jobs]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda job: work(*job), jobs))


def flat(tensor: Tensor) -> npt.NDArray[np.float32]:
    """The entries of a contiguous fp32 CPU tensor, row-major, not a copy."""
    array: npt.NDArray[np.float32] = tensor.detach().view(-1).numpy()
    return array
