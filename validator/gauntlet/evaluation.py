"""Measure what a submission is worth: how far a small step along it lowers the loss on its data and on other.

LossScore(D) = L(θ, D) − L(θ − c·α·w·Δ̂, D), c < 1, of the update as the round applies it: its scales capped, times its
clip weights w (who got no seat: by the caps and norms of the accepted). An update that lowers the loss on the data its
peer was assigned more than on data nobody was assigned has been computed on that data; how much more any update of the
round does so, the control shows: the mean of the accepted ones, at the same c·α.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from torch import Tensor

from muster.kernels import SparseUpdate
from muster.protocol.incentive.own_data import Control, Errors, control_factor
from muster.protocol.incentive.row import MOST_LOSS
from muster.protocol.incentive.score import Evaluated, Failed, NotEvaluated
from muster.protocol.reasons import LOSS_NOT_FINITE, NO_ASSIGNED_WINDOWS
from muster.protocol.rules.sampling import sample

COMMON_CONTROL = 5
"""From so many accepted peers on they share one control; with fewer, a peer's own update would be too much of it, and
each has the mean of the others'."""

Losses = npt.NDArray[np.float64]
Row = npt.NDArray[np.float32]


class Evaluator(Protocol):
    """What an evaluation needs of a replica that holds θ of the submissions' round."""

    def losses(self, windows: Tensor) -> Losses:
        """Loss in nat/token of each of `windows`, int64 (n, window + 1), n ≥ 1; may be NaN or infinite."""

    def perturbed(self, update: SparseUpdate, weights: Row, scale: float) -> AbstractContextManager[None]:
        """Inside the context θ is θ − scale·w·Δ̂, `weights` fp32 (tensors,); as `moved` after it."""

    def moved(self, updates: Sequence[SparseUpdate], weights: Row, scale: float) -> AbstractContextManager[None]:
        """Inside the context θ is θ − scale·Σ w·Δ̂, `weights` fp32 (updates, tensors); after it, also by an exception,
        θ has its old bits again."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A valid submission to be measured, as the round applies it.

    `update` has capped scales, `weights` are its clip weights, fp32 (tensors,); `windows` sample its assigned data,
    int64 (n, window + 1).
    """

    hotkey: str
    update: SparseUpdate
    weights: Row
    windows: Tensor
    accepted: bool


