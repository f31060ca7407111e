"""What a round's work says about each peer, folded into the standing it has earned so far.

A peer's standing is its proof of computation μ (does its update help more on the data it was assigned than on
other data?), its LossRating (does it help more than the others' updates?), and its failures and absences.
All rules are Gauntlet's (arXiv 2505.21684; constants of the Covenant-72B run, arXiv 2603.08163).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

from muster.protocol.incentive.rating import Rating, rate
from muster.protocol.incentive.row import PeerState
from muster.protocol.spec import GauntletSpec

FAILURE_MULTIPLIERS = (1.0, 0.75, 0.5, 0.0)
"""PeerScore multiplier after 0, 1, 2 and ≥ 3 failures since the last good one (Gauntlet, fast checks)."""

INACTIVE_MULTIPLIER = 0.75
"""What one round without a submission leaves of a PeerScore (Gauntlet: −25 % a round)."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """It was measured: LossScores on its `assigned` (s_a) and on `unassigned` (s_r) data, in nat/token.

    Raises:
        ValueError: a LossScore is NaN or infinite.
    """

    assigned: float
    unassigned: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.assigned) and math.isfinite(self.unassigned)):
            raise ValueError(f"LossScores must be finite, not {self.assigned} and {self.unassigned}")


@dataclass(frozen=True, slots=True)
class Failed:
    """The peer's own work is at fault: `reason` is the slug of the check it failed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Absent:
    """The peer submitted nothing."""


@dataclass(frozen=True, slots=True)
class NotEvaluated:
    """This validator could not or did not measure it: no fault of the peer's, so nothing changes."""


Outcome: TypeAlias = Evaluated | Failed | Absent | NotEvaluated


def multiplier(state: PeerState) -> float:
    """What failures and absence leave of a PeerScore, 0…1; a measured round restores it to 1."""
    failed = FAILURE_MULTIPLIERS[min(state.failures, len(FAILURE_MULTIPLIERS) - 1)]
    return failed * INACTIVE_MULTIPLIER**state.inactive


def judge(states: Mapping[str, PeerState], outcomes: Mapping[str, Outcome], spec: GauntletSpec) -> dict[str, PeerState]:
    """The standings after a round with these outcomes, in ascending hotkey order.

    A peer without an outcome, or with NotEvaluated, keeps its standing. A hotkey not in `states` gets one
    when its work first counts, for it or against it. A failure does not end a spell of absence, nor the other
    way round, so alternating between the two gains nothing.
    """
    ratings = rate(
        {hotkey: state.rating for hotkey, state in states.items()},
        {hotkey: outcome.unassigned for hotkey, outcome in outcomes.items() if isinstance(outcome, Evaluated)},
        spec.rating_beta,
        spec.rating_tau,
    )
    judged = dict(states)
    for hotkey, outcome in outcomes.items():
        state = states.get(hotkey, PeerState(hotkey))
        match outcome:
            case Evaluated():
                judged[hotkey] = _measured(state, outcome, ratings[hotkey], spec.mu_decay)
            case Failed():
                judged[hotkey] = replace(state, failures=state.failures + 1)
            case Absent():
                if hotkey in states:
                    judged[hotkey] = replace(state, inactive=state.inactive + 1)
            case NotEvaluated():
                pass
            case _:
                assert_never(outcome)
    return {hotkey: judged[hotkey] for hotkey in sorted(judged)}


def _measured(state: PeerState, outcome: Evaluated, rating: Rating, decay: float) -> PeerState:
    """The standing after a measured round: μ ← (1 − γ)·μ + γ·sign(s_a − s_r), new rating, clean record."""
    sign = (outcome.assigned > outcome.unassigned) - (outcome.assigned < outcome.unassigned)
    return replace(
        state,
        mu=(1.0 - decay) * state.mu + decay * sign,
        rating_mu=rating.mu,
        rating_sigma=rating.sigma,
        evaluated=state.evaluated + 1,
        failures=0,
        inactive=0,
        last_score=outcome.unassigned,
        positive=state.positive or outcome.unassigned > 0.0,
    )


def peer_score(state: PeerState, spec: GauntletSpec) -> float:
    """PeerScore ≥ 0: multiplier · μ⁺ · (rating ordinal)⁺, where x⁺ = max(x, 0).

    Once `spec.mu_warmup` rounds were measured, a μ below `spec.mu_floor` makes it 0: whoever computes on its
    own data shows it by then.
    """
    if state.evaluated >= spec.mu_warmup and state.mu < spec.mu_floor:
        return 0.0
    return multiplier(state) * max(state.mu, 0.0) * max(state.rating.ordinal, 0.0)
