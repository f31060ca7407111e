"""The scores that steer a round: each validator's newest file that may, read in the background, one at a time each."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from muster.node.directory import Directory
from muster.node.ledger.participant import Errands
from muster.protocol import paths
from muster.protocol.chain.base import Snapshot
from muster.protocol.errors import ObjectMissing, StorageError, WireError
from muster.protocol.identity import hotkey_of, public_of
from muster.protocol.ledger import Tip
from muster.protocol.storage import Store
from muster.protocol.types import Block
from muster.protocol.wire import Record, ScoreFile, ScoresUsed, decode_scores, max_scores_bytes, scores_used

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Newest:
    """The newest file of a validator that has been read."""

    file: ScoreFile
    digest: bytes


class Steering:
    """What a leader knows of the validators' scores, from round to round.

    Only validators of the spec with a permit and a bucket count. One whose file came too late for the last record is
    not waited for until it is in time again: its older scores steer, and cost nobody a block.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._newest: dict[str, _Newest] = {}
        self._reading: set[str] = set()
        self._probed: dict[str, int] = {}
        self._late: set[str] = set()

    async def look(self, tip: Tip, rounds: range, snapshot: Snapshot, errands: Errands, head: Block) -> bool:
        """Look for the files of `rounds`, newest first; True once there is none of the newest left to wait for.

        Raises:
            ChainError: the chain does not say when the look is over.
        """
        if not rounds:
            return True
        stores = self._stores(tip, snapshot)
        started = {
            hotkey: errands.start(self._read(tip, rounds, hotkey, store))
            for hotkey, store in stores.items()
            if hotkey not in self._reading and self._round(hotkey) < rounds[0]
        }
        await errands.wait({task for hotkey, task in started.items() if hotkey not in self._late}, head)
        return all(self._round(hotkey) >= rounds[0] for hotkey in set(stores) - self._late)

    def _stores(self, tip: Tip, snapshot: Snapshot) -> dict[str, Store]:
        """The buckets of the validators that count."""
        peers = snapshot.by_hotkey()
        allowed = (peers[hotkey] for hotkey in tip.spec.genesis.leaders if hotkey in peers and peers[hotkey].permit)
        found = ((peer.hotkey, self._directory.store(peer)) for peer in allowed)
        return {hotkey: store for hotkey, store in found if store is not None}

    def _round(self, hotkey: str) -> int:
        return self._newest[hotkey].file.round if hotkey in self._newest else -1

    async def _read(self, tip: Tip, rounds: range, hotkey: str, store: Store) -> None:
        """Read a validator's file of the newest round and, once a round, the newest there is beyond the one known.

        Without the latter, who is late by one round in every round would soon have no scores that may steer.
        """
        self._reading.add(hotkey)
        try:
            for round_ in range(rounds[0], max(rounds[-1] - 1, self._round(hotkey)), -1):
                if await self._found(tip, hotkey, store, round_) or self._probed.get(hotkey) == rounds[0]:
                    break
            self._probed[hotkey] = rounds[0]
        except StorageError as error:
            log.info("the scores of %s cannot be read: %s", hotkey, error)
        finally:
            self._reading.discard(hotkey)

    async def _found(self, tip: Tip, hotkey: str, store: Store, round_: int) -> bool:
        try:
            data = await store.get(paths.scores(tip.run_id, round_), max_bytes=max_scores_bytes(tip.spec.data.slots))
            file, digest = decode_scores(data, tip.run_id, hotkey, round_)
        except ObjectMissing:
            return False
        except WireError as error:
            log.warning("the scores of %s for round %d cannot be used: %s", hotkey, round_, error)
            return False
        self._newest[hotkey] = _Newest(file, digest)
        return True

    def used(self, tip: Tip, snapshot: Snapshot) -> tuple[ScoresUsed, ...]:
        """The scores that steer the open round as far as they are in, in key order of their validators."""
        peers = snapshot.by_hotkey()
        known = tip.remembered | {public_of(hotkey) for hotkey in peers}
        newest = (
            (peers[hotkey], self._newest[hotkey])
            for hotkey in self._stores(tip, snapshot)
            if self._round(hotkey) in tip.score_rounds
        )
        files = (scores_used(found.file, found.digest, peer.stake, known) for peer, found in newest)
        return tuple(sorted(files, key=lambda scores: scores.validator))

    def recorded(self, tip: Tip, record: Record) -> None:
        """Learn from the record of `tip`'s round whose scores came in time for it."""
        if tip.score_rounds and record.opening is not None:
            in_time = {hotkey_of(scores.validator) for scores in record.scores if scores.round == tip.score_rounds[0]}
            self._late = set(tip.spec.genesis.leaders) - in_time
