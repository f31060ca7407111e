"""Scores for everybody from one gradient, and who is measured exactly beside: what judging many peers costs.

LossScore to first order is c·α·⟨∇L, w·Δ̂⟩ over the windows that are nobody's: among equal peers it ranks as the exact
one does, because what they differ by is the windows' luck and not the curvature. Where curvature matters it is wrong in
the sender's favour (a step four times too long looks four times as good), so updates are looked at as they are applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from blake3 import blake3
from torch import Tensor

from muster.kernels import SparseUpdate
from muster.protocol.identity import public_of
from muster.protocol.incentive.row import PeerState
from muster.protocol.spec import GauntletSpec
from muster.validator.gauntlet.evaluation import Candidate, Row


class Differentiable(Protocol):
    """What screening needs of a replica that holds θ of the submissions' round."""

    def gradient(self, windows: Tensor) -> list[Tensor]:
        """The gradient of the mean loss on windows, int64 (n, window + 1): fp32 of θ's shapes."""


def first_order(
    replica: Differentiable, candidates: Sequence[Candidate], unassigned: Tensor, scale: float
) -> dict[str, float]:
    """The LossScore of each candidate on `unassigned` windows to first order, in nat/token; may not be finite."""
    gradient = [tensor.reshape(-1) for tensor in replica.gradient(unassigned)]
    return {one.hotkey: scale * along(gradient, one.update, one.weights) for one in candidates}


def along(gradient: Sequence[Tensor], update: SparseUpdate, weights: Row) -> float:
    """⟨gradient, w·Δ̂⟩ in float64; `gradient` has flat tensors, `weights` are fp32 (tensors,)."""
    total = 0.0
    for i, (flat, weight) in enumerate(zip(gradient, weights.tolist(), strict=True)):
        positions = update.positions(i).to(flat.device)
        total += weight * float((flat[positions].double().cpu() * update.values(i).double()).sum())
    return total


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
