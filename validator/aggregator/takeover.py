"""Who takes over a round goes on with the list of submissions that the round already has.

A miner answers one seal a round, so work that answers the seal of a leader that is gone counts under that seal only. It
lies beside the answering keys, in the miners' buckets, and may lie in its leader's still. Where it is answered and its
bytes, or the heads that it lists, are nowhere, the round gets a list of its own, and is null: no key answers it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from muster.node.ledger.reader import Reader
from muster.node.ledger.seals import FoundSeal
from muster.protocol import ledger, paths, wire
from muster.protocol.errors import ObjectMissing, StorageError, WireError
from muster.protocol.rules.admission import MAX_HEAD_BYTES, MAX_KEY_BYTES
from muster.protocol.storage import Store
from muster.protocol.types import Block
from muster.validator.aggregator.leading import Leading

log = logging.getLogger(__name__)

PLACES = 3
"""Answering miners whose copy of a seal is asked for in one look."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A seal that keys answer, whole: with the heads that it lists, by peer."""

    found: FoundSeal
    heads: Mapping[bytes, bytes]


class Takeover:
    """Looks for the seal that a late round already has, in one turn of one aggregator."""

    def __init__(self, leading: Leading, reader: Reader) -> None:
        self._leading = leading
        self._reader = reader
        self._answers: dict[bytes, bytes] = {}
        self._heads: dict[bytes, dict[bytes, bytes]] = {}

    async def look(self, stores: Mapping[bytes, Store], head: Block) -> Answered | None:
        """The seal that most keys answer, of equals the one of the lower digest; None where no key answers any.

        Raises:
            StorageError: one is answered, and not all of it is at hand yet; after `clock.grace` blocks of the turn that
                is waited for no longer.
            ChainError: the chain does not say when the look is over.
        """
        leading, tip = self._leading, self._leading.tip
        known = self._answers.keys()
        asked = {peer: store for peer, store in stores.items() if peer in leading.intake.peers and peer not in known}
        started = {leading.errands.start(self._ask(peer, store)) for peer, store in asked.items()}
        await leading.errands.wait(started, head)
        votes = Counter(self._answers.values())
        for digest in sorted(votes, key=lambda digest: (-votes[digest], digest)):
            found = await self._seal(digest, stores)
            if found is not None and (heads := await self._listed(found, stores, head)) is not None:
                return Answered(found, heads)
        if votes and head.number < tip.turn_begins(leading.turn) + tip.spec.clock.grace:
            raise StorageError("keys answer an earlier seal of this round, and not all of it is at hand yet")
        if votes:
            log.warning("round %d: the seal that keys answer is nowhere, and the round begins anew", tip.round)
        return None

    async def _ask(self, peer: bytes, store: Store) -> None:
        """Which seal a peer's key answers."""
        tip = self._leading.tip
        try:
            data = await store.get(paths.key(tip.run_id, tip.round), max_bytes=MAX_KEY_BYTES)
            self._answers[peer] = wire.decode_key(data, tip.run_id, tip.round, peer).seal
        except (StorageError, WireError) as error:
            log.debug("no key of a peer: %s", error)

    async def _seal(self, digest: bytes, stores: Mapping[bytes, Store]) -> FoundSeal | None:
        """The seal of this digest, from a leader's bucket or from beside a key that answers it."""
        tip, seals = self._leading.tip, list[FoundSeal]()
        try:
            seals += [found for found in await self._reader.seals(tip) if found.digest == digest]
        except StorageError as error:
            log.info("the seals of earlier turns cannot be looked for: %s", error)
        answering = [peer for peer, seal in sorted(self._answers.items()) if seal == digest and peer in stores]
        for peer in answering[:PLACES] if not seals else ():
            try:
                data = await stores[peer].get(paths.answered(tip.run_id, tip.round), max_bytes=wire.MAX_BODY_BYTES)
                seal, found = wire.decode_seal(data, tip.run_id)
            except (StorageError, WireError) as error:
                log.info("the seal beside a key cannot be read: %s", error)
                continue
            if found == digest:
                seals.append(FoundSeal(seal, digest, data))
        for one in seals:
            seal = one.seal
            if ledger.continues(tip, seal) and await self._leading.context.chain.block(seal.block.number) == seal.block:
                return one
        return None

    async def _listed(
        self, found: FoundSeal, stores: Mapping[bytes, Store], head: Block
    ) -> Mapping[bytes, bytes] | None:
        """The heads that a seal lists, once all of them are at hand."""
        heads = self._heads.setdefault(found.digest, {})
        for peer, taken in self._leading.intake.peers.items():
            if found.seal.lists(peer, wire.head_digest(taken.head.data)):
                heads[peer] = taken.head.data
        lacking = [(peer, digest) for peer, digest in found.seal.headers if peer not in heads and peer in stores]
        started = {
            self._leading.errands.start(self._head(heads, peer, digest, stores[peer])) for peer, digest in lacking
        }
        await self._leading.errands.wait(started, head)
        return heads if len(heads) == len(found.seal.headers) else None

    async def _head(self, heads: dict[bytes, bytes], peer: bytes, digest: bytes, store: Store) -> None:
        """A sealed head that was not seen before."""
        tip = self._leading.tip
        try:
            data = await store.get_range(paths.head(tip.run_id, tip.round), 0, MAX_HEAD_BYTES + 1)
        except ObjectMissing:
            return
        except StorageError as error:
            log.info("a sealed head cannot be read: %s", error)
            return
        if wire.head_digest(data) == digest:
            heads[peer] = data
