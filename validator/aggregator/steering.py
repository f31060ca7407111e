"""The scores that steer a round: each validator's newest file that may, read in the background, one at a time each."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from muster.node.context import Context
from muster.node.ledger.participant import Errands
from muster.node.ledger.reader import Reader
from muster.protocol import paths
from muster.protocol.chain.base import Snapshot
from muster.protocol.errors import LedgerError, ObjectMissing, StorageError, WireError
from muster.protocol.identity import hotkey_of, public_of
from muster.protocol.ledger import SCORES_AGE, Tip
from muster.protocol.ledger.lineage import Lineage
from muster.protocol.storage import Store
from muster.protocol.types import Anchor, Block
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

    Of each round only the file of this ledger's record is read, by that record's digest, and it steers only if it names
    that very record. Every record names the one before it, so whoever has applied them knows their digests. A leader
    that has begun at a checkpoint reads those before it back in its own bucket, one after the other, when it looks for
    so old a file. (To list what a validator has of a round would show several where it judged siblings, and not which
    of them is the ledger's.)
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._reader = Reader(context.chain, context.directory)
        self._lineage = Lineage()
        self._reading_back = asyncio.Lock()
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
        heard = (hotkey for hotkey in tip.spec.genesis.leaders if public_of(hotkey) not in tip.silenced)
        allowed = (peers[hotkey] for hotkey in heard if hotkey in peers and peers[hotkey].permit)
        found = ((peer.hotkey, self._context.directory.store(peer)) for peer in allowed)
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
        except (StorageError, LedgerError) as error:
            log.info("the scores of %s cannot be read: %s", hotkey, error)
        finally:
            self._reading.discard(hotkey)

    async def _found(self, tip: Tip, hotkey: str, store: Store, round_: int) -> bool:
        record = await self._record(tip, round_)
        name = paths.scores(tip.run_id, round_, record)
        try:
            data = await store.get(name, max_bytes=max_scores_bytes(tip.spec.data.slots))
            file, digest = decode_scores(data, tip.run_id, hotkey, round_)
        except ObjectMissing:
            return False
        except WireError as error:
            log.warning("the scores of %s for round %d cannot be used: %s", hotkey, round_, error)
            return False
        if file.record != record:
            log.warning("the scores of %s for round %d cannot be used: they judge another record", hotkey, round_)
            return False
        self._newest[hotkey] = _Newest(file, digest)
        return True

    async def _record(self, tip: Tip, round_: int) -> bytes:
        """The digest of this ledger's record of a round before the open one.

        Raises:
            StorageError, LedgerError: it follows from a record that is not to be had in the own bucket.
        """
        newest = Anchor(tip.round - 1, tip.parent)
        while (at := self._lineage.trace(newest, round_)).round > round_:
            async with self._reading_back:
                if self._lineage.trace(newest, round_) == at:  # nobody else has read it meanwhile
                    record, _ = await self._reader.record(self._context.bucket, tip, at.round, at.digest)
                    self._lineage.take(at, record, at.digest)
        return at.digest

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

    def recorded(self, tip: Tip, record: Record, digest: bytes) -> None:
        """Learn from the record of `tip`'s round, which has this digest: whose scores came in time, and its parent."""
        self._lineage.take(Anchor(tip.round, digest), record, digest)
        oldest = tip.round + 1 - tip.spec.gauntlet.lag - SCORES_AGE
        self._lineage.forget(oldest + 1)
        if tip.score_rounds and record.opening is not None:
            in_time = {hotkey_of(scores.validator) for scores in record.scores if scores.round == tip.score_rounds[0]}
            self._late = set(tip.spec.genesis.leaders) - in_time
