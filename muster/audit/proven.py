"""Which record of each round the chain proves, for an audit: known before anything is judged, and without θ.

Of a list of one that is what its leader anchored; of several the one that was decided first. Of a longer list it is
what more than half of it anchored, if nobody on it anchored another, and what the records after it lead back to; or
what the rule of votes makes final where some are out of touch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

from muster.node.ledger.agreed import agreed
from muster.node.ledger.reader import Reader
from muster.protocol.chain.base import AnchorSeen, Chain
from muster.protocol.errors import LedgerError, StorageError
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import RESCUE, Tip
from muster.protocol.storage import Store
from muster.protocol.types import Anchor
from muster.protocol.wire import Record

Read = Callable[[int], Awaitable[tuple[Record, bytes]]]
"""Gives the record of a round that is known here; StorageError, LedgerError where it is not to be had, or is none."""


class Proven:
    """`seen` are the anchors of all who were on a list so far, in chain order; `problem` is why the newest ones of the
    list in force prove less than they say."""

    def __init__(self, chain: Chain, reader: Reader) -> None:
        self._chain = chain
        self._reader = reader
        self._of: dict[int, tuple[bytes, ...]] = {}
        self._voters: tuple[str, ...] = ()
        self._listed: set[str] = set()
        self.seen: list[AnchorSeen] = []
        self.problem: StorageError | LedgerError | None = None

    @property
    def last(self) -> int:
        """The newest round with a record that the chain proves; −1 before the first."""
        return max(self._of, default=-1)

    def of(self, round_: int) -> tuple[bytes, ...]:
        """The digest of a round's record; of a round of which none is sure all that were anchored, the likeliest first.

        Empty where nothing is known.
        """
        return self._of.get(round_, ())

    def after(self, round_: int) -> int:
        """The next round that something is known of; `last` + 1 where there is none."""
        return min((known for known in self._of if known > round_), default=self.last + 1)

    async def look(self, tip: Tip, stores: Mapping[bytes, Store]) -> None:
        """See what the list of a tip has anchored by now; of another list than before, from the tip's round on.

        Raises:
            ChainError: the chain cannot be read.
        """
        voters = tuple(map(hotkey_of, tip.leaders))
        if voters != self._voters:
            self._voters = voters
            self._of = {round_: of for round_, of in self._of.items() if round_ < tip.round}
        self._listed |= {*voters, *map(hotkey_of, tip.listed)}
        self.seen = [seen for seen in await self._chain.anchors(0) if seen.hotkey in self._listed]
        if len(voters) == 1:
            self._of |= {round_: of for round_, of in self._anchored().items() if round_ >= tip.round}
            return
        sure = {round_: of[0] for round_, of in self._anchored().items() if round_ >= tip.round and self._sure(round_)}
        newest = Anchor(max(sure), sure[max(sure)]) if sure else None
        try:
            found = await agreed(self._reader, tip, stores)
            newest = max((one for one in (found, newest) if one is not None), key=lambda one: one.round, default=None)
            self.problem = None
        except (StorageError, LedgerError) as error:
            self.problem = error
        if newest is not None:
            self._of |= {round_: (digest,) for round_, digest in sure.items()}
            self._of[newest.round] = (newest.digest,)

    async def decide(self, tip: Tip) -> None:
        """See whether the votes make a record of the open round final although less than half of the list anchored it:
        who is out of touch is not waited for, and who rescues the run needs nobody.

        Raises:
            ChainError: the chain cannot be read.
        """
        try:
            pointers = await self._reader.anchored(tip) if await self._may_be_others(tip) else []
        except (StorageError, LedgerError) as error:
            self.problem = error
            return
        self._of |= [(tip.round, (pointer.digest,)) for pointer in pointers if pointer.claim.final]

    async def _may_be_others(self, tip: Tip) -> bool:
        """Whether somebody else than the one on a list of one may decide the open round by now."""
        return len(self._voters) > 1 or (await self._chain.head()).number >= tip.turn_begins(RESCUE)

    async def trace(self, round_: int, read: Read) -> None:
        """Lead back what is known to `round_`: a record proves the one before it (`protocol/ledger/lineage.py`)."""
        anchored = self._anchored() if len(self._voters) > 1 else {}
        for newest in sorted(self._of, reverse=True):
            at = newest
            while at > round_ and at - 1 not in self._of:
                try:
                    record, _ = await read(at)
                except (StorageError, LedgerError):
                    break  # a fault of round `at`, which is told when it is its turn
                at -= 1
                self._of[at] = (record.parent,)
        last = self.last
        self._of |= {at: digests for at, digests in anchored.items() if round_ <= at < last and at not in self._of}

    def _anchored(self) -> dict[int, tuple[bytes, ...]]:
        """What was anchored for each round: that of most members first, then that of the first block, then, of the
        anchors of one block, the newest one, which is their maker's vote (`protocol/ledger/forkchoice.py`)."""
        found: dict[int, list[AnchorSeen]] = {}
        for seen in self._votes(reversed(self.seen)):
            found.setdefault(seen.anchor.round, []).append(seen)

        def order(of: list[AnchorSeen]) -> tuple[bytes, ...]:
            by_block = [seen.anchor.digest for seen in sorted(of, key=lambda seen: seen.block)]
            voters = {digest: {seen.hotkey for seen in of if seen.anchor.digest == digest} for digest in by_block}
            return tuple(sorted(voters, key=lambda digest: -len(voters[digest])))

        return {round_: order(of) for round_, of in found.items()}

    def _votes(self, seen: Iterable[AnchorSeen]) -> Iterator[AnchorSeen]:
        """Of anchors those of the list in force."""
        return (one for one in seen if one.hotkey in self._voters)

    def _sure(self, round_: int) -> bool:
        """Whether more than half of the list anchored one record of a round, and nobody another."""
        here = [seen for seen in self._votes(self.seen) if seen.anchor.round == round_]
        return len({seen.anchor.digest for seen in here}) == 1 and 2 * len({seen.hotkey for seen in here}) > len(
            self._voters
        )
