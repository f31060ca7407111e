"""Fork choice: which of a round's records is the one to stand on, and which can never be taken back.

A pure value: what the chain shows of the aggregators' votes, and how much of it is final, in; an order of claims out.
It is the same for whoever looks, because only the chain's order is in it: not who published first, nor what was at hand
then. An aggregator's newest anchor is its vote: for the record that it names, and for all that this one continues.

A record is decided by the first block at which more than half of the list's members in touch stand on it. Once that
block is final, so is the record. What happens after that block changes nothing, so a record that is decided goes before
all others while the block is not final yet, too. A list of one is the same rule: the record that its leader anchored
first is the one. Where no record is decided, and one is there that the run's owner rescues it by (`ledger.rescue`),
that is decided by the first block at which its signer stands on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MEMORY = 64
"""Rounds before the open one whose anchors still count: who has anchored none since is out of touch."""

LATE = 2**32
"""Goes behind every turn: of a record that has not been read nobody knows whose turn made it."""


@dataclass(frozen=True, slots=True)
class Vote:
    """An anchor of a list member, led back to a round: which record of that round it stands on, and its block.

    `stands` is None where it stands on none that continues this ledger, or on one that is not known yet: an anchor of
    an earlier round, one of another branch.
    """

    voter: bytes
    block: int
    stands: bytes | None


@dataclass(frozen=True, slots=True)
class Poll:
    """The votes as they stand at a block: who is in touch, and on what each of them stands (None: on none).

    `rescue` is the record that counts where these decide none; None where there is no such record.
    """

    block: int
    stands: Mapping[bytes, bytes | None]
    rescue: bytes | None = None

    @property
    def tally(self) -> Counter[bytes]:
        """How many stand on each record."""
        return Counter(digest for digest in self.stands.values() if digest is not None)

    @property
    def winner(self) -> bytes | None:
        """What more than half of them stand on; else the rescue."""
        more = (digest for digest, count in self.tally.items() if 2 * count > len(self.stands))
        return next(more, self.rescue)

    def missing(self, digest: bytes) -> tuple[bytes, ...]:
        """Who is in touch and does not stand on a record: it is not decided for want of them."""
        return tuple(voter for voter, standing in self.stands.items() if standing != digest)


@dataclass(frozen=True, slots=True)
class Roll:
    """Whose votes count in a round, and for how long after the last one.

    A member is in touch for `touch` blocks after an anchor, and time in which nobody voted for the round although it
    was over (from `due` on) does not count: after a break of the whole run all are waited for. Who has never anchored
    counts as if it had at block `since`.

    `rescues` are the records by which the owner rescues the run, or that such a one continues, as far as one of the
    votes stands on them.
    """

    voters: tuple[bytes, ...]
    touch: int
    due: int
    since: int
    rescues: frozenset[bytes] = frozenset()

    def patience(self, votes: Sequence[Vote]) -> int:
        """Blocks after its last anchor for which a member counts."""
        first = next((vote.block for vote in votes if vote.stands is not None), self.due)
        return self.touch + max(0, first - self.due)

    def poll(self, votes: Sequence[Vote], block: int, patience: int) -> Poll:
        """The votes as they stand at a block."""
        newest = {vote.voter: vote for vote in votes if vote.block <= block}
        since = {voter: newest[voter].block if voter in newest else self.since for voter in self.voters}
        heard = [voter for voter in self.voters if since[voter] + patience >= block]
        standing = {voter: newest[voter].stands if voter in newest else None for voter in heard}
        rescued = (one.stands for one in sorted(newest.values(), key=lambda one: one.block) if one.stands is not None)
        return Poll(block, standing, next((digest for digest in rescued if digest in self.rescues), None))

    def decided(self, votes: Sequence[Vote], until: int, patience: int, settle: int = 0) -> Poll | None:
        """The first poll with a winner that is still the winner `settle` blocks later, and all the time between, by the
        votes up to the block `until`."""
        blocks = {self.since, *(vote.block for vote in votes)}
        blocks |= {block + patience + 1 for block in blocks}  # somebody is out of touch from there on
        held: Poll | None = None
        for block in sorted(block for block in blocks if block <= until):
            if held is not None and block > held.block + settle:
                return held
            poll = self.poll(votes, block, patience)
            if held is None or poll.winner != held.winner:
                held = None if poll.winner is None else poll
        return held if held is not None and held.block + settle <= until else None


@dataclass(frozen=True, slots=True)
class Claim:
    """A record that the chain proves for a round; `final` says that it can never be taken back."""

    digest: bytes
    final: bool


def claims(
    votes: Sequence[Vote], roll: Roll, final: int, turns: Mapping[bytes, int] | None = None, settle: int = 0
) -> tuple[Claim, ...]:
    """A round's records, each once, the one to stand on first; the first of them that is at hand and valid counts.

    Args:
        votes: every member's anchors that the chain shows, in chain order, those of earlier rounds among them.
        roll: whose votes count.
        final: the newest final block's height.
        turns: in whose turn the records were made, as far as they have been read; of equals the lower one goes first.
        settle: 0 where the chain shows every anchor that was ever made. Where it shows each member's newest only, who
            comes late has not seen the block that decided, and a liar that changes sides can show another majority
            after it: but not for longer than honest members take to go over to what was decided. So many blocks a
            majority has to hold there.
    """
    patience, horizon, turns = roll.patience(votes), max((final, *(vote.block for vote in votes))), turns or {}
    sure, first = (roll.decided(votes, until, patience, settle) for until in (final, horizon))
    tally = roll.poll(votes, horizon, patience).tally
    seen = {vote.stands for vote in votes if vote.stands is not None}
    decided = [poll.winner for poll in (sure, first) if poll is not None]

    def rank(digest: bytes) -> tuple[int, int, int, bytes]:
        return -decided.count(digest), -tally[digest], turns.get(digest, LATE), digest

    final_one = None if sure is None else sure.winner
    return tuple(Claim(digest, digest == final_one) for digest in sorted(seen, key=rank))


def is_final(found: Sequence[Claim], standing: bytes) -> bool:
    """Whether the record that a replica stands on can never be taken back."""
    return Claim(standing, True) in found


def before(found: Sequence[Claim], standing: bytes) -> tuple[Claim, ...]:
    """The claims that go before the record a replica stands on, should one of them come to hand and be valid.

    Where the chain has taken back what it showed, and shows another record now, that is all of them.
    """
    if is_final(found, standing):
        return ()
    digests = [claim.digest for claim in found]
    return tuple(found[: digests.index(standing)] if standing in digests else found)
