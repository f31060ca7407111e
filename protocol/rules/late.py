"""Late work: what was sealed in its round and could not be had in it, and who of it may still be taken in.

Its head was judged in its own round and says by digest what the work is, so nothing that anybody learnt since can be in
it. It is taken in once, where seats are free, by what its age weighs, and makes no measure for others (`weighing`).

Nobody measures it, so nobody is paid for it; and so that nobody lives on what is not measured, it is taken only from
who has shown its work: proven and no copier by the scores used, and accepted in time in one of the records remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from muster.protocol.errors import LedgerError, WireError
from muster.protocol.reasons import LATE
from muster.protocol.rules.attendance import Attendance
from muster.protocol.rules.selection import standings
from muster.protocol.spec.history import SpecHistory
from muster.protocol.wire import Entry, Record, ScoresUsed, decode_head, head_digest


@dataclass(frozen=True, slots=True, order=True)
class Late:
    """Work that may still be taken in: the round it was sealed in, whose it is, the slot it was made for, the digest of
    its head, and that of the seal that its key must answer."""

    round: int
    public: bytes
    uid: int
    head: bytes
    seal: bytes

    @property
    def place(self) -> tuple[int, bytes]:
        """What a record names it by."""
        return self.round, self.public

    @property
    def slot(self) -> tuple[int, int]:
        """What is accepted once: one slot's work of one round."""
        return self.round, self.uid


def still_open(late: Sequence[Late], record: Record, history: SpecHistory) -> tuple[Late, ...]:
    """The late work that may be taken in after a record, by round and hotkey; `late` is what might have been before it.

    What it accepts, late or in time, leaves nothing open of that slot and round. `history` is the one after it.

    Raises:
        LedgerError: the head of an entry that counts here is not readable; no valid record has one.
    """
    oldest = record.round + 1 - history.at(record.round + 1).outer.max_age
    taken = {place_of(entry) for entry in record.late}
    slots = {one.slot for one in late if one.place in taken}
    left = [one for one in late if one.slot not in slots and one.round >= oldest]
    return tuple(sorted(left + (_opened(record) if record.round >= oldest else [])))


def _opened(record: Record) -> list[Late]:
    """What a record itself leaves open: what came too late for it, of slots of which it accepts nothing."""
    missed = [entry for entry in record.sealed if entry.reason == LATE]
    seated = {_uid(entry, record) for entry in record.seated} if missed else set[int]()
    found = (Late(record.round, e.public, _uid(e, record), head_digest(e.head), record.seal) for e in missed)
    return [one for one in found if one.uid not in seated]


def _uid(entry: Entry, record: Record) -> int:
    try:
        return decode_head(entry.head, record.run_id).header.uid
    except WireError as error:
        raise LedgerError(f"a head that is said to be valid is not readable: {error.reason}") from error


def place_of(entry: Entry) -> tuple[int, bytes]:
    """What an entry names its work by."""
    return entry.round, entry.public


def admissible(
    late: Sequence[Late],
    round_: int,
    scores: Sequence[ScoresUsed],
    past: Sequence[Attendance],
    history: SpecHistory,
) -> tuple[Late, ...]:
    """What of it the record of a round that uses these scores may take in, in the order given.

    Work of an age that weighs nothing is left, and so is work that was compressed by another k.

    Raises:
        LedgerError: a score that is negative or not finite.
    """
    spec, known = history.at(round_), standings(scores)
    veterans = {peer for seen in past for peer in seen.accepted}

    def may(one: Late) -> bool:
        standing = known.get(one.public)
        proven = not known or (standing is not None and standing.positive and not standing.copier)
        same = history.at(one.round).sparse == spec.sparse
        return proven and same and one.public in veterans and spec.outer.age_weight(round_ - one.round) > 0.0

    return tuple(one for one in late if may(one))
