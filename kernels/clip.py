"""Norms and caps: what keeps one update from outweighing a round's work, by order statistics and exact sums alone.

A sum is correctly rounded (`math.fsum`) and every median is an order statistic, so nothing depends on how a device, or
how many shards, arrange the work: the parts of one tensor on several slices give the same bits as the whole one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from muster.kernels.backend import entry_loops
from muster.kernels.grid import Grid
from muster.kernels.quantiser import scale_values
from muster.kernels.update import SparseUpdate, common_grid

TOGETHER = 2**12
"""Tiles of several tensors that are worked on at once at most: some 200 KiB of numbers beside their codes."""


def scale_peaks(update: SparseUpdate) -> list[float]:
    """Per tensor, the largest scale in force of the tiles that hold another value than 0; 0 where none does.

    A scale that no value has says nothing of a tile that brings nothing. Of a tensor in parts: the largest of theirs.
    """
    peaks: list[float] = []
    for tensors in _groups(update.grid):
        levels, counts = _levels(update, tensors)
        largest = np.where(((counts > 0) & (levels > 0)).any(axis=1), levels.max(axis=1), 0.0)
        peaks += [float(part.max(initial=0)) for part in _parts(update.grid, tensors, largest)]
    return peaks


def caps_of(peaks: Sequence[Sequence[float]], cap: float) -> list[float]:
    """`scale_caps` of the `scale_peaks` of R ≥ 1 updates."""
    caps = []
    for largest in zip(*peaks, strict=True):
        brought = sorted(peak for peak in largest if peak > 0)
        if cap == 0 or not brought:
            caps.append(math.inf)
        else:
            caps.append(float(np.float32(cap) * np.float32(brought[(len(brought) - 1) // 2])))
    return caps


def scale_caps(updates: Sequence[SparseUpdate], cap: float) -> list[float]:
    """Per tensor, the largest scale in force: fl32(cap · lower median of the updates' largest scales).

    It keeps one update's spike on entries that nobody else sends from outweighing a round's work. The
    median is of the largest scales and not of all: tiles of one tensor differ by orders of magnitude when
    all is well (rows of an embedding whose tokens do not occur), and a median of those would cap every
    honest update. Updates that bring nothing for a tensor (`scale_peaks`) are not in its median: they would
    drag it to 0, and nobody would move the tensor. `cap` is rounded to fp32 first. Infinite where `cap` is 0,
    or no update brings anything.

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
    return math.sqrt(math.fsum(_squares(update, range(i, i + 1)).ravel().tolist()))


def norm_part(update: SparseUpdate, i: int) -> tuple[float, ...]:
    """The exact sum under the root of `norm`, as a few float64 numbers: what the slices of a tensor tell each other."""
    terms, part = _squares(update, range(i, i + 1)).ravel().tolist(), []
    while (rest := math.fsum(terms)) != 0:
        part.append(rest)
        terms.append(-rest)
    return tuple(part)


def norm_of(parts: Iterable[tuple[float, ...]]) -> float:
    """`norm` of a tensor from the `norm_part` of all its slices, to the bit."""
    return math.sqrt(math.fsum(number for part in parts for number in part))


def norms_of(update: SparseUpdate) -> list[float]:
    """`norm` of every tensor."""
    norms: list[float] = []
    for tensors in _groups(update.grid):
        parts = _parts(update.grid, tensors, _squares(update, tensors))
        norms += [math.sqrt(math.fsum(part.ravel().tolist())) for part in parts]
    return norms


def medians_of(norms: Sequence[Sequence[float]], amounts: Sequence[int]) -> list[tuple[float, int]]:
    """Per tensor, whose norm is the measure of the others': (its norm, its amount), of R ≥ 1 updates.

    `norms` are theirs, (R, tensors), `amounts` (R,) how much work each is of, in any unit, above 0. What is compared is
    norm / amount: of the updates with a norm above 0, the lower median of these quotients (of equal ones, the smaller
    norm first, then the smaller amount). (inf, 1) where no norm is above 0. Of equal amounts it is the lower median of
    the norms, to the bit.

    A pseudo-gradient's norm grows with the work in it, faster than linearly while learning rates warm up and about as
    its root later. With norm / √amount, peers of half the work still were the measure of the others in the median, and
    the loss was higher by 0.10 nat (`benchmarks/clip.py`).
    """
    medians = []
    for column in zip(*norms, strict=True):
        brought = sorted((n / amount, n, amount) for n, amount in zip(column, amounts, strict=True) if n > 0)
        medians.append(brought[(len(brought) - 1) // 2][1:] if brought else (math.inf, 1))
    return medians


def clip_of(
    norms: Sequence[float], amount: int, medians: Sequence[tuple[float, int]]
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """The clip of one update, fp32 (tensors,), from its norm of each tensor, its amount of work, and `medians_of`.

    min(1, allowed / norm), allowed = median norm · (amount / median's amount): each operation rounds in float64, the
    quotient to fp32 once. 1 where the norm is 0. Of equal amounts, allowed is the median norm to the bit.
    """
    clip = np.ones(len(norms), np.float32)
    for i, (own, (median, its)) in enumerate(zip(norms, medians, strict=True)):
        allowed = median * (amount / its)
        if own > allowed:
            clip[i] = allowed / own
    return clip


def clip_weights(updates: Sequence[SparseUpdate], amounts: Sequence[int]) -> npt.NDArray[np.float32]:
    """The median-norm clip, fp32 (R, tensors), of updates of so much work each: `clip_of` by their `medians_of`.

    With equal amounts it is min(1, median / norm) of each update's norm of each tensor (Gauntlet, arXiv 2505.21684),
    the lower median over the updates whose norm is above 0.

    Raises:
        ValueError: the updates are of different grids, or there are none, or not as many as amounts.
    """
    common_grid(updates)
    norms = [norms_of(update) for update in updates]
    medians = medians_of(norms, amounts)
    return np.stack([clip_of(row, amount, medians) for row, amount in zip(norms, amounts, strict=True)])


def _groups(grid: Grid) -> Iterator[range]:
    """All tensors in runs that are worked on at once: of `TOGETHER` tiles at most, or of one tensor.

    A small model's tensors have so few tiles that what a call costs by itself is all that its norms take.
    """
    begin = 0
    for i, (_, last) in enumerate(grid.tensor_tiles):
        if i > begin and last - grid.tensor_tiles[begin][0] > TOGETHER:
            yield range(begin, i)
            begin = i
    if begin < len(grid.tensor_tiles):
        yield range(begin, len(grid.tensor_tiles))


def _parts(grid: Grid, tensors: range, rows: npt.NDArray[np.float64]) -> Iterator[npt.NDArray[np.float64]]:
    """What belongs to each of these tensors of `rows`, one a tile of theirs."""
    start = grid.tensor_tiles[tensors[0]][0]
    for i in tensors:
        first, last = grid.tensor_tiles[i]
        yield rows[first - start : last - start]


def _levels(update: SparseUpdate, tensors: range) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Of each tile of these tensors its scales in force and how many values have them, low then high, (tiles, 2)."""
    spans = update.grid.tensor_tiles[tensors.start : tensors.stop]
    first, last = spans[0][0], spans[-1][1]
    levels = scale_values(update.scales[first:last]).numpy()
    if first == last:
        return levels.astype(np.float64), np.zeros((0, 2), np.int64)
    if update.scale_limit is not None:
        limits = np.array(update.scale_limit[tensors.start : tensors.stop], np.float32)
        levels = np.minimum(levels, np.repeat(limits, [end - begin for begin, end in spans])[:, None])
    starts = update.grid.entry_starts(update.k)[first : last + 1]
    high = _high_counts(update.codes.numpy(), starts, sum(update.grid.numel))
    return levels.astype(np.float64), np.stack([starts[1:] - starts[:-1] - high, high], axis=1)


def _high_counts(codes: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], entries: int) -> npt.NDArray[np.int64]:
    """How many values have the high scale, by tile; `starts`, one more, is where its codes are, of a model so large."""
    loops = entry_loops(entries)
    if loops is not None:
        counts = np.empty(len(starts) - 1, np.int64)
        loops.count_high(codes, starts, counts)
        return counts
    high = codes[starts[0] : starts[-1]] & 1
    return np.add.reduceat(high, starts[:-1] - starts[0], dtype=np.int64)  # no tile is without an entry


def _squares(update: SparseUpdate, tensors: range) -> npt.NDArray[np.float64]:
    """count · scale² of each tile of these tensors and each of its two scales: (tiles, 2)."""
    levels, counts = _levels(update, tensors)
    return counts * (levels * levels)