@dataclass(frozen=True, slots=True)
class LossPair:
    """Mean loss over the same windows at θ and at θ − c·α·w·Δ̂, in nat/token; both finite.

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
    """What one submission's measurement publishes, and what ratings are computed from.

    `spreads` are the standard errors of the two LossScores, `errors` those of what is left of them without the control.
    """

    assigned: LossPair
    unassigned: LossPair
    control: Control
    spreads: Errors
    errors: Errors

    def outcome(self) -> Evaluated:
        """What the rule goes by."""
        return Evaluated(self.assigned.score, self.unassigned.score, self.control, self.errors)

    def columns(self) -> dict[str, float]:
        """The columns of a score row that are measured."""
        return {
            "assigned_before": self.assigned.before,
            "assigned_after": self.assigned.after,
            "unassigned_before": self.unassigned.before,
            "unassigned_after": self.unassigned.after,
            "control_assigned": self.control.assigned,
            "control_unassigned": self.control.unassigned,
            "assigned_spread": self.spreads.assigned,
            "unassigned_spread": self.spreads.unassigned,
            "assigned_error": self.errors.assigned,
            "unassigned_error": self.errors.unassigned,
        }


Evaluation: TypeAlias = Measured | Failed | NotEvaluated


@dataclass(slots=True)
class _Sides:
    """Losses of each window of the two sides, at one place of θ."""

    assigned: Losses
    unassigned: Losses

    @property
    def finite(self) -> bool:
        return all(bool((np.abs(side) <= MOST_LOSS).all()) for side in (self.assigned, self.unassigned))


class RoundEvaluation:
    """The exact evaluation of one round's candidates, in pieces that each leave θ as it was.

    What is the same for all is measured once. In forwards of a batch of windows: four a peer and two; with fewer than
    `COMMON_CONTROL` accepted, five a peer and one.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        candidates: Sequence[Candidate],
        accepted: Sequence[Candidate],
        unassigned: Tensor,
        scale: float,
        factors: Mapping[str, float] | None = None,
    ) -> None:
        """`accepted` are those whose mean is the control, `unassigned` one batch for all, int64 (n, window + 1);
        `scale` is c·α. `factors` are the b of peers whose measurement is made again, by which its errors are.

        Raises:
            ValueError: there are no unassigned windows.
        """
        if len(unassigned) == 0:
            raise ValueError("an evaluation needs at least one unassigned window")
        self._evaluator = evaluator
        self._candidates = candidates
        self._accepted = accepted
        self._unassigned = unassigned
        self._scale = scale
        self._factors = factors or {}
        self._common: Losses | None = None
        self.forwards = 0
        """Batches of windows that were put through the model so far."""
        self.found: dict[str, Evaluation] = {}
        """What is known so far, by hotkey."""

    def pieces(self) -> Iterator[None]:
        """Do the next piece of work each time; a loss that stops being finite after the step is the candidate's fault,
        one that was not finite before is not."""
        before = self._losses(self._unassigned)
        yield
        if not (np.abs(before) <= MOST_LOSS).all():
            self.found = {candidate.hotkey: NotEvaluated() for candidate in self._candidates}
            return
        controls: dict[str, _Sides] = {}
        if len(self._accepted) >= COMMON_CONTROL:
            with self._mean_of(self._accepted):
                common = self._losses(self._unassigned)
                for candidate in self._candidates:
                    controls[candidate.hotkey] = _Sides(self._losses(candidate.windows), common)
            yield
        for candidate in self._candidates:
            if candidate.hotkey not in controls:
                others = [other for other in self._accepted if other.hotkey != candidate.hotkey]
                if others:
                    with self._mean_of(others):
                        controls[candidate.hotkey] = self._sides(candidate)
            self.found[candidate.hotkey] = self._measure(candidate, before, controls.get(candidate.hotkey))
            yield

    def _measure(self, candidate: Candidate, unassigned: Losses, control: _Sides | None) -> Evaluation:
        if len(candidate.windows) == 0:
            return Failed(NO_ASSIGNED_WINDOWS)
        before = _Sides(self._losses(candidate.windows), unassigned)
        if not before.finite:
            return NotEvaluated()
        with self._evaluator.perturbed(candidate.update, candidate.weights, self._scale):
            after = self._sides(candidate)
        if not after.finite:
            return Failed(LOSS_NOT_FINITE)
        known = control if control is not None and control.finite else None
        return _measured(before, after, known, self._factors.get(candidate.hotkey))

    def _mean_of(self, accepted: Sequence[Candidate]) -> AbstractContextManager[None]:
        weights = np.stack([candidate.weights for candidate in accepted]).astype(np.float64) / len(accepted)
        updates = [candidate.update for candidate in accepted]
        return self._evaluator.moved(updates, weights.astype(np.float32), self._scale)

    def _sides(self, candidate: Candidate) -> _Sides:
        return _Sides(self._losses(candidate.windows), self._losses(self._unassigned))

    def _losses(self, windows: Tensor) -> Losses:
        self.forwards += 1
        return self._evaluator.losses(windows)


def evaluate(
    evaluator: Evaluator, candidates: Sequence[Candidate], unassigned: Tensor, scale: float
) -> dict[str, Evaluation]:
    """Measure all candidates at once (`RoundEvaluation`); hotkey → what was measured, or why nothing was.

    Raises:
        ValueError: there are no unassigned windows.
    """
    accepted = [candidate for candidate in candidates if candidate.accepted]
    evaluation = RoundEvaluation(evaluator, candidates, accepted, unassigned, scale)
    for _ in evaluation.pieces():
        pass
    return evaluation.found


def _measured(before: _Sides, after: _Sides, control: _Sides | None, factor: float | None) -> Measured:
    """Means and standard errors over the windows; sums are correctly rounded, so their order changes nothing.

    `factor` is b, None where it follows from these very measurements.
    """
    assigned = LossPair(_mean(before.assigned), _mean(after.assigned))
    unassigned = LossPair(_mean(before.unassigned), _mean(after.unassigned))
    gains = _Sides(before.assigned - after.assigned, before.unassigned - after.unassigned)
    spreads = Errors(_error(gains.assigned), _error(gains.unassigned))
    if control is None:
        return Measured(assigned, unassigned, Control(), spreads, spreads)
    usual = _Sides(before.assigned - control.assigned, before.unassigned - control.unassigned)
    means = Control(_mean(usual.assigned), _mean(usual.unassigned))
    factor = control_factor(unassigned.score, means) if factor is None else factor
    errors = Errors(
        _error(gains.assigned - factor * usual.assigned), _error(gains.unassigned - factor * usual.unassigned)
    )
    return Measured(assigned, unassigned, means, spreads, errors)


def _mean(values: Losses) -> float:
    return math.fsum(values.tolist()) / len(values)


def _error(values: Losses) -> float:
    """The standard error of the mean; 0 of a single value, which has none."""
    count = len(values)
    if count < 2:
        return 0.0
    mean = _mean(values)
    return math.sqrt(math.fsum(((values - mean) ** 2).tolist()) / (count * (count - 1)))


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
