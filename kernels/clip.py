"""Norms and caps: what keeps one update from outweighing a round's work, by order statistics and exact sums alone.

A sum is correctly rounded (`math.fsum`) and every median is an order statistic, so nothing depends on how a device, or
how many shards, arrange the work: the parts of one tensor on several slices give the same bits as the whole one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from muster.kernels.update import SparseUpdate, common_grid


def scale_peaks(update: SparseUpdate) -> list[float]:
    """Per tensor, the largest scale in force; −∞ where it has no tiles. Of a tensor in parts: the largest of theirs."""
    peaks = []
    for i, (first, last) in enumerate(update.grid.tensor_tiles):
        peaks.append(float(update.tensor_scales(i).max()) if last > first else -math.inf)
    return peaks


def caps_of(peaks: Sequence[Sequence[float]], cap: float) -> list[float]:
    """`scale_caps` of the `scale_peaks` of R ≥ 1 updates."""
    caps = []
    for largest in zip(*peaks, strict=True):
        median = sorted(largest)[(len(largest) - 1) // 2]
        caps.append(math.inf if cap == 0 or median == -math.inf else float(np.float32(cap) * np.float32(median)))
    return caps


def scale_caps(updates: Sequence[SparseUpdate], cap: float) -> list[float]:
    """Per tensor, the largest scale in force: fl32(cap · lower median of the updates' largest scales).

    It keeps one update's spike on entries that nobody else sends from outweighing a round's work. The
    median is of the largest scales and not of all: tiles of one tensor differ by orders of magnitude when
    all is well (rows of an embedding whose tokens do not occur), and a median of those would cap every
    honest update. `cap` is rounded to fp32 first. Infinite where `cap` is 0, or the tensor has no tiles.

    Raises:
        ValueError: the updates are of different grids, or there are none.
    """
    common_grid(updates)
    return caps_of([scale_peaks(update) for update in updates], cap)


def capped(update: SparseUpdate, caps: Sequence[float]) -> SparseUpdate:
    """`update` with every scale of tensor i limited to caps[i] (fp32 values, or infinity)."""
    return replace(update, scale_limit=tuple(caps))


def norm(update: SparseUpdate, i: int) -> float:
    """The Euclidean norm of tensor i's values, float64.

    The square root of the correctly rounded sum, over tiles and their two scales, of count · scale²; in
    float64 scale² is exact and its product with the count rounds once.
    """
    return math.sqrt(math.fsum(_squares(update, i)))


def norm_part(update: SparseUpdate, i: int) -> tuple[float, ...]:
    """The exact sum under the root of `norm`, as a few float64 numbers: what the slices of a tensor tell each other."""
    terms, part = _squares(update, i), []
    while (rest := math.fsum(terms)) != 0:
        part.append(rest)
        terms.append(-rest)
    return tuple(part)


def norm_of(parts: Iterable[tuple[float, ...]]) -> float:
    """`norm` of a tensor from the `norm_part` of all its slices, to the bit."""
    return math.sqrt(math.fsum(number for part in parts for number in part))


def clip_weights(updates: Sequence[SparseUpdate]) -> npt.NDArray[np.float32]:
    """The median-norm clip, fp32 (R, tensors): min(1, median / norm) of each update's norm of each tensor.

    The lower median over the updates; divided in float64 and rounded to fp32 once; 1 where the norm is 0
    (Gauntlet, arXiv 2505.21684).

    Raises:
        ValueError: the updates are of different grids, or there are none.
    """
    tensors = len(common_grid(updates).shapes)
    return weights_of(np.array([[norm(update, i) for i in range(tensors)] for update in updates], np.float64))


def weights_of(norms: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """`clip_weights` of the norms, float64 (R, tensors), of R ≥ 1 updates."""
    median = np.sort(norms, axis=0)[(len(norms) - 1) // 2]
    ratios = np.ones_like(norms)
    np.divide(median, norms, out=ratios, where=norms > median)
    return ratios.astype(np.float32)


def _squares(update: SparseUpdate, i: int) -> list[float]:
    """count · scale² of each tile of tensor i and each of its two scales."""
    first, last = update.grid.tensor_tiles[i]
    if first == last:
        return []
    starts = update.grid.entry_starts(update.k)[first : last + 1]
    entries = update.codes.numpy()[starts[0] : starts[-1]]
    high = np.add.reduceat(entries & 1, starts[:-1] - starts[0], dtype=np.int64)  # no tile is without an entry
    low = starts[1:] - starts[:-1] - high
    levels = update.tensor_scales(i).double().numpy()
    squares = levels * levels
    terms: list[float] = (low * squares[:, 0]).tolist() + (high * squares[:, 1]).tolist()
    return terms
