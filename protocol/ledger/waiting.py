"""What an open round waits for, for whoever looks from outside: a rule of its own, so that every command says the same.

    submit ──seal──▶ reveal ──keys──▶ record ──anchor──▶ the next round's submit … ──closing record──▶ closed
                                                                                        └─▶ not final ─┘

A pure value of where the ledger stands, and of what chain and buckets show at a block. What no outsider can know is
left out: a leader that was away gives the round its full length again from its first look on, and counts the time for
keys from when its seal was public.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from muster.protocol.ledger import RESCUE, Tip, forkchoice
from muster.protocol.wire import Seal


class Stage(Enum):
    """How far a run is, as a person calls it."""

    SUBMIT = "submit"
    REVEAL = "reveal"
    RECORD = "record"
    NOT_FINAL = "not final"
    CLOSED = "closed"


class Lack(Enum):
    """What has not come yet."""

    SUBMISSIONS = "submissions"
    MORE_SUBMISSIONS = "more_submissions"
    DEADLINE = "deadline"
    MIN_BLOCK = "min_block"
    SEAL = "seal"
    KEYS = "keys"
    SCORES = "scores"
    RECORD = "record"
    ANCHOR = "anchor"
    VOTES = "votes"
    FINAL_BLOCK = "final_block"


@dataclass(frozen=True, slots=True)
class Vote:
    """An anchor that the chain shows: whose, of which record of which round, and its block."""

    public: bytes
    round: int
    digest: bytes
    block: int


@dataclass(frozen=True, slots=True)
class Unfinal:
    """The oldest record that may still be taken back: its round, and the voters that have not anchored it.

    Where there are none of these, the block that shows the last vote is not final yet.
    """

    round: int
    missing: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """The open round as chain and buckets show it at block `block`; peers are public keys.

    `there` are those whose next object is in their bucket (the head before the seal, the key after it), `scored` the
    validators whose scores may steer and are in, `recorded` says that a record lies there which nothing proves.
    `revealing` is the block from which the time for keys counts, where it is known to be later than the seal's own.
    """

    block: int
    seal: Seal | None = None
    revealing: int = 0
    there: frozenset[bytes] = frozenset()
    scored: frozenset[bytes] = frozenset()
    recorded: bool = False


@dataclass(frozen=True, slots=True)
class Awaited:
    """One thing that is waited for: of whom (public keys, ascending), and until which block; None: till it comes."""

    what: Lack
    whom: tuple[bytes, ...]
    until: int | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a run waits for at block `block`.

    `leader` goes on without what is awaited when its block has come. `turn` is the newest turn that may close the
    round now, `next_turn` the block from which on another leader may, None where none ever may. `late` are those whose
    time to do what is awaited of them has passed: a block that is named lies in the past by their doing only. `rescue`
    is the block from which on whom the owner names may close the round.
    """

    round: int
    phase: Stage
    block: int
    leader: bytes
    turn: int
    next_turn: int | None
    awaited: tuple[Awaited, ...]
    late: tuple[bytes, ...]
    unfinal: Unfinal | None
    rescue: int

    @property
    def movers(self) -> tuple[bytes, ...]:
        """Who can move it now."""
        return _distinct(public for one in self.awaited for public in one.whom)


def in_touch(tip: Tip, votes: Sequence[Vote], block: int) -> tuple[bytes, ...]:
    """Of the list those whose votes count at a block, by the rule of fork choice; all where it is nobody's."""
    cast = [forkchoice.Vote(vote.public, vote.block, None) for vote in sorted(votes, key=lambda vote: vote.block)]
    return tuple(tip.roll.poll(cast, block, tip.roll.patience(cast)).stands) or tip.leaders


