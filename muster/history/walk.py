"""Walking a run's records from genesis on, each checked as the next of the chain; nothing is applied or written.

The anchor of the last one, or of a later one, proves them all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from muster.node.directory import Directory
from muster.node.ledger.reader import Reader, genesis_tip
from muster.protocol import ledger
from muster.protocol.chain.base import Chain
from muster.protocol.errors import LedgerError
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import Tip
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage import Store
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


async def walk(reader: Reader, stores: Mapping[bytes, Store], tip: Tip, beyond: int) -> AsyncIterator[Passed]:
    """Record after record from `tip` on, of the rounds below `beyond`, the closing one included.

    Raises:
        ChainError, StorageError, LedgerError: one cannot be read, or does not continue the ledger.
    """
    while tip.round < beyond and not tip.closed:
        store = stores.get(tip.leader_in_turn)
        if store is None:
            raise LedgerError(f"the leader {hotkey_of(tip.leader_in_turn)} has committed no bucket that can be opened")
        record, digest = await reader.following(store, tip)
        after = ledger.advance(tip, record, digest)
        yield Passed(tip, record, digest, after)
        tip = after


async def newest(history: SpecHistory, chain: Chain, directory: Directory) -> tuple[Tip, Record | None]:
    """Where the ledger stands now, and the last record; None before the first.

    Raises:
        ConfigError: the chain is not the run's.
        ChainError, StorageError, LedgerError: what leads there cannot be read.
    """
    tip = await genesis_tip(history, chain)
    leader, record = hotkey_of(tip.leader_in_turn), None
    beyond = max((seen.anchor.round for seen in await chain.anchors(0) if seen.hotkey == leader), default=-1) + 1
    stores = directory.stores(await directory.snapshot())
    async for passed in walk(Reader(chain, directory), stores, tip, beyond):
        tip, record = passed.after, passed.record
    return tip, record
