"""What most of the list stand on: from there whoever comes late reads back, and a replay knows what is of the run.

A chain may show each aggregator's newest anchor only. One of them proves no more than that its aggregator stands there;
a record that more than half of them lead back to is one that more than half of the list judged valid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from muster.node.ledger.mirrors import likeliest
from muster.node.ledger.reader import STEPS_BACK, Reader
from muster.protocol.errors import LedgerError, StorageError
from muster.protocol.ledger import Tip
from muster.protocol.storage import Store
from muster.protocol.types import Anchor


async def agreed(reader: Reader, tip: Tip, stores: Mapping[bytes, Store], oldest: int | None = None) -> Anchor | None:
    """The newest record, of round `oldest` (None: the tip's) or later, that more than half of the tip's list in touch
    stand on for good.

    Those are who anchored it, or one that leads back to it, in a final block. What is in the way of leading one anchor
    back matters only where the others do not suffice. None where nobody has anchored, or no two stand on one ledger.

    Raises:
        StorageError, LedgerError: too few could be led back in this look; the next goes on where this one stopped.
        ChainError: the chain does not say.
    """
    newest = await reader.newest_anchors(tip)
    if not newest:
        return None
    most = len(newest) // 2 + 1
    search, round_ = _Search(reader, tip, stores), newest[-most][1].round
    while round_ >= (tip.round if oldest is None else oldest):
        tally = Counter[bytes]()
        for member, anchor in newest:
            digest = await search.at(member, anchor, round_) if anchor.round >= round_ else None
            if digest is not None:
                tally[digest] += 1
                if tally[digest] == most:
                    return Anchor(round_, digest)
        if len(newest) - len(search.lost) < most:
            break
        round_ -= 1
    if search.lost:
        raise search.problem
    return None


class _Search:
    """One look: `lost` are the members whose anchors could not be led back in it, and `problem` is why not."""

    def __init__(self, reader: Reader, tip: Tip, stores: Mapping[bytes, Store]) -> None:
        self._reader = reader
        self._tip = tip
        self._stores = stores
        self.lost: set[bytes] = set()
        self.problem: StorageError | LedgerError = StorageError(
            f"the aggregators' newest anchors are more than {STEPS_BACK} records apart, and are being read back"
        )

    async def at(self, member: bytes, anchor: Anchor, round_: int) -> bytes | None:
        """The record of a round that a member's anchor leads back to; None where that is not known."""
        if member in self.lost:
            return None
        own = [self._stores[member]] if member in self._stores else []
        try:
            at = await self._reader.traced(
                anchor, self._tip, likeliest(self._stores.values(), own, self._reader.conduct), round_
            )
        except (StorageError, LedgerError) as error:
            self.lost.add(member)
            self.problem = error
            return None
        if at.round > round_:
            self.lost.add(member)
            return None
        return at.digest
