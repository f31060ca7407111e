"""What a peer sends, in every form the study compares: which entries, and how exact their values are.

The plain form, the largest entries as 2-bit codes, is the project's own and nothing else. Loops that `kernels` takes
for large models only are asked for by name here: their bits are the same, and they keep the study's own share of the
time small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.convergence.variant import Values
from muster import kernels
from muster.kernels import Codec, Grid, Rule, SparseUpdate, quantise, reference
from muster.kernels.backend import Backend
from muster.kernels.fast import operations as fast
from muster.kernels.step import divisors
from muster.protocol.spec.layout import AEAD_TAG_BYTES, CODEC_BYTES

_LEVELS = 127
"""Steps of an 8-bit value on either side of zero."""
_FP32_BYTES = 4


@dataclass(frozen=True, slots=True, eq=False)
class PreciseUpdate(SparseUpdate):
    """An update whose kept entries have the values `precise`, fp32 (N,), and not those of its codes.

    Codes and scales are what 2 bits would have been, so that norms, for the clip, and largest scales, for the cap,
    mean the same for every form of values. A scale limit bounds the precise values too.
    """

    precise: Tensor = field(default_factory=lambda: torch.empty(0))

    def values(self, i: int) -> Tensor:
        """The values of tensor i's kept entries, fp32 (N_i,)."""
        values = self.precise[self.grid.entries(i, self.k)]
        if self.scale_limit is None:
            return values
        return values.clamp(-self.scale_limit[i], self.scale_limit[i])


def largest(acc: Sequence[Tensor], k: int, grid: Grid) -> SparseUpdate:
    """`muster.kernels.compress`, for a model of any size."""
    return fast.compress(acc, Codec(grid, k))


def random_entries(acc: Sequence[Tensor], k: int, grid: Grid, noise: torch.Generator) -> SparseUpdate:
    """k random entries of each tile of `acc`, quantised as the largest would be."""
    places = largest([torch.randn(tensor.shape, generator=noise) for tensor in acc], k, grid)
    values, counts = listed(acc, places), grid.kept(k)
    codes, scales = torch.empty_like(places.codes), torch.empty_like(places.scales)
    for count in np.unique(counts).tolist():
        tiles = torch.from_numpy(np.flatnonzero(counts == count))
        where = torch.from_numpy(grid.entry_starts(k)[:-1].copy())[tiles][:, None] + torch.arange(count)
        codes[where], scales[tiles] = quantise(values[where])
    return replace(places, codes=codes, scales=scales)


def listed(acc: Sequence[Tensor], update: SparseUpdate) -> Tensor:
    """What `acc` holds at the update's entries, fp32 (N,)."""
    return torch.cat([tensor.view(-1)[update.positions(i)] for i, tensor in enumerate(acc)])


def with_values(update: SparseUpdate, acc: Sequence[Tensor], values: Values) -> SparseUpdate:
    """The update with values of `acc` as exact as `values` says; 8 bits are linear in each tile."""
    if values == "2bit":
        return update
    exact = listed(acc, update)
    if values == "8bit":
        starts = update.grid.entry_starts(update.k)
        peaks = np.maximum.reduceat(exact.abs().numpy(), starts[:-1])
        steps = torch.from_numpy(np.repeat(peaks / np.float32(_LEVELS), np.diff(starts)))
        exact = torch.where(steps > 0, (exact / steps).round() * steps, 0.0)
    return PreciseUpdate(update.codec, update.indices, update.codes, update.scales, precise=exact)


def subtracted(acc: Sequence[Tensor], update: SparseUpdate) -> list[Tensor]:
    """`muster.kernels.residual`: a − Δ̂ as new tensors."""
    left = [tensor.clone() for tensor in acc]
    _loops([update]).subtract_(left, update, [1.0] * len(left), save=False)
    return left


def aggregate_(
    theta: Sequence[Tensor],
    updates: Sequence[SparseUpdate],
    weights: npt.NDArray[np.float32],
    alpha: float,
    rule: Rule,
) -> None:
    """`muster.kernels.aggregate_`: the outer step, in place."""
    _loops(updates).step_(theta, updates, weights, alpha, divisors(rule, len(updates)))


def _loops(updates: Sequence[SparseUpdate]) -> Backend:
    """The compiled loops, which know values by their codes; for others the reference, which asks the update."""
    return reference if any(isinstance(update, PreciseUpdate) for update in updates) else fast


def payload_bytes(update: SparseUpdate, values: Values) -> int:
    """Bytes of the sealed payload, without its header.

    2-bit values: as the wire has them. Others: the wire's bytes for the entries, and a byte and an fp32 scale a tile,
    or 4 bytes, for the values.
    """
    sealed = CODEC_BYTES + AEAD_TAG_BYTES
    if values == "2bit":
        return sealed + len(kernels.encode(update))
    entries = len(update.indices)
    blank = replace(update, codes=torch.zeros_like(update.codes), scales=torch.zeros_like(update.scales))
    starts = update.grid.entry_starts(update.k)
    codes = sum(-(-int(starts[stop] - starts[start]) // 4) for start, stop in update.grid.frames)
    rest = sealed + len(kernels.encode(blank)) - codes
    return rest + (entries + _FP32_BYTES * update.grid.tiles if values == "8bit" else _FP32_BYTES * entries)
