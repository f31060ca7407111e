"""Votes for the open round: the aggregators' anchors, each led back to the record of this round that it stands on.

An anchor of this round names the record itself; one of a later round proves it by the records between. These are read
only where it matters which one an anchor stands on: whoever is many rounds behind finds its round decided by the
anchors of the round itself, and what was anchored after the block that decided changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from muster.node.amendments import Rescue
from muster.node.ledger.mirrors import Mirrors
from muster.protocol.errors import LedgerError, StorageError
from muster.protocol.ledger import RESCUE, Tip
from muster.protocol.ledger.forkchoice import Vote
from muster.protocol.types import Anchor

if TYPE_CHECKING:
    from muster.node.ledger.reader import Reader

LATER = b""
"""Stands for whatever record of this round one of a later round continues, where that is not known."""

Seen = tuple[bytes, int, Anchor]
"""Who anchored, in which block, and what."""


class Ballot:
    """The votes of one look at a round; `problem` is the first thing that was in the way of leading an anchor back, and
    `lost` is what such anchors name, by their places: the record that one of this round is of, or else `LATER`."""

    def __init__(self, reader: Reader, tip: Tip, places: Mirrors, rescuers: Mapping[bytes, Rescue]) -> None:
        self._reader = reader
        self._tip = tip
        self._places = places
        self._rescuers = rescuers
        self._alone = False
        self._counted: Sequence[int] = ()
        self.lost: dict[int, bytes] = {}
        self.problem: StorageError | LedgerError | None = None

    async def votes(self, seen: Sequence[Seen]) -> list[Vote]:
        """The votes, in chain order, as far as they bear on which record is decided."""
        round_, roll = self._tip.round, self._tip.roll
        named = {anchor.digest for _, _, anchor in seen if anchor.round == round_}
        self._alone = len(roll.voters) == 1 and len(named) <= 1 and not self._rescuers
        horizon, votes = max(block for _, block, _ in seen), dict[int, Vote]()
        early = [place for place, (_, _, anchor) in enumerate(seen) if anchor.round <= round_]
        for place in early:
            voter, block, anchor = seen[place]
            stands = await self._stands(anchor, place) if anchor.round == round_ else None
            votes[place] = Vote(voter, block, stands)
        while True:
            known = [votes[place] for place in sorted(votes)]
            poll = roll.decided(known, horizon, roll.patience(known))
            until = horizon if poll is None else poll.block
            later = [place for place, one in enumerate(seen) if place not in votes and one[1] <= until]
            if not later:
                self._counted = sorted(votes)
                return known
            for place in later:
                voter, block, anchor = seen[place]
                votes[place] = Vote(voter, block, await self._stands(anchor, place))

    def rescues(self, seen: Sequence[Seen]) -> frozenset[bytes]:
        """The records of the open round that a rescuer's anchors lead back to, through the record that it rescues by.

        Valid or not: nobody has judged them yet.
        """
        lineage, found = self._reader.lineage, set[bytes]()
        for public, _, anchor in seen:
            one = self._rescuers.get(public)
            if one is None or anchor.round < one.round:
                continue
            by = lineage.trace(anchor, one.round)
            if by.round == one.round and lineage.turns(by.round).get(by.digest) == RESCUE:
                at = lineage.trace(by, self._tip.round)
                found |= {at.digest} if at.round == self._tip.round else set()
        return frozenset(found)

    def with_lost(self, votes: Sequence[Vote]) -> list[Vote]:
        """The same votes, those among them whose record is not at hand as if it were, and continued this ledger."""
        at = zip(self._counted, votes, strict=True)
        return [replace(one, stands=self.lost[place]) if place in self.lost else one for place, one in at]

    async def _stands(self, anchor: Anchor, place: int) -> bytes | None:
        """The record of the open round that an anchor leads back to.

        None for one that is not valid or does not continue this ledger, and where what lies between is not to be had.
        Of a list of one that has anchored one record of the round nothing has to be told apart: that one is read when
        it is judged.
        """
        reader, tip = self._reader, self._tip
        try:
            at = await reader.traced(anchor, tip, self._places)
            if at.round > tip.round or Anchor(at.round, at.digest) in reader.refused:
                return None
            if reader.lineage.parent(at) is None:
                if self._alone:
                    return at.digest
                await reader.learn(at, tip, self._places)
        except StorageError as error:
            self.problem = self.problem or error
            self.lost[place] = anchor.digest if anchor.round == tip.round else LATER
            return None
        except LedgerError as error:
            if anchor.round == tip.round:
                return anchor.digest  # it is no record, and who fetches it says why
            self.problem = self.problem or error
            return None
        return at.digest if reader.lineage.parent(at) == tip.parent else None
