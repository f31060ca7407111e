"""Votes for the open round: the aggregators' anchors, each led back to the record of this round that it stands on.

An anchor of this round names the record itself; one of a later round proves it by the records between. These are read
only where it matters which one an anchor stands on: whoever is many rounds behind finds its round decided by the
anchors of the round itself, and what was anchored after the block that decided changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from muster.node.ledger.mirrors import Mirrors
from muster.protocol.errors import LedgerError, StorageError
from muster.protocol.ledger import Tip
from muster.protocol.ledger.forkchoice import Vote
from muster.protocol.types import Anchor

if TYPE_CHECKING:
    from muster.node.ledger.reader import Reader

Seen = tuple[bytes, int, Anchor]
"""Who anchored, in which block, and what."""


class Ballot:
    """The votes of one look at a round; `problem` is the first thing that was in the way of leading an anchor back."""

    def __init__(self, reader: Reader, tip: Tip, places: Mirrors) -> None:
        self._reader = reader
        self._tip = tip
        self._places = places
        self.problem: StorageError | LedgerError | None = None

    async def votes(self, seen: Sequence[Seen]) -> list[Vote]:
        """The votes, in chain order, as far as they bear on which record is decided."""
        round_, roll = self._tip.round, self._tip.roll
        here = [await self._vote(one) if one[2].round == round_ else Vote(*one[:2], None) for one in seen]
        early = [vote for vote, one in zip(here, seen, strict=True) if one[2].round <= round_]
        horizon = max(block for _, block, _ in seen)
        poll = roll.decided(early, horizon, roll.patience(early))
        until = horizon if poll is None else poll.block
        return [
            vote if one[2].round <= round_ else await self._vote(one)
            for one, vote in zip(seen, here, strict=True)
            if one[2].round <= round_ or one[1] <= until
        ]

    async def _vote(self, seen: Seen) -> Vote:
        voter, block, anchor = seen
        return Vote(voter, block, await self._stands(anchor))

    async def _stands(self, anchor: Anchor) -> bytes | None:
        """The record of the open round that an anchor leads back to.

        None for one that is not valid or does not continue this ledger, and where what lies between is not to be had.
        Of a list of one no two branches are to be told apart: what its leader anchored is read when it is judged.
        """
        reader, tip = self._reader, self._tip
        try:
            at = await reader.traced(anchor, tip, self._places)
            if at.round > tip.round or Anchor(at.round, at.digest) in reader.refused:
                return None
            if len(tip.leaders) == 1:
                return at.digest
            if reader.lineage.parent(at) is None:
                await reader.learn(at, tip, self._places)
        except StorageError as error:
            self.problem = self.problem or error
            return None
        except LedgerError as error:
            if anchor.round == tip.round:
                return anchor.digest  # it is no record, and who fetches it says why
            self.problem = self.problem or error
            return None
        return at.digest if reader.lineage.parent(at) == tip.parent else None
