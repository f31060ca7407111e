"""Measure what a submission is worth: how far a small step along it lowers the loss on its data and on other.

LossScore(D) = L(θ, D) − L(θ − c·α·Δ̂, D), c < 1 (Gauntlet, arXiv 2505.21684). An update that lowers the loss
on the data its peer was assigned more than on data nobody was assigned has been computed on that data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from blake3 import blake3
from torch import Tensor

from muster.kernels import SparseUpdate
from muster.protocol.incentive.score import Evaluated, Failed, NotEvaluated
from muster.protocol.rules.sampling import sample

LOSS_NOT_FINITE = "loss_not_finite"
"""Reason of a submission along which the loss becomes NaN or infinite."""

NO_ASSIGNED_WINDOWS = "no_assigned_windows"
"""Reason of a submission that declares no data, so that no proof of computation can be had from it."""


class Evaluator(Protocol):
    """What an evaluation needs of a replica that holds θ of the submissions' round."""

    def loss(self, windows: Tensor) -> float:
        """Mean loss in nat/token of `windows`, int64 (n, window + 1), n ≥ 1; may be NaN or infinite."""

    def perturbed(self, update: SparseUpdate, scale: float) -> AbstractContextManager[None]:
        """Inside the context θ is θ − scale·Δ̂; after it, also by an exception, θ has its old bits again."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A valid submission to be measured; `windows` sample its assigned data, int64 (n, window + 1)."""

    hotkey: str
    update: SparseUpdate
    windows: Tensor


@dataclass(frozen=True, slots=True)
class LossPair:
    """Mean loss over the same windows at θ and at θ − c·α·Δ̂, in nat/token; both finite.

    Raises:
        ValueError: a loss is NaN or infinite.
    """

    before: float
    after: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.before) and math.isfinite(self.after)):
            raise ValueError(f"losses must be finite, not {self.before} and {self.after}")

    @property
    def score(self) -> float:
        """LossScore: how much lower the loss is after the step, in nat/token."""
        return self.before - self.after


@dataclass(frozen=True, slots=True)
class Measured:
    """All four losses of one submission: what a validator publishes, and what ratings are computed from."""

    assigned: LossPair
    unassigned: LossPair

    def outcome(self) -> Evaluated:
        """The LossScores s_a and s_r."""
        return Evaluated(self.assigned.score, self.unassigned.score)


Evaluation: TypeAlias = Measured | Failed | NotEvaluated


def evaluate(
    evaluator: Evaluator, candidates: Sequence[Candidate], unassigned: Tensor, scale: float
) -> dict[str, Evaluation]:
    """Measure the candidates in the order given; hotkey → its losses, or why there are none.

    `unassigned` is one batch for all, int64 (n, window + 1); `scale` is c·α. A loss that stops being finite
    after the step is the candidate's fault, one that was not finite before is not.

    Raises:
        ValueError: there are no unassigned windows.
    """
    if len(unassigned) == 0:
        raise ValueError("an evaluation needs at least one unassigned window")
    before = evaluator.loss(unassigned)
    if not math.isfinite(before):
        return {candidate.hotkey: NotEvaluated() for candidate in candidates}
    return {candidate.hotkey: _measure(evaluator, candidate, unassigned, before, scale) for candidate in candidates}


def _measure(
    evaluator: Evaluator, candidate: Candidate, unassigned: Tensor, unassigned_before: float, scale: float
) -> Evaluation:
    if len(candidate.windows) == 0:
        return Failed(NO_ASSIGNED_WINDOWS)
    assigned_before = evaluator.loss(candidate.windows)
    if not math.isfinite(assigned_before):
        return NotEvaluated()
    with evaluator.perturbed(candidate.update, scale):
        assigned_after = evaluator.loss(candidate.windows)
        unassigned_after = evaluator.loss(unassigned)
    if not (math.isfinite(assigned_after) and math.isfinite(unassigned_after)):
        return Failed(LOSS_NOT_FINITE)
    return Measured(LossPair(assigned_before, assigned_after), LossPair(unassigned_before, unassigned_after))


def own_beacon(beacon: bytes, validator: bytes) -> bytes:
    """BLAKE3(evaluation beacon of the round ‖ validator's hotkey): what that validator draws its windows by.

    Each measures on other windows, so the median of all averages out whose windows were lucky, and the losses that one
    publishes are not what another one measures.
    """
    return blake3(beacon + validator).digest()


def assigned_sample(beacon: bytes, public: bytes, declared: Sequence[int], count: int) -> list[int]:
    """The `count` windows of a declared prefix that its submission is judged by; all if it has fewer.

    `public` is the hotkey's 32 public bytes: each peer's positions are drawn apart. `beacon` is the validator's own
    (`own_beacon`), unknown when the submission was sealed, so that a peer cannot train on just these.
    """
    positions = sample(beacon, b"assigned" + public, len(declared), count)
    return [declared[position] for position in positions]
