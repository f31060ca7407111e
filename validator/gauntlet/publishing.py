"""Publishing a committed round: its score file, and the weights that follow from it, each once."""

from __future__ import annotations

import logging

from muster.node.context import Context
from muster.node.telemetry import events
from muster.node.telemetry.health import longest_round
from muster.protocol import paths
from muster.protocol.errors import ChainError, StorageError
from muster.protocol.identity import hotkey_of
from muster.protocol.incentive.pay import chain_weights
from muster.protocol.ledger import Tip
from muster.protocol.wire import ScoreFile, decode_scores, max_scores_bytes
from muster.validator.gauntlet.score_store import Committed, ScoreStore, Stage

log = logging.getLogger(__name__)


class Publishing:
    """Puts what the score store has committed where others see it; a later life goes on where one stopped."""

    def __init__(self, context: Context, run_id: bytes, store: ScoreStore) -> None:
        self._context = context
        self._run_id = run_id
        self._store = store

    def read(self, committed: Committed) -> ScoreFile:
        """The file of a committed round.

        Raises:
            WireError: it is not one of this validator and run.
        """
        hotkey = self._context.identity.hotkey
        return decode_scores(committed.file, self._run_id, hotkey, committed.round)[0]

    async def publish(self, committed: Committed, tip: Tip, weights: bool = True) -> None:
        """Store the file and set its weights (unless those of a later round follow), as far as that is not done.

        Storing is given up when the scores steer nothing any more and a round's time is over: the leader has by then
        used what there was.

        Raises:
            ChainError: the chain does not say what block it is at.
            StorageError: the score store cannot be written.
        """
        offload, faults = self._context.offload, self._context.faults
        if committed.stage < Stage.PUBLISHED:
            stored = await self._put(committed, tip)
            await offload(lambda: self._store.reached(committed.record, Stage.PUBLISHED))
            if stored:
                await self._context.chain.announce()
                self._context.journal.note(events.Scored(committed.round, peers=self.read(committed).rows))
        if committed.stage < Stage.DONE:
            if weights:
                faults.trip("score.before_weights")
                await self._set_weights(committed)
            faults.trip("score.before_done")
            await offload(lambda: self._store.reached(committed.record, Stage.DONE))

    async def _put(self, committed: Committed, tip: Tip) -> bool:
        chain, failing_since = self._context.chain, None
        name = paths.scores(self._run_id, committed.round, committed.record)
        while True:
            try:
                self._context.faults.trip("score.before_put")
                if await self._context.bucket.put_if_absent(name, committed.file):
                    return True
                # An earlier try may have stored it; anything else is no file that could be read (`Scoring` looked).
                stands = await self._context.bucket.get(name, max_bytes=max_scores_bytes(tip.spec.data.slots))
                if stands != committed.file:
                    self._unpublished(committed, f"something else lies at {name} in the own bucket")
                return stands == committed.file
            except StorageError as error:
                head = await chain.head()
                failing_since = head.number if failing_since is None else failing_since
                patient = head.number < failing_since + longest_round(tip.spec)
                if not patient or await recorded(self._context, tip, committed.round + tip.spec.gauntlet.lag):
                    self._unpublished(committed, str(error))
                    return False
                log.warning("the scores of round %d cannot be stored yet: %s", committed.round, error)
                await chain.next_block(head.number)

    def _unpublished(self, committed: Committed, problem: str) -> None:
        log.error("the scores of round %d are not published: %s", committed.round, problem)
        self._context.journal.note(events.Unpublished(committed.round, problem=problem))

    async def _set_weights(self, committed: Committed) -> None:
        file, context = self.read(committed), self._context
        weights = chain_weights(
            {row.hotkey: row.incentive for row in file.rows}, {row.hotkey: row.uid for row in file.rows}
        )
        problem = "" if weights else why_nobody(file)
        if weights:
            try:
                await context.chain.set_weights(context.identity, weights)
            except (ChainError, StorageError) as error:  # the queue of this hotkey's writes is a folder
                problem = str(error)
        if problem:
            log.warning("round %d sets no weights: %s", committed.round, problem)
            context.journal.note(events.NoWeights(committed.round, problem=problem))
        else:
            context.journal.note(events.Weights(committed.round, weights=weights))


async def recorded(context: Context, tip: Tip, round_: int) -> bool:
    """Whether an aggregator has anchored a record of this round or a later one.

    Raises:
        ChainError: the chain does not say.
    """
    leaders = {hotkey_of(public) for public in tip.leaders}
    return any(seen.hotkey in leaders for seen in await context.chain.anchors(round_))


def why_nobody(file: ScoreFile) -> str:
    """Why a round pays nobody, in a sentence."""
    rows = file.rows
    if not rows:
        return "no peer with a slot has been measured yet"
    if not any(row.windows for row in rows):
        return "no peer delivered a valid submission in this round"
    if not any(row.evaluated for row in rows):
        return "no peer has been measured yet"
    present = [row for row in rows if row.windows]
    if not any(row.gate for row in present):
        return "the own-data test lets nobody through yet: no peer has shown that it computes its updates itself"
    return "no peer that passes the own-data test lowers the loss"
