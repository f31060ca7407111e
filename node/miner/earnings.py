"""What validators make of a miner's work: read from their score files beside the round, which never waits for it."""

from __future__ import annotations

import asyncio
import logging

from muster.node.context import Context
from muster.node.telemetry import events
from muster.protocol import paths
from muster.protocol.chain.base import Peer
from muster.protocol.errors import ChainError, StorageError, WireError
from muster.protocol.incentive.row import ScoreRow
from muster.protocol.incentive.words import last_reason, ranked
from muster.protocol.ledger import Applied, Tip
from muster.protocol.wire import ScoreFile, decode_scores, max_scores_bytes

log = logging.getLogger(__name__)

LOOK_SECONDS = 20.0
"""How long the one look of a round may take."""

READ_SECONDS = 10.0
"""How long one file may take: all are read at once, and who hangs hides nobody else."""

SPARE = 2
"""Rounds beyond the lag within which scores are looked for: a validator that is late by more says nothing new."""


class Earnings:
    """Notes, once for each round that has a score file, what the validator with the most stake says of this miner.

    Score files are named by the record they judge, so only rounds that were applied here can be looked up. A file that
    is not there, or cannot be read, is nothing, and so is one that comes after that of a later round.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._records: dict[int, bytes] = {}
        self._told = -1

    def applied(self, applied: Applied) -> None:
        """A record has been applied."""
        round_ = applied.record.round
        self._records[round_] = applied.digest
        kept = round_ - applied.tip.spec.gauntlet.lag - SPARE
        self._records = {number: digest for number, digest in self._records.items() if number >= kept}

    async def look(self, tip: Tip) -> None:
        """Look for score files of rounds not told of yet; raises nothing and ends in time."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._look(tip)
        except (ChainError, StorageError, TimeoutError) as error:
            log.debug("what this miner earns cannot be seen: %s", error or "no answer in time")

    async def _look(self, tip: Tip) -> None:
        snapshot = (await self._context.chain.snapshot()).by_hotkey()
        validators = [snapshot[hotkey] for hotkey in tip.spec.genesis.leaders if hotkey in snapshot]
        validators.sort(key=lambda peer: -peer.stake)
        rounds = sorted(round_ for round_ in self._records if self._told < round_ < tip.round)
        wanted = [(round_, self._records[round_], validator) for round_ in rounds for validator in validators]
        found = await asyncio.gather(*(self._read(tip, *one) for one in wanted))
        for file in found:
            if file is not None and file.round > self._told:
                self._told = file.round
                self._note(file)

    async def _read(self, tip: Tip, round_: int, record: bytes, validator: Peer) -> ScoreFile | None:
        store = self._context.directory.store(validator)
        if store is None:
            return None
        try:
            name, cap = paths.scores(tip.run_id, round_, record), max_scores_bytes(tip.spec.data.slots)
            data = await store.get(name, max_bytes=cap, deadline=READ_SECONDS)
            file, _ = decode_scores(data, tip.run_id, validator.hotkey, round_)
        except (StorageError, WireError) as error:
            log.debug("the scores of %s for round %d cannot be read: %s", validator.hotkey, round_, error)
            return None
        return file if file.record == record else None

    def _note(self, file: ScoreFile) -> None:
        own = self._context.identity.hotkey
        row: ScoreRow | None = next((row for row in file.rows if row.hotkey == own), None)
        if row is None:
            return
        judged = events.Judged(
            file.round,
            validator=file.hotkey,
            peers=ranked(file.rows),
            share=row.incentive,
            reason=last_reason(row),
            rank=row.rank,
        )
        self._context.journal.note(judged)
