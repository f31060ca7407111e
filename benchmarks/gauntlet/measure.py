"""What the judgement of a round is made from: window gains of every update as applied, of the control, and overlaps.

The numbers are those of the validator's own evaluation, which publishes their means: here each window's is kept, so
that other rules than the product's can be tried on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.kernels import SparseUpdate
from muster.node.replica import Replica
from muster.protocol.rules.sampling import sample
from muster.validator.gauntlet.evaluation import COMMON_CONTROL, Candidate
from muster.validator.gauntlet.first_order import first_order
from muster.validator.gauntlet.overlap import TILES

Gains = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Gains per window, nat/token, float64 (peers, windows); NaN where there is no window.

    Attributes:
        assigned, unassigned: of each peer's update, on its own windows and on those that nobody was assigned.
        control_assigned, control_unassigned: of its control on the same windows; NaN where it has none.
        mean_assigned, mean_unassigned: of the mean of all accepted, the peer's own among them: the control's from
            `COMMON_CONTROL` accepted on.
        before: loss of the unassigned windows, (windows,).
        screened: mean gain on the unassigned windows to first order, (peers,).
    """

    assigned: Gains
    unassigned: Gains
    control_assigned: Gains
    control_unassigned: Gains
    mean_assigned: Gains
    mean_unassigned: Gains
    before: Gains
    screened: Gains


def measure(replica: Replica, candidates: Sequence[Candidate], common: Tensor, scale: float) -> Measured:
    """Measure a round's candidates; `common` are the unassigned windows, `scale` is c·α."""
    count = len(common)
    every = torch.cat([*(one.windows for one in candidates), common])
    cuts = np.cumsum([len(one.windows) for one in candidates])
    before = np.split(replica.losses(every), cuts)
    found = _Sides.blank(len(candidates), count)
    mean, control = _Sides.blank(len(candidates), count), _Sides.blank(len(candidates), count)
    accepted = [one for one in candidates if one.accepted]
    if accepted:
        with _mean_of(replica, accepted, scale):
            after = np.split(replica.losses(every), cuts)
        for i in range(len(candidates)):
            mean.put(i, before[i] - after[i], before[-1] - after[-1])
    for i, one in enumerate(candidates):
        windows, old, own = torch.cat([one.windows, common]), np.concatenate([before[i], before[-1]]), len(one.windows)
        with replica.moved([one.update], one.weights[None], scale):
            gains = old - replica.losses(windows)
        found.put(i, gains[:own], gains[own:])
        others = [other for other in accepted if other is not one]
        if len(accepted) >= COMMON_CONTROL or len(others) == len(accepted):
            control.put(i, mean.assigned[i, :own], mean.unassigned[i])
        elif others:
            with _mean_of(replica, others, scale):
                gains = old - replica.losses(windows)
            control.put(i, gains[:own], gains[own:])
    screened = first_order(replica, candidates, common, scale)
    return Measured(
        assigned=found.assigned,
        unassigned=found.unassigned,
        control_assigned=control.assigned,
        control_unassigned=control.unassigned,
        mean_assigned=mean.assigned,
        mean_unassigned=mean.unassigned,
        before=before[-1],
        screened=np.array(list(screened.values())),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Sides:
    """Gains of some step on each peer's own windows and on the common ones, (peers, windows)."""

    assigned: Gains
    unassigned: Gains

    @classmethod
    def blank(cls, peers: int, windows: int) -> _Sides:
        return cls(np.full((peers, windows), np.nan), np.full((peers, windows), np.nan))

    def put(self, i: int, own: Gains, common: Gains) -> None:
        self.assigned[i, : len(own)] = own
        self.unassigned[i] = common


def _mean_of(replica: Replica, accepted: Sequence[Candidate], scale: float) -> AbstractContextManager[None]:
    """θ moved by the mean of updates as applied."""
    weights = np.stack([one.weights for one in accepted]).astype(np.float64) / len(accepted)
    return replica.moved([one.update for one in accepted], weights.astype(np.float32), scale)


def listed(update: SparseUpdate, beacon: bytes) -> npt.NDArray[np.float32]:
    """Which coordinates an update lists, on the drawn tiles: fp32 (coordinates,) of 0 and 1, in tile order."""
    grid = update.grid
    tiles = np.repeat(np.arange(grid.tiles), grid.kept(update.k))
    begins = np.concatenate([np.zeros(1, np.int64), np.cumsum(grid.tile_sizes, dtype=np.int64)])
    flat = np.zeros(int(begins[-1]), np.float32)
    flat[begins[tiles] + update.indices.numpy()] = 1
    if grid.tiles > TILES:
        drawn = sorted(sample(beacon, b"overlap", grid.tiles, TILES))
        flat = np.concatenate([flat[begins[tile] : begins[tile + 1]] for tile in drawn])
    return flat


def overlaps(ours: Sequence[npt.NDArray[np.float32]], theirs: Sequence[npt.NDArray[np.float32]]) -> Floats:
    """Of the coordinates each of `ours` lists the part that each of `theirs` lists too, fp32 (ours, theirs)."""
    if not ours or not theirs:
        return np.zeros((len(ours), len(theirs)), np.float32)
    left, right = np.stack(ours), np.stack(theirs)
    shared: Floats = (left @ right.T / left.sum(1, keepdims=True)).astype(np.float32)
    return shared
