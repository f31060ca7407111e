"""Who is waited for: the expected peers A of the next round, from what the last records say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from muster.protocol.wire import Record

MEMORY = 3
"""Records looked back on; accepted in `NEEDED` of them makes a peer expected."""

NEEDED = 2

NULL_ROUND = "null_round"
"""Reason of a valid submission in a round that closed with too few of them; it still counts as attendance."""


@dataclass(frozen=True, slots=True)
class Attendance:
    """Of one record: the peers accepted (or valid in a null round), and the peers that submitted anything."""

    accepted: frozenset[bytes]
    present: frozenset[bytes]


def attendance(record: Record) -> Attendance:
    """What one record says about who was there."""
    return Attendance(
        accepted=frozenset(e.public for e in record.entries if e.reason in ("", NULL_ROUND)),
        present=frozenset(e.public for e in record.entries),
    )


def before_genesis(miners: Sequence[bytes]) -> tuple[Attendance, ...]:
    """The history round 0 begins with: A_0 counts as accepted all along, or nobody would be waited for at first."""
    everyone = frozenset(miners)
    return (Attendance(everyone, everyone),) * (MEMORY - 1)


def expected(history: Sequence[Attendance]) -> tuple[bytes, ...]:
    """A of the next round: accepted in ≥ 2 of the last 3 records and not missing in the last, in key order."""
    recent = history[-MEMORY:]
    if not recent:
        return ()
    return tuple(sorted(peer for peer in recent[-1].present if sum(peer in past.accepted for past in recent) >= NEEDED))
