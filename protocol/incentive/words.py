"""What a score row comes to, in words: the same ones in a miner's log and status, in the report and in `explain`."""

from __future__ import annotations

from collections.abc import Iterable

from muster.protocol.incentive.row import ABSENT, FAILED, NOT_EVALUATED, ScoreRow
from muster.protocol.reasons import sentence_of

UNPAID = "nothing is paid for such a round"


def last_reason(row: ScoreRow) -> str:
    """Why a peer earns what it earns after a round: what takes most from its pay, in one sentence."""
    if row.outcome == FAILED:
        return sentence_of(row.reason)
    if row.outcome == ABSENT:
        return "It submitted nothing." if row.peer_score else f"It submitted nothing, and {UNPAID}."
    if not row.peer_score:
        return _unpaid(row)
    if row.gate < 1.0:
        return f"The own-data test lets {row.gate:.0%} of its pay through: {_tests(row)}."
    if row.outcome == NOT_EVALUATED:
        return "It was not measured in this round; what it showed before counts."
    return "It is paid for all its work."


def _unpaid(row: ScoreRow) -> str:
    """Why a peer with which nothing is wrong in this round has a PeerScore of 0."""
    if not row.windows:
        return f"The record has no valid submission of it, and {UNPAID}."
    if not row.evaluated:
        return "It has not been measured yet."
    if not row.multiplier:
        return "It has not been measured since it failed or was absent."
    if not row.gate:
        return f"The own-data test lets no pay through yet: {_tests(row)}."
    return "On average its updates do not lower the loss."


def _tests(row: ScoreRow) -> str:
    return f"μ is {row.mu:.3f} after {row.tested} {'test' if row.tested == 1 else 'tests'}"


def ranked(rows: Iterable[ScoreRow]) -> int:
    """How many peers of a round were measured, and so have a rank."""
    return sum(row.rank is not None for row in rows)


def in_short(rank: int | None, peers: int, share: float, reason: str) -> str:
    """A peer's round in one line: its place among `peers` by LossScore, its share of the pay, and why."""
    place = f"rank {rank} of {peers}" if rank is not None else "no rank"
    return f"{place}, share {share:.3f}; {reason}"
