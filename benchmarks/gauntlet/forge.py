"""Updates made from others' updates without any training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from muster.kernels import Codec, SparseUpdate, compress

_SIGN = 2
"""The sign's bit of a code."""
_OCTAVE = 8
"""Scale bytes in a factor of two."""
_TOP = 255


def _well_formed(update: SparseUpdate) -> SparseUpdate:
    """The same values, where a value of scale 0 has code 0, as the codec wants it."""
    counts = torch.from_numpy(np.diff(update.grid.entry_starts(update.k)))
    scales = update.scales.repeat_interleave(counts, 0)
    there = scales.gather(1, (update.codes & 1).long()[:, None]).squeeze(1) > 0
    return replace(update, codes=torch.where(there, update.codes, 0).to(torch.uint8))


def flipped(update: SparseUpdate) -> SparseUpdate:
    """−Δ̂."""
    return _well_formed(replace(update, codes=update.codes ^ _SIGN))


def scaled(update: SparseUpdate, factor: float) -> SparseUpdate:
    """Δ̂ times a power of two, by the scale bytes alone; scales of 0 stay, what passes the table's end is cut."""
    moved = (update.scales.int() + round(math.log2(factor) * _OCTAVE)).clamp(0, _TOP).to(torch.uint8)
    return replace(update, scales=torch.where(update.scales > 0, moved, update.scales))


def zero(codec: Codec) -> SparseUpdate:
    """An update of good form that moves nothing."""
    return compress([torch.zeros(shape) for shape in codec.grid.shapes], codec)


def part_zero(update: SparseUpdate) -> SparseUpdate:
    """The same update with every other tensor's scales 0."""
    scales = update.scales.clone()
    for first, last in update.grid.tensor_tiles[::2]:
        scales[first:last] = 0
    return _well_formed(replace(update, scales=scales))


def perturbed(update: SparseUpdate, part: float, draws: np.random.Generator) -> SparseUpdate:
    """A copy of which `part` of each tile's indices are others, drawn among those it does not list.

    Values go on in the order of the new indices, so a moved entry's value is some other entry's of its tile.
    """
    grid, k = update.grid, update.k
    starts, sizes = grid.entry_starts(k), grid.tile_sizes
    indices = update.indices.numpy().copy()
    for tile, size in enumerate(sizes.tolist()):
        here = slice(int(starts[tile]), int(starts[tile + 1]))
        mine = indices[here]
        free = np.setdiff1d(np.arange(size, dtype=np.int16), mine)
        count = min(round(part * len(mine)), len(free))
        moved = draws.choice(len(mine), count, replace=False)
        mine[moved] = draws.choice(free, count, replace=False)
        indices[here] = np.sort(mine)
    return replace(update, indices=torch.from_numpy(indices))


def noise(like: SparseUpdate, draws: torch.Generator) -> SparseUpdate:
    """Random directions, each tensor of about the size that it has in `like`."""
    sizes = [float(update.pow(2).mean().sqrt()) for update in like.dense()]
    shapes = like.grid.shapes
    return compress(
        [torch.randn(shape, generator=draws) * s for shape, s in zip(shapes, sizes, strict=True)], like.codec
    )


def mean_of(updates: Sequence[SparseUpdate]) -> list[Tensor]:
    """The mean of several updates, dense."""
    dense = [update.dense() for update in updates]
    return [torch.stack(parts).mean(0) for parts in zip(*dense, strict=True)]