def unfinal(voters: Sequence[bytes], votes: Sequence[Vote], records: Sequence[bytes], final: int) -> Unfinal | None:
    """The oldest record of a ledger that is not final; None where all are.

    Args:
        voters: whose votes count; more than half of them have to stand on a record.
        votes: in any order. One for another ledger's record is none for this one.
        records: the digests of the ledger's records, round by round from 0.
        final: the newest final block's height.
    """
    shown, certain = dict.fromkeys(voters, -1), dict.fromkeys(voters, -1)
    for vote in votes:
        if vote.public in shown and vote.round < len(records) and records[vote.round] == vote.digest:
            shown[vote.public] = max(shown[vote.public], vote.round)
            if vote.block <= final:
                certain[vote.public] = max(certain[vote.public], vote.round)
    newest = sorted(certain.values(), reverse=True)[len(voters) // 2]  # more than half stand on it or after it
    oldest = newest + 1
    if oldest >= len(records):
        return None
    return Unfinal(oldest, tuple(sorted(public for public, round_ in shown.items() if round_ < oldest)))


def waiting(tip: Tip, seen: Seen, held: Unfinal | None = None) -> Waiting:
    """What the run waits for; of an open one never nothing, and never of nobody.

    Args:
        tip: where the ledger stands: all records that the chain proves are in it.
        seen: its open round; of a closed ledger only the block counts.
        held: the oldest record that is not final.
    """
    turn = 0 if tip.closed else tip.turn_at(seen.block)
    next_turn = None if tip.closed or len(tip.leaders) == 1 else tip.turn_begins(turn + 1)
    phase, awaited = _after_the_end(held) if tip.closed else _Open(tip, seen, held).answer()
    return Waiting(
        round=tip.round,
        phase=phase,
        block=seen.block,
        leader=tip.leader(turn),
        turn=turn,
        next_turn=next_turn,
        awaited=awaited,
        late=_late(tip, seen.block, _turns(tip, 0, turn - 1), awaited),
        unfinal=held,
        rescue=tip.turn_begins(RESCUE),
    )


_Answer = tuple[Stage, tuple[Awaited, ...]]


def _after_the_end(held: Unfinal | None) -> _Answer:
    if held is None:
        return Stage.CLOSED, ()
    what = Lack.VOTES if held.missing else Lack.FINAL_BLOCK
    return Stage.NOT_FINAL, (Awaited(what, held.missing, None),)


def _turns(tip: Tip, first: int, last: int) -> range:
    """The turns of the different leaders that had one of these, in order."""
    return range(max(first, last + 1 - len(tip.leaders)), last + 1)


def _late(tip: Tip, block: int, over: range, awaited: Sequence[Awaited]) -> tuple[bytes, ...]:
    """Whose time has passed: of a leader where the turns that are over are his, of all where none is."""
    if not over:
        return _distinct(
            public for one in awaited if one.until is not None and one.until <= block for public in one.whom
        )
    earlier = frozenset(tip.leader(turn) for turn in over)
    return _distinct(public for one in awaited if one.what in _CLOSING for public in one.whom if public in earlier)


_CLOSING = frozenset((Lack.SEAL, Lack.RECORD, Lack.ANCHOR))
"""What leaders owe an open round."""


class _Open:
    """What an open round waits for."""

    def __init__(self, tip: Tip, seen: Seen, held: Unfinal | None) -> None:
        self._tip = tip
        self._seen = seen
        self._held = held
        self._turn = tip.turn_at(seen.block)

    def answer(self) -> _Answer:
        """The phase, and what is awaited in it."""
        tip, held = self._tip, self._held
        if self._seen.recorded:
            return Stage.RECORD, (self._closing(Lack.ANCHOR, tip.opening.anchor_by),)
        if self._seen.seal is not None:
            return self._sealed(self._seen.seal)
        if held is not None and held.round <= tip.round - tip.spec.clock.finality:
            what = Lack.VOTES if held.missing else Lack.FINAL_BLOCK
            return Stage.NOT_FINAL, (Awaited(what, held.missing or self._closers(), None),)
        return Stage.SUBMIT, (self._unsealed(),)

    def _unsealed(self) -> Awaited:
        """What keeps the leader from sealing, as `round.ready_to_seal` has it."""
        opening, block = self._tip.opening, self._seen.block
        missing = tuple(sorted(frozenset(opening.expected) - self._seen.there))
        if block >= opening.deadline:
            return self._closing(Lack.SEAL, opening.deadline)
        if not opening.expected:
            return self._closing(Lack.DEADLINE, opening.deadline)
        if missing:
            return Awaited(Lack.SUBMISSIONS, missing, opening.deadline)
        if len(opening.expected) < self._tip.spec.clock.min_submissions:
            return self._closing(Lack.MORE_SUBMISSIONS, opening.deadline)
        if block < opening.min_block:
            return self._closing(Lack.MIN_BLOCK, opening.min_block)
        return self._closing(Lack.SEAL, opening.deadline)

    def _sealed(self, seal: Seal) -> _Answer:
        """What keeps the leader from deciding, as `round.ready_to_record` has it."""
        tip, seen = self._tip, self._seen
        since = max(seal.block.number, seen.revealing)
        reveal, grace = since + tip.spec.clock.reveal, since + tip.spec.clock.grace
        owing = frozenset(peer for peer, _ in seal.headers) - seen.there
        expected = frozenset(tip.opening.expected)
        awaited = [
            Awaited(Lack.KEYS, tuple(sorted(peers)), until)
            for peers, until in ((owing & expected, reveal), (owing - expected, grace))
            if peers and seen.block < until
        ]
        phase = Stage.REVEAL if awaited else Stage.RECORD
        unscored, scored = tip.validators - seen.scored, reveal + tip.spec.gauntlet.score_wait
        if tip.score_rounds and unscored and seen.block < scored:
            awaited.append(Awaited(Lack.SCORES, tuple(sorted(unscored)), scored))
        return phase, tuple(awaited) or (self._closing(Lack.RECORD, tip.opening.anchor_by),)

    def _closing(self, what: Lack, until: int) -> Awaited:
        """What a leader does, by its own turn's end where that is not the first."""
        if self._turn:
            until = self._tip.turn_begins(self._turn + 1)
        return Awaited(what, self._closers(), until)

    def _closers(self) -> tuple[bytes, ...]:
        """Who may close the round now: from the turn that has sealed it, else from the first, to the newest."""
        first = self._seen.seal.turn if self._seen.seal is not None else 0
        turns = _turns(self._tip, first, max(first, self._turn))
        return _distinct(self._tip.leader(turn) for turn in turns)


def _distinct(publics: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(publics))
