"""Whose submission is applied, as a pure function of what the ledger says, so that anyone can redo it.

There is one total order over all submissions whose head is valid, known before any payload has been read: payloads are
fetched in it, and the first G that turn out good have the seats. Seats go to scored peers by PeerScore (the
stake-weighted median over validators). A newcomer, who has not yet had a positive LossScore, waits in the reserve: it
takes seats nobody scored wants, and at most a small share of those they do. Who failed to deliver in the last rounds
stands behind all of its kind who did not. Ties are settled by the round's possession beacon.

Who sends others' work has no seat, even where some are free: two that rode on θ's last step beside eight honest peers
cost the model 12.5 of 30 rounds with seats, and 4 so (`benchmarks/gauntlet`); pay is no reason for whoever means harm.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from blake3 import blake3

from muster.protocol.errors import LedgerError
from muster.protocol.reasons import (
    DECISIONS,
    LATE,
    NOT_IN_TIME,
    NOT_ORIGINAL,
    NOT_SELECTED,
    NULL_ROUND,
    PAYLOAD_REASONS,
)
from muster.protocol.rules.attendance import Attendance
from muster.protocol.spec import GauntletSpec, RunSpec
from muster.protocol.wire import Kind, ScoresUsed, UsedScore

DEMOTION = 8
"""Records for which a payload that was not good, or not there, puts a peer behind the others of its kind."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A peer's agreed score, whether it has proven itself once, and whether it sends others' work."""

    score: float
    positive: bool
    copier: bool = False


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
        silent = UsedScore(public, 0.0, False)
        rows = [(table.get(public, silent), used.stake) for table, used in zip(tables, scores, strict=True)]
        agreed[public] = _agree(rows)
    return agreed


def _agree(rows: list[tuple[UsedScore, int]]) -> Standing:
    total = sum(stake for _, stake in rows)
    positive = 2 * sum(stake for row, stake in rows if row.positive) > total
    copier = 2 * sum(stake for row, stake in rows if row.copier) > total
    below = 0
    for score, stake in sorted((row.score, stake) for row, stake in rows):
        below += stake
        if 2 * below >= total:
            return Standing(score, positive, copier)
    raise AssertionError("a median of nothing")


def order(
    candidates: Collection[bytes],
    scores: Sequence[ScoresUsed],
    past: Sequence[Attendance],
    beacon: bytes,
    gauntlet: GauntletSpec,
) -> tuple[bytes, ...]:
    """All candidates, whoever has the first claim to a seat first, and behind all others who sent others' work.

    `past` is what the last records say, oldest first; `beacon` is the round's possession beacon.

    Raises:
        LedgerError: a score that is negative or not finite.
    """
    known = standings(scores)
    failed = {peer for seen in past[-DEMOTION:] for peer in seen.failed}
    nobody = Standing(0.0, False)

    def rank(public: bytes) -> tuple[bool, float, bytes]:
        return public in failed, -known.get(public, nobody).score, blake3(beacon + public).digest()

    ranked = sorted(candidates, key=rank)
    if not known:
        veterans = {peer for seen in past for peer in seen.accepted}
        return tuple(sorted(ranked, key=lambda public: public not in veterans))
    copied = [public for public in ranked if known.get(public, nobody).copier]
    ranked = [public for public in ranked if public not in copied]
    proven = [public for public in ranked if known.get(public, nobody).positive]
    newcomers = [public for public in ranked if not known.get(public, nobody).positive]
    contested = math.floor(gauntlet.newcomer_share * gauntlet.seats) if proven else gauntlet.seats
    reserve = min(len(newcomers), max(contested, gauntlet.seats - len(proven)))
    first = gauntlet.seats - reserve
    return (*proven[:first], *newcomers[:reserve], *proven[first:], *newcomers[reserve:], *copied)


def seat(ranked: Sequence[bytes], failed: Collection[bytes], seats: int) -> tuple[bytes, ...]:
    """Who has a seat: the first `seats` in order whose payload is good, in that order."""
    return tuple(public for public in ranked if public not in failed)[:seats]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a round decides: whether θ moves, by whose work (in key order), and the reason of each sealed submission."""

    kind: Kind
    accepted: tuple[bytes, ...]
    reasons: Mapping[bytes, str]


def choose(
    known: Mapping[bytes, str],
    scores: Sequence[ScoresUsed],
    past: Sequence[Attendance],
    beacon: bytes,
    spec: RunSpec,
) -> Choice:
    """Decide a round by `known`: what is known to be wrong with each sealed submission ("" = nothing).

    Candidates are those with nothing wrong or a reason of the payload's class. Ahead of the last seat everybody is
    accepted or has such a reason; behind it all are `not_selected`, whatever is known of their payloads, so that a
    leader who has read more of them decides no otherwise. Who last sent others' work is `not_original` instead, unless
    there would be fewer than `min_submissions` without it: nobody's judgement stops a run. With fewer good ones nothing
    is applied, and the good ones are `null_round`. Where the spec takes late work, what was not there in time is
    `late`. The decisions of an earlier call change nothing: a record's own reasons give the record again.

    Raises:
        LedgerError: a score that is negative or not finite.
    """
    if spec.outer.max_age:
        known = {public: LATE if reason in NOT_IN_TIME else reason for public, reason in known.items()}
    failed = {public for public, reason in known.items() if reason in PAYLOAD_REASONS}
    candidates = failed | {public for public, reason in known.items() if not reason or reason in DECISIONS}
    ranked = order(candidates, scores, past, beacon, spec.gauntlet)
    copied = {public for public, standing in standings(scores).items() if standing.copier}
    own = sum(public not in copied for public in ranked)
    accepted = seat(ranked[:own], failed, spec.gauntlet.seats)
    full = len(accepted) == spec.gauntlet.seats
    if len(accepted) < spec.clock.min_submissions:
        accepted, full = seat(ranked, failed, spec.clock.min_submissions), True
    if len(accepted) < spec.clock.min_submissions:
        return Choice(Kind.NULL, (), {**known, **dict.fromkeys(accepted, NULL_ROUND)})
    last = ranked.index(accepted[-1])
    behind = {public: NOT_ORIGINAL if public in copied else NOT_SELECTED for public in ranked[last + 1 :]}
    if not full:  # every other has a seat or a reason of the payload's class
        behind = {public: reason for public, reason in behind.items() if public in copied}
    return Choice(Kind.ROUND, tuple(sorted(accepted)), {**known, **dict.fromkeys(accepted, ""), **behind})
