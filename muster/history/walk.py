"""Walking a run's records from genesis on, each checked as the next of the chain; nothing is applied or written.

The anchor of the last one, or of a later one, proves them all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from muster.node.directory import Directory
from muster.node.ledger.reader import Reader, genesis_tip
from muster.protocol import ledger
from muster.protocol.chain.base import AnchorSeen, Chain
from muster.protocol.errors import LedgerError
from muster.protocol.identity import hotkey_of, public_of
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
    tip, record = await genesis_tip(history, chain), None
    stores, anchors = directory.stores(await directory.snapshot()), await chain.anchors(0)
    while tip.round < (beyond := reached_beyond(anchors, tip)) and not tip.closed:
        async for passed in walk(Reader(chain, directory), stores, tip, beyond):
            tip, record = passed.after, passed.record
    return tip, record


def reached_beyond(anchors: Sequence[AnchorSeen], tip: Tip) -> int:
    """The round after the newest that half of the aggregators listed at a tip, of those with an anchor, have reached.

    So neither one that is gone nor one that anchors what is not there keeps anybody from the others' records.
    """
    reached: dict[str, int] = {}
    for seen in anchors:
        if public_of(seen.hotkey) in tip.validators:
            reached[seen.hotkey] = max(seen.anchor.round, reached.get(seen.hotkey, 0))
    rounds = sorted(reached.values(), reverse=True)
    return rounds[(len(rounds) - 1) // 2] + 1 if rounds else 0
