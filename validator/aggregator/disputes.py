"""What validators say of each other's score files, as far as a leader has found it: read beside the round, never waited
for. A dispute that is found too late for a record is there for the next one."""

from __future__ import annotations

import asyncio
import logging

from muster.node.context import Context
from muster.node.ledger.participant import Errands
from muster.protocol import paths
from muster.protocol.errors import ChainError, StorageError, WireError
from muster.protocol.identity import public_of
from muster.protocol.ledger import Tip
from muster.protocol.rules.disputes import DISPUTED_ROUNDS, carried
from muster.protocol.storage import Store
from muster.protocol.wire import MAX_DISPUTE_BYTES, Dispute, ScoresUsed, decode_dispute

log = logging.getLogger(__name__)


class Disputes:
    """The disputes of recent files, from round to round."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._found: dict[tuple[bytes, str], tuple[Dispute, bytes]] = {}
        self._looked = -1

    def look(self, tip: Tip, errands: Errands) -> None:
        """Look into the validators' buckets in the background, once a round."""
        if self._looked != tip.round:
            self._looked = tip.round
            errands.start(self._read_all(tip))

    async def _read_all(self, tip: Tip) -> None:
        oldest = max(tip.round - DISPUTED_ROUNDS, 0)
        self._found = {key: found for key, found in self._found.items() if found[0].round >= oldest}
        try:
            peers = (await self._context.chain.snapshot()).by_hotkey()
        except ChainError as error:
            log.info("disputes cannot be looked for: %s", error)
            return
        heard = [hotkey for hotkey in tip.spec.genesis.leaders if public_of(hotkey) not in tip.silenced]
        stores = {hotkey: self._context.directory.store(peers[hotkey]) for hotkey in heard if hotkey in peers}
        async with asyncio.TaskGroup() as tasks:
            for hotkey, store in stores.items():
                if store is not None:
                    tasks.create_task(self._read(tip, hotkey, store, range(oldest, tip.round)))

    async def _read(self, tip: Tip, hotkey: str, store: Store, rounds: range) -> None:
        signer = public_of(hotkey)
        for round_ in rounds:
            try:
                for info in await store.list(paths.disputes(tip.run_id, round_), limit=len(tip.validators)):
                    if (signer, info.key) not in self._found:
                        data = await store.get(info.key, max_bytes=MAX_DISPUTE_BYTES)
                        dispute, _ = decode_dispute(data, tip.run_id)
                        if dispute.signer == signer and dispute.round == round_ and dispute.validator in tip.validators:
                            self._found[signer, info.key] = dispute, data
            except (StorageError, WireError) as error:
                log.info("the disputes of %s of round %d cannot be read: %s", hotkey, round_, error)

    def carried(self, tip: Tip, scores: tuple[ScoresUsed, ...], most: int) -> tuple[bytes, ...]:
        """What the open round's record, which uses these scores, carries of what has been found until now, at most so
        many."""
        earlier = (found for found in self._found.values() if found[0].round < tip.round)
        return carried(earlier, tip.silenced, scores, len(tip.validators), most)
