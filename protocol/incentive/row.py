"""The score row: all that one validator says of one peer after one round, each column declared here and nowhere else.

Score file, score store, journal, metrics, status and report are made from these declarations. What was measured comes
first; everything after it anybody computes again from that and from the row of the round before (`score.judge`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from muster.protocol.columns import About
from muster.protocol.incentive.rating import START_MU, START_SIGMA, Rating

EVALUATED = "evaluated"
SCREENED = "screened"
FAILED = "failed"
ABSENT = "absent"
NOT_EVALUATED = "not_evaluated"
MOST_LOSS = 1e6
"""Nat/token: a loss beyond this either way is no number that anything can be made of."""

COPY_POINTS = 2
MOST_COPY_POINTS = 8
"""What a round of others' work adds to a peer's points, of which a round of its own takes one; and the most of them, so
that six rounds of own work end it."""
COPIER = 3
"""Points from which a peer has no claim to a seat: one judgement, which luck can bring about, is not enough, and who
copies every second round comes to stay there."""

_LOSS, _ERROR = {"low": -MOST_LOSS, "high": MOST_LOSS}, {"low": 0.0, "high": MOST_LOSS}

OUTCOMES = frozenset({EVALUATED, SCREENED, FAILED, ABSENT, NOT_EVALUATED})
"""What a round can be for a peer (`score.Outcome`)."""


@dataclass(frozen=True, slots=True)
class PeerState:
    """One peer's standing after some round: the columns that the next round's judgement is made from.

    `evaluated` counts rounds in which the peer was measured, `tested` those with an own-data test, `worked` those that
    `work` is the mean of; `failures` and `inactive` count failed and absent rounds since it was last measured, and
    `last_score` is the LossScore on unassigned data of that round.
    """

    hotkey: Annotated[str, About(6, "the peer")]
    mu: Annotated[float, About(12, "proof of computation", title="μ", low=-1, high=1)] = 0.0
    rating_mu: Annotated[float, About(13, "mean of the LossRating", low=-1000, high=1000)] = START_MU
    rating_sigma: Annotated[float, About(14, "standard deviation of the LossRating", low=0, high=1000)] = START_SIGMA
    evaluated: Annotated[int, About(15, "rounds in which it was measured", title="measured")] = 0
    failures: Annotated[int, About(16, "failed rounds since it was last measured", title="failed")] = 0
    inactive: Annotated[int, About(17, "absent rounds since it was last measured", title="absent")] = 0
    last_score: Annotated[
        float | None,
        About(18, "LossScore on other data when last measured", "nat/token", **_LOSS),
    ] = None
    positive: Annotated[bool, About(19, "whether any LossScore on other data was ever above 0")] = False
    mu_slow: Annotated[float, About(22, "the own-data test averaged over twenty rounds", low=-1, high=1)] = 0.0
    mu_fast: Annotated[float, About(23, "the same over five rounds", low=-1, high=1)] = 0.0
    tested: Annotated[int, About(24, "rounds with an own-data test")] = 0
    work: Annotated[float, About(25, "mean of the LossScore beside the others'", title="work", low=-3, high=2)] = 0.0
    worked: Annotated[int, About(26, "rounds of that mean")] = 0
    mixture: Annotated[float, About(27, "mean of what it has in common with the last round's work", low=0)] = 0.0
    compared: Annotated[int, About(28, "rounds of that mean")] = 0
    copied: Annotated[int, About(29, "points for sending others' work")] = 0

    @property
    def copier(self) -> bool:
        """Whether it has no claim to a seat until it has sent its own work for some rounds."""
        return self.copied >= COPIER

    @property
    def rating(self) -> Rating:
        """The LossRating."""
        return Rating(self.rating_mu, self.rating_sigma)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow(PeerState):
    """A standing, what was measured for it in this round, and what it earns.

    The four losses are at θ (`before`) and at θ − c·α·w·Δ̂ (`after`), over windows that were `assigned` to the peer and
    over others; they, the control and the errors are None where it was not evaluated in this round.
    """

    uid: Annotated[int, About(7, "its slot")]
    assigned_before: Annotated[
        float | None, About(8, "loss on assigned data before the step", "nat/token", **_LOSS)
    ] = None
    assigned_after: Annotated[float | None, About(9, "loss on assigned data after the step", "nat/token", **_LOSS)] = (
        None
    )
    unassigned_before: Annotated[
        float | None, About(10, "loss on other data before the step", "nat/token", **_LOSS)
    ] = None
    unassigned_after: Annotated[float | None, About(11, "loss on other data after the step", "nat/token", **_LOSS)] = (
        None
    )
    peer_score: Annotated[float, About(20, "PeerScore", title="score", low=0)]
    incentive: Annotated[float, About(21, "part of the pay", "share", title="weight", low=0, high=1)]
    outcome: Annotated[str, About(30, "what the round was for it", slug=True)] = NOT_EVALUATED
    reason: Annotated[str, About(31, "why it failed", slug=True)] = ""
    windows: Annotated[int, About(32, "windows it declared")] = 0
    accepted: Annotated[bool, About(33, "whether its work was applied")] = False
    drawn: Annotated[bool, About(34, "whether it was drawn to be measured exactly")] = False
    screened: Annotated[float | None, About(35, "LossScore on other data to first order", "nat/token", **_LOSS)] = None
    control_assigned: Annotated[
        float | None, About(36, "the control's gain on assigned data", "nat/token", **_LOSS)
    ] = None
    control_unassigned: Annotated[float | None, About(37, "the control's gain on other data", "nat/token", **_LOSS)] = (
        None
    )
    assigned_spread: Annotated[
        float | None, About(38, "standard error of the gain, assigned", "nat/token", **_ERROR)
    ] = None
    unassigned_spread: Annotated[
        float | None, About(39, "standard error of the gain, other", "nat/token", **_ERROR)
    ] = None
    assigned_error: Annotated[float | None, About(40, "the same less the control, assigned", "nat/token", **_ERROR)] = (
        None
    )
    unassigned_error: Annotated[float | None, About(41, "the same less the control, other", "nat/token", **_ERROR)] = (
        None
    )
    factor: Annotated[float | None, About(42, "b, by how much of the control", low=0, high=3)] = None
    own_data: Annotated[float | None, About(43, "the own-data test's statistic", low=-1, high=1)] = None
    ratio: Annotated[float | None, About(44, "LossScore beside the accepted ones' median", low=-3, high=2)] = None
    rank: Annotated[int | None, About(45, "its place by LossScore")] = None
    gate: Annotated[float, About(46, "how far the own-data test lets pay through", low=0, high=1)] = 0.0
    multiplier: Annotated[float, About(47, "what failures and absences leave", low=0, high=1)] = 1.0
    clone_of: Annotated[str | None, About(48, "whose update of this round is nearest")] = None
    clone: Annotated[float | None, About(49, "what it has in common with it, beside honest ones", low=0)] = None
    copy_of: Annotated[str | None, About(50, "whose update of the last round is nearest")] = None
    copy: Annotated[float | None, About(51, "what it has in common with it, beside honest ones", low=0)] = None

    @property
    def measurements(self) -> tuple[float | None, ...]:
        """What an exact measurement gives: losses, assigned before and after the step, other before and after it; the
        control's gains; four standard errors."""
        return (
            self.assigned_before,
            self.assigned_after,
            self.unassigned_before,
            self.unassigned_after,
            self.control_assigned,
            self.control_unassigned,
            self.assigned_spread,
            self.unassigned_spread,
            self.assigned_error,
            self.unassigned_error,
        )

    @property
    def measured(self) -> bool:
        """Whether the peer's work of this very round was measured exactly."""
        return None not in self.measurements
