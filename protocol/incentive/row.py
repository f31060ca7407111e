"""The score row: all that one validator says of one peer after one round, each column declared here and nowhere else.

Score file, score store, journal, metrics, status and report are made from these declarations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from muster.protocol.columns import About
from muster.protocol.incentive.rating import START_MU, START_SIGMA, Rating


@dataclass(frozen=True, slots=True)
class PeerState:
    """One peer's standing after some round: the columns that the next round's judgement is made from.

    `evaluated` counts rounds in which the peer was measured; `failures` and `inactive` count failed and absent rounds
    since the last of those, and `last_score` is the LossScore on unassigned data of that round.
    """

    hotkey: Annotated[str, About(6, "the peer")]
    mu: Annotated[float, About(12, "proof of computation", title="μ", low=-1, high=1)] = 0.0
    rating_mu: Annotated[float, About(13, "mean of the LossRating")] = START_MU
    rating_sigma: Annotated[float, About(14, "standard deviation of the LossRating", low=0)] = START_SIGMA
    evaluated: Annotated[int, About(15, "rounds in which it was measured", title="measured")] = 0
    failures: Annotated[int, About(16, "failed rounds since it was last measured", title="failed")] = 0
    inactive: Annotated[int, About(17, "absent rounds since it was last measured", title="absent")] = 0
    last_score: Annotated[float | None, About(18, "LossScore on other data when last measured", "nat/token")] = None
    positive: Annotated[bool, About(19, "whether any LossScore on other data was ever above 0")] = False

    @property
    def rating(self) -> Rating:
        """The LossRating."""
        return Rating(self.rating_mu, self.rating_sigma)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow(PeerState):
    """A standing, what was measured for it in this round, and what it earns.

    The four losses are at θ (`before`) and at θ − c·α·Δ̂ (`after`), over windows that were `assigned` to the peer and
    over others; all are None where it was not measured in this round.
    """

    uid: Annotated[int, About(7, "its slot")]
    assigned_before: Annotated[float | None, About(8, "loss on assigned data before the step", "nat/token")] = None
    assigned_after: Annotated[float | None, About(9, "loss on assigned data after the step", "nat/token")] = None
    unassigned_before: Annotated[float | None, About(10, "loss on other data before the step", "nat/token")] = None
    unassigned_after: Annotated[float | None, About(11, "loss on other data after the step", "nat/token")] = None
    peer_score: Annotated[float, About(20, "PeerScore", title="score", low=0)]
    incentive: Annotated[float, About(21, "part of the pay", "share", title="weight", low=0, high=1)]

    @property
    def losses(self) -> tuple[float | None, ...]:
        """What was measured: assigned before and after the step, unassigned before and after it."""
        return self.assigned_before, self.assigned_after, self.unassigned_before, self.unassigned_after

    @property
    def measured(self) -> bool:
        """Whether the peer's work of this very round was measured."""
        return None not in self.losses
