"""What a round's work says about each peer, folded into the standing it has earned so far.

A peer's standing is its proof of computation μ (was its update made from the data it was assigned?), its work (how much
does it help, beside the others?), its LossRating, and its failures and absences. docs/incentive.md tells the rule.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from muster.protocol.incentive.averages import averaged
from muster.protocol.incentive.own_data import Control, Errors, control_factor, sign, statistic
from muster.protocol.incentive.rating import Rating, rate
from muster.protocol.incentive.row import COPY_POINTS, MOST_COPY_POINTS, PeerState
from muster.protocol.reasons import CLONE, COPY, MIXTURE, UNORIGINAL
from muster.protocol.spec import GauntletSpec

FAILURE_MULTIPLIERS = (1.0, 0.75, 0.5, 0.0)
"""Where `idle` is "gauntlet": PeerScore multiplier after 0, 1, 2 and ≥ 3 failures since the last good one."""

INACTIVE_MULTIPLIER = 0.75
"""Where `idle` is "gauntlet": what one round without a submission leaves of a PeerScore (−25 % a round)."""

MOST_WORK = 2.0
LEAST_WORK = -3.0
"""Bounds of one round's LossScore beside the others': one lucky round is two rounds' work at most."""

_MOST_HALVES = 2.0**30
"""Bound of what is ranked by: a file may publish a median so small that nothing can be divided by it."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """It was measured exactly: LossScores on its `assigned` (s_a) and on `unassigned` (s_r) data, in nat/token, the
    control's, and the standard errors of what is left without the control.

    Raises:
        ValueError: one of them is NaN or infinite.
    """

    assigned: float
    unassigned: float
    control: Control
    errors: Errors

    def __post_init__(self) -> None:
        numbers = (self.assigned, self.unassigned, self.control.assigned, self.control.unassigned)
        if not all(map(math.isfinite, (*numbers, self.errors.assigned, self.errors.unassigned))):
            raise ValueError(f"LossScores must be finite, not {self}")


@dataclass(frozen=True, slots=True)
class Screened:
    """It was measured to first order: its LossScore on `unassigned` data, in nat/token.

    Raises:
        ValueError: it is NaN or infinite.
    """

    unassigned: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.unassigned):
            raise ValueError(f"a LossScore must be finite, not {self.unassigned}")


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


Measured = Evaluated | Screened
Outcome: TypeAlias = Evaluated | Screened | Failed | Absent | NotEvaluated


@dataclass(frozen=True, slots=True)
class Finding:
    """What a round was for a peer: how its work turned out, and what of it counts beside that.

    `windows` are those that its valid head declares, 0 where the record has none. `clone` and `copy` are what its
    update has in common with one of this round and one of the last, in units of what two honest ones have (None: not
    looked at); `first` says that of its clones it takes precedence.
    """

    outcome: Outcome
    windows: int = 0
    accepted: bool = False
    clone: float | None = None
    copy: float | None = None
    first: bool = True


_NOTHING = Finding(NotEvaluated())


@dataclass(frozen=True, slots=True)
class Judgement:
    """A peer's standing after a round, what the round was for it, its PeerScore, and how they came about.

    `factor` is b, `own_data` the test's statistic, `ratio` s_r beside the accepted ones' median, `rank` the place by
    s_r.
    """

    state: PeerState
    outcome: Outcome
    score: float
    gate: float
    multiplier: float
    factor: float | None = None
    own_data: float | None = None
    ratio: float | None = None
    rank: int | None = None


def judge(
    states: Mapping[str, PeerState], findings: Mapping[str, Finding], spec: GauntletSpec, full: int
) -> dict[str, Judgement]:
    """The standings after a round with these findings, in ascending hotkey order.

    A peer without a finding, or not evaluated, keeps its standing. A hotkey not in `states` gets one when its work
    first counts, for it or against it. A failure does not end a spell of absence, nor the other way round, so
    alternating between the two gains nothing. `full` is how many windows a round's whole work has (H · batch).
    """
    looked = {
        hotkey: _looked_at(states.get(hotkey, PeerState(hotkey)), findings.get(hotkey, _NOTHING), spec)
        for hotkey in sorted(states.keys() | findings.keys())
    }
    scores = {hotkey: outcome.unassigned for hotkey, (_, outcome) in looked.items() if isinstance(outcome, Measured)}
    middle = _middle([score for hotkey, score in scores.items() if findings[hotkey].accepted])
    ratings = rate(
        {hotkey: state.rating for hotkey, state in states.items()},
        _ties(scores, None if spec.rating == "ordinal" else middle),
        spec.rating_beta,
        spec.rating_tau,
    )
    judged = {}
    for hotkey, (state, outcome) in looked.items():
        if hotkey not in states and isinstance(outcome, Absent | NotEvaluated):
            continue
        ratio = None
        if isinstance(outcome, Measured) and middle is not None:
            ratio = min(max(scores[hotkey] / middle, LEAST_WORK), MOST_WORK)
        found = findings.get(hotkey, _NOTHING).outcome
        judged[hotkey] = _judged(state, found, outcome, ratio, ratings.get(hotkey, state.rating), spec)
    accepted = {hotkey for hotkey, found in findings.items() if found.accepted}
    seen = sight({hotkey: one.state for hotkey, one in judged.items()}, accepted, spec)
    ascending = sorted(scores.values())
    for hotkey, one in judged.items():
        better = len(ascending) - bisect_right(ascending, scores[hotkey]) if hotkey in scores else None
        rank = None if better is None else 1 + better
        tokens = findings.get(hotkey, _NOTHING).windows / full if spec.tokens else 1.0
        gated, left = gate(one.state, spec, seen), multiplier(one.state, spec)
        score = left * gated * worth(one.state, spec) * tokens
        judged[hotkey] = replace(one, score=score, gate=gated, multiplier=left, rank=rank)
    return judged


def _judged(
    state: PeerState, found: Outcome, outcome: Outcome, ratio: float | None, rating: Rating, spec: GauntletSpec
) -> Judgement:
    """The standing after a round that was this for a peer (`found` before it was known whose work it sent); what it
    scores follows from everybody's. A clone is tested all the same, or who was cloned might never come first."""
    own = None
    match outcome:
        case Failed(reason):
            if reason == CLONE and isinstance(found, Evaluated):
                state, own = _tested(state, found, spec)
            state = replace(state, failures=state.failures + 1, copied=_copied(state.copied, reason))
        case Absent():
            state = replace(state, inactive=state.inactive + 1)
        case Evaluated() | Screened():
            state, own = _measured(state, outcome, rating, ratio, spec)
    factor = (
        control_factor(found.unassigned, found.control) if own is not None and isinstance(found, Evaluated) else None
    )
    return Judgement(state, outcome, 0.0, 0.0, 1.0, factor=factor, own_data=own, ratio=ratio)


