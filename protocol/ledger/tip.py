"""Where the ledger stands: all that is needed to judge the next record, and whose turn it is to make one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from muster.kernels import Codec
from muster.protocol.identity import public_of
from muster.protocol.ledger.forkchoice import Roll
from muster.protocol.rules.admission import RoundFacts
from muster.protocol.rules.attendance import Attendance, before_genesis, expected, seen_in
from muster.protocol.rules.equivocation import Strike
from muster.protocol.rules.late import Late, admissible
from muster.protocol.rules.selection import Choice, choose, order
from muster.protocol.spec import RunSpec
from muster.protocol.spec.history import SpecHistory
from muster.protocol.spec.layout import Layout, codec_of, layout_of
from muster.protocol.types import Beacon
from muster.protocol.wire import Header, Opening, ScoresUsed

SCORES_AGE = 16
"""Rounds by which a score file may be older than the one of round r − L."""

RESCUE = 2**32 - 1
"""The turn of who comes from outside of the turns, because the owner names it (`ledger.rescue`)."""

Possession = Callable[[bytes], bytes]


@lru_cache(8)
def spec_digest(spec: RunSpec) -> bytes:
    """How every opening names the spec in force: the function that makes the genesis spec's digest the run id."""
    return spec.run_id()


@dataclass(frozen=True, slots=True)
class Tip:
    """Where the ledger stands: the round that is open and everything its record will be judged by.

    `parent` is the digest of the newest record (the run id before the first one), `outer_step` counts the records
    that changed θ, `past` is what the last records say about who was there, oldest first; `author` made the newest.
    `silenced` are the validators whose scores do not count any more, `proofs` the disputes that made it so and
    `strikes` who signed two things where there may be one, in the order they were recorded. `late` is earlier rounds'
    work that may still be taken in, by round and hotkey. `held` is all that is needed of an older θ: where the open
    round's base is the round before it, the digest of the tiles of that θ that proofs of possession are made of; else,
    and where the tip was made without looking at θ, it is empty. A closed ledger has no open round.
    """

    history: SpecHistory
    layout: Layout
    opening: Opening
    parent: bytes
    outer_step: int
    past: tuple[Attendance, ...]
    author: bytes
    closed: bool = False
    proofs: tuple[bytes, ...] = ()
    silenced: frozenset[bytes] = frozenset()
    strikes: tuple[Strike, ...] = ()
    late: tuple[Late, ...] = ()
    held: bytes = b""

    @property
    def run_id(self) -> bytes:
        """The run."""
        return self.history.run_id

    @property
    def round(self) -> int:
        """The open round."""
        return self.opening.round

    @property
    def spec(self) -> RunSpec:
        """The spec in force in the open round."""
        return self.history.at(self.round)

    @property
    def codec(self) -> Codec:
        """What submissions of the open round are compressed by."""
        return codec_of(self.spec)

    @property
    def leaders(self) -> tuple[bytes, ...]:
        """Who may close the open round, and whose votes count in it, by public key, in the order of turns.

        The list of the spec without the struck. Nobody strikes the last one on it (`equivocation.strikeable`); should a
        later spec list none but the struck, the list is what that says: without anybody on it the run would be over.
        """
        listed, struck = self.listed, self.struck
        return tuple(public for public in listed if public not in struck) or listed

    @property
    def listed(self) -> tuple[bytes, ...]:
        """The list of the spec in force, the struck among them."""
        return tuple(public_of(hotkey) for hotkey in self.spec.genesis.leaders)

    @property
    def struck(self) -> frozenset[bytes]:
        """Who has no turn and no vote any more, because a record carries the proof that it signed two."""
        return frozenset(strike.leader for strike in self.strikes)

    def leader(self, turn: int) -> bytes:
        """Whose turn number `turn` to close the open round is.

        It goes on with who made the newest record, or with the next of the list where a term ends; then down the list.
        Where who made it is not on the list it begins with the first.
        """
        leaders = self.leaders
        place = leaders.index(self.author) if self.author in leaders else 0
        term_ends = self.round > 0 and self.round % self.spec.clock.term == 0
        return leaders[(place + term_ends + turn) % len(leaders)]

    @property
    def leader_in_turn(self) -> bytes:
        """The public key of whose turn it is first."""
        return self.leader(turn=0)

    def turn_begins(self, turn: int) -> int:
        """The block from which the open round may be closed in a turn."""
        if turn == RESCUE:
            return self.opening.anchor_by + self.spec.clock.silent
        return self.opening.anchor_by + (turn - 1) * self.spec.clock.turn if turn else 0

    def turn_at(self, block: int) -> int:
        """The newest turn that has begun at a block; from who is alone on the list it passes on to nobody."""
        if len(self.leaders) == 1:
            return 0
        return max(0, (block - self.opening.anchor_by) // self.spec.clock.turn + 1)

    @property
    def roll(self) -> Roll:
        """Whose anchors decide which record of the open round is final."""
        clock, since = self.spec.clock, self.history.genesis.genesis.block
        return Roll(self.leaders, clock.touch, self.opening.anchor_by, since)

    @property
    def validators(self) -> frozenset[bytes]:
        """Whose scores may count, the silenced among them, by public key."""
        return frozenset(self.listed)

    @property
    def score_rounds(self) -> range:
        """The rounds whose scores may steer the open one, newest first: r − L … r − L − 16, none before round 0."""
        newest = self.round - self.spec.gauntlet.lag
        return range(newest, max(newest - SCORES_AGE, 0) - 1, -1)

    @property
    def remembered(self) -> frozenset[bytes]:
        """Everybody with an entry in the records remembered; they and the registered may have rows of scores."""
        return seen_in(self.past)

    def order(self, candidates: Collection[bytes], scores: Sequence[ScoresUsed]) -> tuple[bytes, ...]:
        """Who has the first claim to a seat of the open round; see `selection.order`."""
        return order(candidates, scores, self.past, self.opening.possess.value, self.spec.gauntlet)

    def choose(self, known: Mapping[bytes, str], scores: Sequence[ScoresUsed]) -> Choice:
        """Decide the open round by what is known to be wrong with each sealed submission; see `selection.choose`."""
        return choose(known, scores, self.past, self.opening.possess.value, self.spec)

    def admissible(self, scores: Sequence[ScoresUsed]) -> tuple[Late, ...]:
        """The late work that a record of the open round may take in; see `late.admissible`."""
        return admissible(self.late, self.round, scores, self.past, self.history)

    def sealed_late(self, header: Header) -> bytes | None:
        """The digest of the seal that the key of late work must answer; None for what may not be taken in any more."""
        return next((one.seal for one in self.late if one.place == (header.round, header.public)), None)

    def facts(self, possession: Possession, peers: dict[bytes, int] | None = None) -> RoundFacts:
        """What submissions of the open round are judged against."""
        return RoundFacts(self.run_id, self.spec, self.layout, self.opening, possession, peers)


def genesis_tip(history: SpecHistory, assign: Beacon, possess: Beacon) -> Tip:
    """Where every run begins: round 0 is open and A_0 is expected."""
    past = before_genesis([public_of(hotkey) for hotkey in history.genesis.genesis.miners])
    opening = next_opening(history, 0, past, assign, possess)
    first = public_of(history.genesis.genesis.leaders[0])
    return Tip(history, layout_of(history.genesis.model), opening, history.run_id, 0, past, first)


def next_opening(
    history: SpecHistory, round_: int, past: Sequence[Attendance], assign: Beacon, possess: Beacon
) -> Opening:
    """What a record fixes for the round after it; the round opens at the block of its possession beacon."""
    spec = history.at(round_)
    deadline = possess.block.number + spec.clock.deadline
    return Opening(
        round=round_,
        open=possess.block,
        min_block=possess.block.number + spec.clock.min_blocks,
        deadline=deadline,
        anchor_by=deadline + spec.clock.reveal + spec.gauntlet.score_wait + spec.clock.anchor,
        expected=expected(past),
        base_round=max(round_ - spec.clock.delay, 0),
        spec_digest=spec_digest(spec),
        assign=assign,
        possess=possess,
    )
