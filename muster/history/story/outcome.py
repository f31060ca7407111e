"""What the ledger itself says of a round: what became of each submission, who was missed, and what is waited for."""

from __future__ import annotations

from dataclasses import dataclass

from muster.history.story.facts import LedgerRound, Names
from muster.history.waits import Named, sentences
from muster.protocol.errors import LedgerError
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger.waiting import waiting as waiting_for
from muster.protocol.reasons import DECISIONS, KEY_MISSING, LATE, PAYLOAD_REASONS, UNAVAILABLE, sentence_of
from muster.protocol.rules.selection import standings
from muster.protocol.wire import Record


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of one sealed submission.

    `place` is its place in the order of seats, from 1, None where it was no candidate; `reason` is "" where it was
    accepted; `score` is what steered, None where no validator had a row; `weight` the smallest and the largest over
    the tensors, None where it was not accepted; `late` the earlier round that it is work of, None of the round's own.
    """

    name: str
    hotkey: str
    place: int | None
    reason: str
    score: float | None
    weight: tuple[float, float] | None
    late: int | None = None

    @property
    def sentence(self) -> str:
        """What its reason means; "" where it was accepted."""
        return sentence_of(self.reason)

    def to_json_object(self) -> dict[str, object]:
        """One of `submissions` in what `muster story --json` prints."""
        return {
            "name": self.name,
            "hotkey": self.hotkey,
            "place": self.place,
            "accepted": not self.reason,
            "reason": self.reason,
            "sentence": self.sentence,
            "score": self.score,
            "weight": self.weight,
            "late": self.late,
        }


@dataclass(frozen=True, slots=True)
class Missed:
    """Something that had not come when the leader went on: whose, what, and the block at which it did."""

    name: str
    what: str
    block: int


def submissions(seen: LedgerRound, names: Names) -> list[Submission]:
    """Every entry of the round's record, in the order of seats; who was no candidate at the end."""
    record = seen.record
    if record is None:
        return []
    places, scores = _standing(seen, record)
    weights = iter(record.weights)
    found = []
    for entry in record.entries:
        row = None if entry.reason else next(weights)
        own = entry.round == record.round
        found.append(
            Submission(
                name=names.peer(entry.public),
                hotkey=hotkey_of(entry.public),
                place=places.get(entry.public) if own else None,
                reason=entry.reason,
                score=scores.get(entry.public),
                weight=None if row is None else (float(row.min()), float(row.max())),
                late=None if own else entry.round,
            )
        )
    return sorted(found, key=lambda row: (row.place or len(found) + 1, row.name))


def _standing(seen: LedgerRound, record: Record) -> tuple[dict[bytes, int], dict[bytes, float]]:
    """Places and scores by peer; none where the record's scores are not valid."""
    candidates = [e.public for e in record.sealed if not e.reason or e.reason in DECISIONS | PAYLOAD_REASONS]
    try:
        ranked = seen.tip.order(candidates, record.scores)
        scores = {peer: standing.score for peer, standing in standings(record.scores).items()}
    except LedgerError:
        return {}, {}
    return {peer: place for place, peer in enumerate(ranked, 1)}, scores


def missed(seen: LedgerRound, names: Names) -> list[Missed]:
    """What was waited for in vain: submissions of expected peers, then keys and payloads of sealed ones."""
    found: list[Missed] = []
    if seen.seal is not None and not seen.closing:
        absent = frozenset(seen.tip.opening.expected) - seen.sealed
        found += (Missed(names.peer(peer), "submission", seen.seal.block.number) for peer in absent)
    if seen.record is not None and (at := seen.decided_at) is not None:  # a closing record has no submissions
        what = {KEY_MISSING: "key", UNAVAILABLE: "payload", LATE: "key or payload"}
        found += (Missed(names.peer(e.public), what[e.reason], at) for e in seen.record.sealed if e.reason in what)
    return sorted(found, key=lambda one: (one.block, one.name))


def waiting(seen: LedgerRound, names: Names, revealing: int = 0) -> list[str]:
    """What an open round waits for, by what is in the buckets; nothing once its record is anchored.

    `revealing` is the block from which the time for keys counts, where it is known to be later than the seal's own.
    """
    if seen.anchored:
        return []
    found = waiting_for(seen.tip, seen.open_round(revealing), seen.unfinal)
    return sentences(found, seen.tip, Named(names.peer, seen.silent))