def _copied(points: int, reason: str) -> int:
    """A peer's points for sending others' work, after a round that failed."""
    return min(points + COPY_POINTS, MOST_COPY_POINTS) if reason in UNORIGINAL else points


@dataclass(frozen=True, slots=True)
class Sight:
    """What the own-data test sees in a round: how far it sees anything, 0…1, and the μ from which on all is paid."""

    seen: float
    full: float


def sight(states: Mapping[str, PeerState], accepted: Collection[str], spec: GauntletSpec) -> Sight:
    """By the median μ of the accepted peers that have been tested, where there are none of all that have been.

    It sees as far as that is near to `mu_full`, and no less than the part of `mu_settled` that the longest-tested peer
    has behind it. All is paid from `mu_full` on, or from `mu_part` of the median, whichever is more.
    """
    tested = {hotkey: state for hotkey, state in states.items() if state.tested}
    if not tested:
        return Sight(1.0, spec.mu_full)
    means = sorted(state.mu for hotkey, state in tested.items() if hotkey in accepted)
    means = means or sorted(state.mu for state in tested.values())
    middle = means[(len(means) - 1) // 2]
    full = max(spec.mu_full, spec.mu_part * middle)
    if not spec.mu_settled:
        return Sight(1.0, full)
    settled = max(state.tested for state in tested.values()) / spec.mu_settled
    return Sight(min(max(middle / spec.mu_full, settled, 0.0), 1.0), full)


def _looked_at(state: PeerState, found: Finding, spec: GauntletSpec) -> tuple[PeerState, Outcome]:
    """What the round was for a peer once it is known whose work it sent, and its standing with that."""
    if found.copy is not None:
        compared = state.compared + 1
        mixture = averaged(state.mixture, found.copy, spec.work_decay, compared)
        state = replace(state, compared=compared, mixture=mixture)
    reason = unoriginal(found, state.mixture, spec) if isinstance(found.outcome, Measured) else ""
    return state, Failed(reason) if reason else found.outcome


def unoriginal(found: Finding, mixture: float, spec: GauntletSpec) -> str:
    """Why an update is taken for others' work, or ""; `mixture` is the mean of its `copy`, this round's included."""
    if not found.first and exceeds(found.clone, spec.clone_ratio):
        return CLONE
    if exceeds(found.copy, spec.copy_ratio):
        return COPY
    return MIXTURE if found.copy is not None and exceeds(mixture, spec.mixer_ratio) else ""


def exceeds(ratio: float | None, limit: float) -> bool:
    """Whether what two have in common is more than a rule allows; a limit of 0 allows anything."""
    return ratio is not None and limit > 0.0 and ratio > limit


def _middle(scores: Sequence[float]) -> float | None:
    """The lower median of the positive ones: an honest round's work; None where there is none."""
    positive = sorted(score for score in scores if score > 0.0)
    return positive[(len(positive) - 1) // 2] if positive else None


def _ties(scores: Mapping[str, float], middle: float | None) -> dict[str, float]:
    """Scores to rank by, in halves of the median, so that equal work ties; as they are where there is none."""
    if middle is None:
        return dict(scores)
    return {
        hotkey: float(round(min(max(score / middle * 2.0, -_MOST_HALVES), _MOST_HALVES)))
        for hotkey, score in scores.items()
    }


def _measured(
    state: PeerState, outcome: Evaluated | Screened, rating: Rating, ratio: float | None, spec: GauntletSpec
) -> tuple[PeerState, float | None]:
    """The standing after a measured round, with a clean record, and the own-data test's statistic."""
    own = None
    if isinstance(outcome, Evaluated):
        state, own = _tested(state, outcome, spec)
    if ratio is not None:
        worked = state.worked + 1
        state = replace(state, worked=worked, work=averaged(state.work, ratio, spec.work_decay, worked, spec.work_cold))
    measured = replace(
        state,
        rating_mu=rating.mu,
        rating_sigma=rating.sigma,
        evaluated=state.evaluated + 1,
        failures=0,
        inactive=0,
        copied=max(state.copied - 1, 0),
        last_score=outcome.unassigned,
        positive=state.positive or outcome.unassigned > 0.0,
    )
    return measured, own


def _tested(state: PeerState, outcome: Evaluated, spec: GauntletSpec) -> tuple[PeerState, float]:
    """μ with one more own-data test: the smaller of a slow and a fast average, or Gauntlet's average of signs."""
    tested = state.tested + 1
    if spec.mu_rule == "sign":
        own = sign(outcome.assigned, outcome.unassigned)
        return replace(state, tested=tested, mu=(1.0 - spec.mu_decay) * state.mu + spec.mu_decay * own), own
    own = statistic(outcome.assigned, outcome.unassigned, outcome.control, outcome.errors)
    slow = averaged(state.mu_slow, own, spec.mu_decay, tested)
    fast = averaged(state.mu_fast, own, spec.mu_fast, tested)
    return replace(state, tested=tested, mu=min(slow, fast), mu_slow=slow, mu_fast=fast), own


def gate(state: PeerState, spec: GauntletSpec, sight: Sight | None = None) -> float:
    """g, 0…1: how far the own-data test lets pay through, by what it sees (None: all, and all is paid from `mu_full`).

    By rule "t" a ramp of μ from `mu_floor` to `full`, which closes no further than there is sight, times the part of
    `mu_warmup` that is over; by rule "sign" μ itself, and 0 where it is below the floor after the warm-up.
    """
    if spec.mu_rule == "sign":
        return max(state.mu, 0.0) if state.tested < spec.mu_warmup or state.mu >= spec.mu_floor else 0.0
    seen = sight or Sight(1.0, spec.mu_full)
    ramp = min(max((state.mu - spec.mu_floor) / (seen.full - spec.mu_floor), 0.0), 1.0)
    through = 1.0 - seen.seen * (1.0 - ramp)
    return through * (min(state.tested / spec.mu_warmup, 1.0) if spec.mu_warmup else 1.0)


def multiplier(state: PeerState, spec: GauntletSpec) -> float:
    """What failures and absence leave of a PeerScore, 0…1; a measured round restores it to 1."""
    if spec.idle == "nothing":
        return 0.0 if state.failures or state.inactive else 1.0
    failed = FAILURE_MULTIPLIERS[min(state.failures, len(FAILURE_MULTIPLIERS) - 1)]
    return failed * INACTIVE_MULTIPLIER**state.inactive


def worth(state: PeerState, spec: GauntletSpec) -> float:
    """What PeerScore is proportional to, ≥ 0: the mean of LossScores beside the others', or the LossRating."""
    match spec.rating:
        case "mean":
            return max(state.work, 0.0)
        case "openskill":
            return max(state.rating_mu, 0.0)
        case "ordinal":
            return max(state.rating.ordinal, 0.0)
