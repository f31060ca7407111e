"""Scores for everybody from one gradient, and who is measured exactly beside: what judging many peers costs.

LossScore to first order is c·α·⟨∇L, w·Δ̂⟩ over the windows that are nobody's: among equal peers it ranks as the exact
one does, because what they differ by is the windows' luck and not the curvature. Where curvature matters it is wrong in
the sender's favour (a step four times too long looks four times as good), so updates are looked at as they are applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from blake3 import blake3
from torch import Tensor

from muster.kernels import SparseUpdate
from muster.kernels.quantiser import dequantise
from muster.protocol.identity import public_of
from muster.protocol.incentive.row import PeerState
from muster.protocol.spec import GauntletSpec
from muster.validator.gauntlet.evaluation import Candidate, Row

_TOGETHER = 1 << 22
"""Entries of updates that are looked at together, a few hundred MiB; a large model's update is looked at alone."""


class Differentiable(Protocol):
    """What screening needs of a replica that holds θ of the submissions' round."""

    def gradient(self, windows: Tensor) -> list[Tensor]:
        """The gradient of the mean loss on windows, int64 (n, window + 1): fp32 of θ's shapes."""


def first_order(
    replica: Differentiable, candidates: Sequence[Candidate], unassigned: Tensor, scale: float
) -> dict[str, float]:
    """The LossScore of each candidate on `unassigned` windows to first order, in nat/token; may not be finite."""
    gradient = [tensor.reshape(-1) for tensor in replica.gradient(unassigned)]
    together = max(1, _TOGETHER // candidates[0].update.codec.count) if candidates else 1
    found: dict[str, float] = {}
    for first in range(0, len(candidates), together):
        some = candidates[first : first + together]
        totals = along(gradient, [one.update for one in some], [one.weights for one in some])
        found |= {one.hotkey: scale * total for one, total in zip(some, totals, strict=True)}
    return found


def along(gradient: Sequence[Tensor], updates: Sequence[SparseUpdate], weights: Sequence[Row]) -> list[float]:
    """⟨gradient, w·Δ̂⟩ of updates of one codec, in float64; `gradient` has flat tensors, each w is fp32 (tensors,).

    A tensor of all updates is looked at together: of small ones, what a call costs is more than what it does.
    """
    totals = torch.zeros(len(updates), dtype=torch.float64)
    grid, k = updates[0].grid, updates[0].k
    for i, flat in enumerate(gradient):
        here = grid.entries(i, k)
        indices = torch.stack([update.indices[here] for update in updates])
        positions = grid.offsets(i, k, indices.long()).to(flat.device)
        scales = torch.stack([update.tensor_scales(i) for update in updates])
        codes = torch.cat([update.codes[here] for update in updates])
        values = dequantise(codes, scales[:, grid.entry_tiles(i, k)].reshape(-1, 2)).reshape(positions.shape)
        products = (flat[positions].double().cpu() * values.double()).sum(1)
        totals += products * torch.tensor([float(row[i]) for row in weights], dtype=torch.float64)
    found: list[float] = totals.tolist()
    return found


def drawn_exact(
    beacon: bytes, states: Mapping[str, PeerState], hotkeys: Sequence[str], spec: GauntletSpec
) -> frozenset[str]:
    """The `exact_peers` that are measured exactly: newcomers, then by lot.

    `beacon` is one that nobody knew when the submissions were sealed.
    """
    ranked = sorted(hotkeys, key=lambda hotkey: precedence_of(beacon, hotkey, states.get(hotkey), spec))
    return frozenset(ranked[: spec.exact_peers])


def precedence_of(beacon: bytes, hotkey: str, state: PeerState | None, spec: GauntletSpec) -> tuple[bool, bytes]:
    """Who is measured exactly first: who is not through its warm-up, unless its last round failed; then by lot."""
    known = state is not None and (state.tested >= max(spec.mu_warmup, 1) or state.failures > 0)
    return known, blake3(beacon + b"exact" + public_of(hotkey)).digest()
