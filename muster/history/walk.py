"""Walking a run's records from genesis on, each checked as the next of the chain; nothing is applied or written.

They are read from any of the aggregators' buckets. That what most aggregators stand on leads back to them proves them;
of several records of a round, and of the newest ones, the chain says which goes first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from muster.node.directory import Directory
from muster.node.ledger.agreed import agreed
from muster.node.ledger.reader import Reader, genesis_tip
from muster.node.ledger.siblings import siblings
from muster.protocol import ledger
from muster.protocol.chain.base import Chain
from muster.protocol.errors import LedgerError, ObjectMissing, StorageError
from muster.protocol.ledger import Tip
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage import Store
from muster.protocol.types import Anchor
from muster.protocol.wire import Record


@dataclass(frozen=True, slots=True)
class Passed:
    """A record with its digest: `before` is where the ledger stood, `after` where it stands with it."""

    before: Tip
    record: Record
    digest: bytes
    after: Tip

    @property
    def round(self) -> int:
        """Which round it closed."""
        return self.before.round


async def walk(reader: Reader, tip: Tip, beyond: int | None = None) -> AsyncIterator[Passed]:
    """Record after record from `tip` on, as far as the chain proves them, of the rounds below `beyond` (None: of all);
    the closing one included.

    Raises:
        ChainError, StorageError, LedgerError: one cannot be read, or does not continue the ledger.
    """
    way = _Way(reader)
    while not tip.closed and (beyond is None or tip.round < beyond):
        found = await way.next(tip)
        if found is None:
            return
        after = ledger.advance(tip, *found)
        yield Passed(tip, *found, after)
        tip = after


class _Way:
    """What is known of the rounds to come: `_newest` is what most of the list `_listed` stand on, None before the first
    anchor and where `_problem` is in the way of telling. Once a round had several records, or a bucket could not be
    looked at, all records from there on are known by what leads back to them: `_traced`."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._listed: tuple[bytes, ...] = ()
        self._newest: Anchor | None = None
        self._problem: StorageError | LedgerError | None = None
        self._traced = False

    async def next(self, tip: Tip) -> tuple[Record, bytes] | None:
        """The open round's record and its digest; None where the chain proves none."""
        stores = await self._reader.stores(tip)
        if self._listed != tip.leaders:
            await self._look(tip, stores)
        if self._newest is None or tip.round >= self._newest.round:
            return await self._proven(tip)
        if not stores:
            raise LedgerError("no aggregator of the run has committed a bucket that can be opened")
        if not self._traced:
            found, problems = await siblings(stores.values(), tip, tip.round, self._reader.conduct)
            here = [one for one in found if one[0].parent == tip.parent]
            if len(here) == 1 and not problems:
                return here[0]
            places = self._reader.mirrors(stores.values())
            while (await self._reader.traced(self._newest, tip, places)).round > tip.round:
                pass  # the next look goes on where that one stopped
            self._traced = True
        return await self._proven(tip)

    async def _look(self, tip: Tip, stores: dict[bytes, Store]) -> None:
        """See what most of a list stand on."""
        self._listed, self._newest, self._problem, self._traced = tip.leaders, None, None, False
        try:
            self._newest = await agreed(self._reader, tip, stores)
        except (StorageError, LedgerError) as error:
            self._problem = error

    async def _proven(self, tip: Tip) -> tuple[Record, bytes] | None:
        """The first record that the chain proves and that continues the ledger."""
        problem = self._problem
        for pointer in await self._reader.anchored(tip):
            try:
                record, _ = await self._reader.record(pointer.places, tip, tip.round, pointer.digest)
                ledger.check_link(tip, record, None)
            except (StorageError, LedgerError) as error:
                problem = problem or error
                continue
            return record, pointer.digest
        if problem is not None:
            raise problem
        if self._newest is not None and tip.round <= self._newest.round:
            raise ObjectMissing(f"there is no record of round {tip.round} that continues this ledger")
        return None


async def newest(history: SpecHistory, chain: Chain, directory: Directory) -> tuple[Tip, Record | None]:
    """Where the ledger stands now, and the last record; None before the first.

    Raises:
        ConfigError: the chain is not the run's.
        ChainError, StorageError, LedgerError: what leads there cannot be read.
    """
    tip, record = await genesis_tip(history, chain), None
    async for passed in walk(Reader(chain, directory), tip):
        tip, record = passed.after, passed.record
    return tip, record
