"""An attack on rules that divide by the senders of an entry: large values at entries nobody else sends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from muster.kernels import SparseUpdate

STRENGTH_BYTES = 35
"""The attacker's scale above the others' largest, in scale bytes, eight to an octave: 20.7 times it."""
_TOP_BYTE = 255
_HIGH = 1
"""The code of a positive value of the high scale; 3 is the negative one."""


def on_empty_entries(others: Sequence[SparseUpdate], draws: np.random.Generator) -> SparseUpdate:
    """An update at the entries that fewest of the others list, at their tensors' largest scale times 20.7.

    Which of the unlisted entries, and the signs, are drawn. It knows the others' updates, as no peer of a run can
    before it has sent its own: the attack is as strong as its kind can be.
    """
    grid, k = others[0].grid, others[0].k
    starts, sizes = grid.entry_starts(k), grid.tile_sizes
    indices = np.empty(int(starts[-1]), np.int16)
    for tile, size in enumerate(sizes.tolist()):
        entries = slice(int(starts[tile]), int(starts[tile + 1]))
        senders = np.zeros(size)
        for other in others:
            senders[other.indices[entries].numpy()] += 1
        order = np.argsort(senders + draws.random(size))
        indices[entries] = np.sort(order[: entries.stop - entries.start])
    scales = torch.empty_like(others[0].scales)
    for first, last in grid.tensor_tiles:
        peak = max(int(other.scales[first:last].max()) for other in others)
        scales[first:last] = min(peak + STRENGTH_BYTES, _TOP_BYTE)
    codes = torch.from_numpy(_HIGH + 2 * draws.integers(0, 2, len(indices), np.uint8))
    return SparseUpdate(others[0].codec, torch.from_numpy(indices), codes, scales)
