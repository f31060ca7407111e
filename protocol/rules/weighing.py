"""How much each accepted submission counts: caps, clips and the weights a record carries, recomputable by all.

`limits_of` says what the accepted of a round allow an update, `as_applied` what an update is under them, whether it is
one of theirs or one that got no seat: a record's weights are made of these two, and so is what a validator measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from muster.kernels import SparseUpdate, capped, caps_of, clip_of, medians_of, norms_of, scale_peaks
from muster.protocol.spec import OuterSpec

Row = np.ndarray[tuple[int], np.dtype[np.float32]]
Weights = np.ndarray[tuple[int, int], np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the accepted of a round allow an update, tensor by tensor.

    Attributes:
        caps: the largest scale, fp32 values; infinite where there is none.
        medians: norm and declared windows of the accepted update whose norm per window is the lower median, float64
            and a count; (inf, 1) where nobody brings anything.
        unmoved: the tensors that too few bring anything for, ascending: nobody moves them.
    """

    caps: tuple[float, ...]
    medians: tuple[tuple[float, int], ...]
    unmoved: tuple[int, ...]


class Weighed(NamedTuple):
    """What a record applies and says of it, in record order: capped updates, their weights, the tensors left alone."""

    updates: list[SparseUpdate]
    weights: Weights
    unmoved: tuple[int, ...]


def limits_of(updates: Sequence[SparseUpdate], windows: Sequence[int], outer: OuterSpec) -> Limits:
    """What R ≥ 1 accepted updates, of so many declared windows each, allow any update.

    Who brings nothing for a tensor has no part in its cap nor in its median norm. A tensor is left alone where fewer
    than `min_owners` bring anything for it, or, of fewer accepted that bring anything at all, not each of those: the
    measure of a lone owner would be its own, so it could move the tensor as far as it liked.

    Raises:
        ValueError: the updates are of different grids, or there are none, or not as many as windows.
    """
    return _measured(updates, windows, outer)[0]


def _measured(
    updates: Sequence[SparseUpdate], windows: Sequence[int], outer: OuterSpec
) -> tuple[Limits, list[list[float]]]:
    """`limits_of`, and the norms of the updates under the caps, (R, tensors)."""
    peaks = [scale_peaks(update) for update in updates]
    caps = tuple(caps_of(peaks, outer.scale_cap))
    norms = [norms_of(capped(update, caps)) for update in updates]
    medians = medians_of(norms, windows)
    working = sum(any(largest) for largest in peaks)
    fewest = max(1, min(outer.min_owners, working))
    owners = [sum(peak > 0 for peak in column) for column in zip(*peaks, strict=True)]
    unmoved = tuple(i for i, count in enumerate(owners) if count < fewest)
    return Limits(caps, tuple(medians), unmoved), norms


def as_applied(update: SparseUpdate, windows: int, limits: Limits, outer: OuterSpec) -> tuple[SparseUpdate, Row]:
    """An update of so many declared windows as the outer step would take it: with capped scales, and its clip weights.

    The weights, float32 (tensors,), are not divided by R whatever the rule: 0 for a tensor that is left alone, else
    min(1, median norm · (windows / the median's) / norm), 1 without `norm_clip`.
    """
    taken = capped(update, limits.caps)
    return taken, _clip(norms_of(taken), windows, limits, outer)


def _clip(norms: Sequence[float], windows: int, limits: Limits, outer: OuterSpec) -> Row:
    """The clip weights of an update with these norms under the caps."""
    clip = clip_of(norms, windows, limits.medians) if outer.norm_clip else np.ones(len(limits.caps), "<f4")
    clip[list(limits.unmoved)] = 0
    return clip


def weigh(
    updates: Sequence[SparseUpdate], windows: Sequence[int], outer: OuterSpec, ages: Sequence[int] = ()
) -> Weighed:
    """What R ≥ 1 accepted updates come to, by `limits_of` and `as_applied`.

    Weights are the clips; for `mean` each is divided by R in float64 and rounded once. What the other rules divide by
    differs between coordinates, so the outer step does it.

    The last of the updates are late, by `ages` rounds. They have no part in the limits, and are under them: whatever
    comes late, work in time is capped and clipped as without it. Their clips count times the weight of their age,
    rounded once; they are of the R all the same.

    Raises:
        ValueError: as `limits_of`, of those in time.
    """
    timely = len(updates) - len(ages)
    limits, norms = _measured(updates[:timely], windows[:timely], outer)
    taken = [capped(update, limits.caps) for update in updates]
    norms += [norms_of(update) for update in taken[timely:]]
    weights = np.stack([_clip(row, its, limits, outer) for row, its in zip(norms, windows, strict=True)])
    for row, age in enumerate(ages, timely):
        weights[row] *= np.float32(outer.age_weight(age))
    if outer.rule == "mean":
        weights = (weights.astype(np.float64) / len(updates)).astype(np.float32)
    return Weighed(taken, weights, limits.unmoved)
