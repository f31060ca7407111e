"""How much each accepted submission counts: the scale cap and the weights a record carries, recomputable by all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from muster.kernels import SparseUpdate, capped, clip_weights, scale_caps
from muster.protocol.spec import OuterSpec

Weights = np.ndarray[tuple[int, int], np.dtype[np.float32]]


def cap_scales(updates: Sequence[SparseUpdate], outer: OuterSpec) -> list[SparseUpdate]:
    """Limit every tile's scale to `scale_cap` × the tensor's median, so that a spike buys nothing."""
    if not outer.scale_cap:
        return list(updates)
    caps = scale_caps(updates, outer.scale_cap)
    return [capped(update, caps) for update in updates]


def weigh(updates: Sequence[SparseUpdate], outer: OuterSpec) -> Weights:
    """Weights (accepted, tensors) float32 of updates whose scales are capped.

    The norm clip min(1, median/norm) per tensor; for `mean` each is divided by R in float64 and rounded once. What
    the other rules divide by differs between coordinates, so the outer step does it.
    """
    count, tensors = len(updates), len(updates[0].grid.shapes)
    clip = clip_weights(updates) if outer.norm_clip else np.ones((count, tensors), dtype=np.float32)
    if outer.rule == "mean":
        return (clip.astype(np.float64) / count).astype(np.float32)
    return clip
