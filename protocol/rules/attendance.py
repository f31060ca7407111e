"""Who is waited for: the expected peers A of the next round, from what the last records say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from muster.protocol.reasons import NULL_ROUND, PAYLOAD_REASONS
from muster.protocol.wire import Kind, Record

MEMORY = 16
"""Records remembered."""

RECENT = 3
"""Records looked back on; accepted in `NEEDED` of them makes a peer expected."""

NEEDED = 2

MISSES = 2
"""A peer that was missing so often within the memory must be accepted in all `RECENT` records."""


@dataclass(frozen=True, slots=True)
class Attendance:
    """Of one record: whose work was good, who had an entry at all, and whose key or payload was not good or not there.

    Good is accepted or, in a null record (`null`), valid. Peers are public keys.
    """

    accepted: frozenset[bytes]
    present: frozenset[bytes]
    failed: frozenset[bytes] = frozenset()
    null: bool = False

    def missing(self, peer: bytes) -> bool:
        """Whether the round waited for it in vain, if it waited: no entry, or a reason of the payload's class."""
        return peer not in self.present or peer in self.failed


def attendance(record: Record) -> Attendance:
    """What one record says about who was there. That it takes late work in changes nothing: that was not there."""
    return Attendance(
        accepted=frozenset(e.public for e in record.sealed if e.reason in ("", NULL_ROUND)),
        present=frozenset(e.public for e in record.sealed),
        failed=frozenset(e.public for e in record.sealed if e.reason in PAYLOAD_REASONS),
        null=record.kind is Kind.NULL,
    )


def remember(past: Sequence[Attendance], record: Record) -> tuple[Attendance, ...]:
    """The past after one more record, oldest first."""
    return (*past, attendance(record))[-MEMORY:]


def before_genesis(miners: Sequence[bytes]) -> tuple[Attendance, ...]:
    """The past round 0 begins with: A_0 counts as accepted all along, or nobody would be waited for at first."""
    everyone = frozenset(miners)
    return (Attendance(everyone, everyone),) * NEEDED


def expected(past: Sequence[Attendance]) -> tuple[bytes, ...]:
    """A of the next round, in key order: accepted in ≥ 2 of the last 3 records and not missing in the last.

    Who was missing twice since it was first accepted within the memory needs all of the last 3, so that a peer that
    comes and goes costs few deadlines. After a null record whoever was valid in it is expected: it is there now, and
    waiting for nobody is waiting for the deadline. A record in which nobody's work was good says nothing about who is
    reliable (more likely its leader was cut off), and is passed over.
    """
    counted = [seen for seen in past if seen.accepted]
    if not counted:
        return ()
    last = counted[-1]
    if last.null:
        return tuple(sorted(last.accepted))
    return tuple(sorted(peer for peer in last.present if not last.missing(peer) and _reliable(peer, counted)))


def _reliable(peer: bytes, counted: Sequence[Attendance]) -> bool:
    times = sum(peer in seen.accepted for seen in counted[-RECENT:])
    if times < NEEDED:
        return False
    first = next(i for i, seen in enumerate(counted) if peer in seen.accepted)
    return times == RECENT or sum(seen.missing(peer) for seen in counted[first:]) < MISSES


def seen_in(past: Sequence[Attendance]) -> frozenset[bytes]:
    """Everybody who had an entry in one of these records."""
    return frozenset(peer for seen in past for peer in seen.present)
