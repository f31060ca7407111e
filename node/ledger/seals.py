"""The open round's seals, as they lie in the buckets of those whose turn has come: looked for in this place alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from muster.node.directory import Directory
from muster.node.ledger.objects import MAX_SEAL_BYTES
from muster.protocol import ledger, paths, wire
from muster.protocol.chain.base import Chain
from muster.protocol.errors import ObjectDamaged, StorageError, WireError
from muster.protocol.ledger import Tip
from muster.protocol.storage import Store
from muster.protocol.wire import Seal

log = logging.getLogger(__name__)

MAX_SIBLINGS = 4
"""Seals, or records, of one round that are looked at in one bucket; an honest leader makes one."""


@dataclass(frozen=True, slots=True)
class FoundSeal:
    """A seal with its digest and its object as it was read."""

    seal: Seal
    digest: bytes
    data: bytes


class Seals:
    """Reads one run's seals, each once in a round; `saw` gets every one that it reads, as it is."""

    def __init__(self, chain: Chain, directory: Directory, saw: Callable[[bytes], None]) -> None:
        self._chain = chain
        self._directory = directory
        self._saw = saw
        self._known: dict[str, FoundSeal] = {}
        self._round = -1

    async def of(self, tip: Tip) -> list[FoundSeal]:
        """The open round's seals in the buckets of those whose turn has come: of this ledger, by blocks that the chain
        has, those of earlier turns first.

        Raises:
            ChainError, StorageError: the bucket or the chain cannot be looked at now, or what was read is damaged.
        """
        head = await self._chain.head()
        turns = range(min(tip.turn_at(head.number) + 1, len(tip.leaders)))
        stores = await self._directory.stores_of([tip.leader(turn) for turn in turns])
        looks = await asyncio.gather(*(self._in(store, tip) for store in stores.values()), return_exceptions=True)
        found: dict[bytes, FoundSeal] = {}
        for look in looks:
            if isinstance(look, list):
                found |= {one.digest: one for one in look if one.digest not in found}
            elif not isinstance(look, StorageError):
                raise look
        problems = [look for look in looks if isinstance(look, StorageError)]
        if problems and not found:
            raise problems[0]
        usable = [one for one in found.values() if await self._usable(tip, one)]
        return sorted(usable, key=lambda one: one.seal.turn)

    async def _in(self, store: Store, tip: Tip) -> list[FoundSeal]:
        """What one bucket has for seals of the open round, as it is."""
        listed = await store.list(paths.seals(tip.run_id, tip.round), limit=MAX_SIBLINGS * len(tip.leaders))
        keys = [info.key for info in listed if info.size <= MAX_SEAL_BYTES]
        if self._round != tip.round:
            self._known, self._round = {}, tip.round
        for key in keys:
            if key not in self._known:
                self._known[key] = await self._read(store, tip, key)
        return [self._known[key] for key in keys]

    async def _read(self, store: Store, tip: Tip, key: str) -> FoundSeal:
        data = await store.get(key, max_bytes=MAX_SEAL_BYTES)
        try:
            seal, digest = wire.decode_seal(data, tip.run_id)
        except WireError as error:
            raise ObjectDamaged(f"{key} is not readable: {error}") from error
        if key != paths.seal(tip.run_id, seal.round, digest):
            raise ObjectDamaged(f"{key} is another seal than its name says")
        self._saw(data)
        return FoundSeal(seal, digest, data)

    async def _usable(self, tip: Tip, found: FoundSeal) -> bool:
        """Whether a seal is of this ledger's open round, and names a block of the chain."""
        if not ledger.continues(tip, found.seal):
            log.warning("a seal of round %d is not of this ledger", tip.round)
            return False
        return await self._chain.block(found.seal.block.number) == found.seal.block
