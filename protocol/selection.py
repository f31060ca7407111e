"""Which valid submissions are applied, as a pure function of what the record names, so that anyone can redo it.

Seats go to scored peers by PeerScore (the stake-weighted median over validators). A newcomer, who has not yet had a
positive LossScore, waits in the reserve: it takes seats nobody scored wants, and at most a small share of those
they do. Ties, and everything while there are no scores at all, are settled by the round's beacon.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3

from muster.protocol.errors import LedgerError
from muster.protocol.spec import GauntletSpec
from muster.protocol.wire import ScoreRow, ScoresUsed

NOT_SELECTED = "not_selected"
"""Reason of a valid submission that got no seat."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A peer's agreed score and whether it has proven itself once."""

    score: float
    positive: bool


def standings(scores: Sequence[ScoresUsed]) -> dict[bytes, Standing]:
    """The stake-weighted lower median of every scored peer, in key order.

    A validator that says nothing of a peer counts as 0 with its whole stake, so no minority can lift a peer alone.

    Raises:
        LedgerError: a score that is negative or not finite.
    """
    tables = [{row.public: row for row in used.rows} for used in scores]
    for row in (row for table in tables for row in table.values()):
        if not (math.isfinite(row.score) and row.score >= 0):
            raise LedgerError(f"a score of {row.score} is not a PeerScore")
    agreed = {}
    for public in sorted({public for table in tables for public in table}):
        silent = ScoreRow(public, 0.0, False)
        rows = [(table.get(public, silent), used.stake) for table, used in zip(tables, scores, strict=True)]
        agreed[public] = _agree([(row.score, stake, row.positive) for row, stake in rows])
    return agreed


def _agree(rows: list[tuple[float, int, bool]]) -> Standing:
    total = sum(stake for _, stake, _ in rows)
    positive = 2 * sum(stake for _, stake, flag in rows if flag) > total
    below = 0
    for score, stake, _ in sorted(rows):
        below += stake
        if 2 * below >= total:
            return Standing(score, positive)
    raise AssertionError("a median of nothing")


def select(
    candidates: Sequence[bytes], scores: Sequence[ScoresUsed], beacon: bytes, gauntlet: GauntletSpec
) -> tuple[bytes, ...]:
    """The peers whose submissions are applied, in key order; `candidates` are all whose submission is valid."""
    if len(candidates) <= gauntlet.seats:
        return tuple(sorted(candidates))
    known = standings(scores)
    nobody = Standing(0.0, False)

    def rank(public: bytes) -> tuple[float, bytes]:
        return -known.get(public, nobody).score, blake3(beacon + public).digest()

    proven = sorted((p for p in candidates if known.get(p, nobody).positive), key=rank)
    newcomers = sorted((p for p in candidates if not known.get(p, nobody).positive), key=rank)
    contested = math.floor(gauntlet.newcomer_share * gauntlet.seats) if proven else gauntlet.seats
    free = max(gauntlet.seats - len(proven), 0)
    for_newcomers = min(len(newcomers), max(contested, free))
    return tuple(sorted(proven[: gauntlet.seats - for_newcomers] + newcomers[:for_newcomers]))
