"""What the judgement of a round is made from: window gains of every update as applied, of the control, and overlaps.

GAUNTLET's numbers: θ' = θ − c·α·w·v for each peer, where v is capped and w clipped as the aggregate would, whoever
was accepted; the control is the mean of all accepted updates at the same c·α, without the peer's own where fewer
than `CONTROL_OF` were accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.kernels import SparseUpdate, aggregate_, capped, norm, scale_caps, undo_
from muster.node.models import model_class
from muster.protocol.rules.sampling import sample
from muster.protocol.spec import ModelSpec, OuterSpec

CONTROL_OF = 5
"""From so many accepted updates on one control serves everybody; with fewer a peer's own would be too much of it."""
BATCH = 64
"""Windows per forward pass."""
OVERLAP_TILES = 1024
"""Overlap is counted on at most so many tiles."""

Gains = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Limits:
    """What an update of a round may weigh: per tensor the cap of its scales and the median norm of the accepted."""

    caps: Sequence[float]
    norms: Sequence[float]
    clip: bool

    @classmethod
    def of(cls, accepted: Sequence[SparseUpdate], outer: OuterSpec) -> Limits:
        """Those that the accepted updates give."""
        tensors = range(len(accepted[0].grid.shapes))
        caps = scale_caps(accepted, outer.scale_cap)
        bounded = [capped(update, caps) for update in accepted]
        norms = [sorted(norm(update, i) for update in bounded)[(len(bounded) - 1) // 2] for i in tensors]
        return cls(caps, norms, outer.norm_clip)

    def applied(self, update: SparseUpdate) -> tuple[SparseUpdate, Floats]:
        """The update capped, and its weights fp32 (1, tensors)."""
        bounded = capped(update, self.caps)
        weights = np.ones((1, len(self.norms)), np.float32)
        if self.clip:
            for i, median in enumerate(self.norms):
                own = norm(bounded, i)
                if own > median:
                    weights[0, i] = np.float32(median / own)
        return bounded, weights


class Bench:
    """θ, a model that computes with it, and steps of c·α that are taken and taken back."""

    def __init__(self, model: ModelSpec, theta: Sequence[Tensor]) -> None:
        self._theta = theta
        self._model = model_class(model).over(model, theta)

    def losses(self, windows: Tensor) -> Gains:
        """Loss of each window, nat/token, float64 (n,)."""
        with torch.no_grad():
            parts = [self._model.window_losses(windows[i : i + BATCH]) for i in range(0, len(windows), BATCH)]
        return torch.cat(parts).double().numpy()

    @contextmanager
    def moved(self, updates: Sequence[SparseUpdate], weights: Floats, scale: float) -> Iterator[None]:
        """θ − scale · Σ w·v inside the block, the very bits of before after it."""
        undo = aggregate_(self._theta, updates, weights, scale, "mean")
        try:
            yield
        finally:
            undo_(self._theta, updates, undo)


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Gains per window, nat/token, float64 (peers, windows); NaN where there is no window.

    Attributes:
        assigned, unassigned: of each peer's update, on its own windows and on those that nobody was assigned.
        control_assigned, control_unassigned: of its control on the same windows.
        mean_assigned, mean_unassigned: of the mean of all accepted, the peer's own among them; the same as the
            control's from `CONTROL_OF` accepted on.
        before: loss of the unassigned windows, (windows,).
    """

    assigned: Gains
    unassigned: Gains
    control_assigned: Gains
    control_unassigned: Gains
    mean_assigned: Gains
    mean_unassigned: Gains
    before: Gains


def measure(
    bench: Bench,
    peers: Mapping[str, SparseUpdate],
    accepted: Sequence[str],
    windows: Mapping[str, Tensor],
    common: Tensor,
    outer: OuterSpec,
    scale: float,
) -> Measured:
    """Measure every peer of a round; `windows` are its sampled assigned ones, `common` the unassigned ones."""
    names, count = list(peers), len(common)
    limits = Limits.of([peers[name] for name in accepted], outer)
    applied = {name: limits.applied(peers[name]) for name in names}
    every = torch.cat([windows[name] for name in names] + [common])
    cuts = np.cumsum([len(windows[name]) for name in names])
    before = bench.losses(every)
    parts = dict(zip(names, np.split(before, cuts)[:-1], strict=True))
    before_common = before[cuts[-1] :]
    out = {field: np.full((len(names), count), np.nan) for field in ("a", "r", "ca", "cr", "ma", "mr")}
    with bench.moved(*_mean([applied[name] for name in accepted]), scale):
        gains = np.split(before - bench.losses(every), cuts)
    for i, own in enumerate(gains[:-1]):
        out["ma"][i, : len(own)] = own
        out["mr"][i] = gains[-1]
    for i, name in enumerate(names):
        both = torch.cat([windows[name], common])
        old, cut = np.concatenate([parts[name], before_common]), len(windows[name])
        update, weights = applied[name]
        with bench.moved([update], weights, scale):
            gain = old - bench.losses(both)
        out["a"][i, :cut], out["r"][i] = gain[:cut], gain[cut:]
        others = [applied[other] for other in accepted if other != name]
        if len(accepted) >= CONTROL_OF or len(others) == len(accepted):
            out["ca"][i], out["cr"][i] = out["ma"][i], out["mr"][i]
        elif others:
            with bench.moved(*_mean(others), scale):
                gain = old - bench.losses(both)
            out["ca"][i, :cut], out["cr"][i] = gain[:cut], gain[cut:]
    return Measured(out["a"], out["r"], out["ca"], out["cr"], out["ma"], out["mr"], before_common)


def _mean(applied: Sequence[tuple[SparseUpdate, Floats]]) -> tuple[list[SparseUpdate], Floats]:
    """Updates and weights of their mean."""
    weights = np.concatenate([weights for _, weights in applied]).astype(np.float64) / len(applied)
    return [update for update, _ in applied], weights.astype(np.float32)


def listed(update: SparseUpdate, beacon: bytes) -> npt.NDArray[np.float32]:
    """Which coordinates an update lists, on the drawn tiles: fp32 (coordinates,) of 0 and 1, in tile order."""
    grid = update.grid
    tiles = np.repeat(np.arange(grid.tiles), grid.kept(update.k))
    begins = np.concatenate([np.zeros(1, np.int64), np.cumsum(grid.tile_sizes, dtype=np.int64)])
    flat = np.zeros(int(begins[-1]), np.float32)
    flat[begins[tiles] + update.indices.numpy()] = 1
    if grid.tiles > OVERLAP_TILES:
        drawn = sorted(sample(beacon, b"overlap", grid.tiles, OVERLAP_TILES))
        flat = np.concatenate([flat[begins[tile] : begins[tile + 1]] for tile in drawn])
    return flat


def overlaps(ours: Sequence[npt.NDArray[np.float32]], theirs: Sequence[npt.NDArray[np.float32]]) -> Floats:
    """Of the coordinates each of `ours` lists the part that each of `theirs` lists too, fp32 (ours, theirs)."""
    if not ours or not theirs:
        return np.zeros((len(ours), len(theirs)), np.float32)
    left, right = np.stack(ours), np.stack(theirs)
    shared: Floats = (left @ right.T / left.sum(1, keepdims=True)).astype(np.float32)
    return shared
