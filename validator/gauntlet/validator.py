"""The validator: follows the ledger, and scores what its rounds were worth beside that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from muster.node.context import Context, finished
from muster.node.data.dataset import TextReader
from muster.node.freed import give_back
from muster.node.ledger.participant import Follower, Step
from muster.node.ledger.reader import Fetched
from muster.node.ledger.rewind import Rewind
from muster.node.replica import Replica
from muster.node.telemetry import events
from muster.protocol.ledger import Applied, Tip
from muster.protocol.ledger.round import Duty
from muster.protocol.rules.sampling import sample
from muster.validator.gauntlet.judging import accepted_updates
from muster.validator.gauntlet.score_store import ScoreStore
from muster.validator.gauntlet.scoring import Job, Scoring

log = logging.getLogger(__name__)
T = TypeVar("T")

HELDOUT_BEACON = bytes(32)
"""The held-out windows are drawn once for the whole run, so that losses of different rounds compare."""


class Validator(Follower):
    """A participant that scores.

    Its replica is on an older θ while a round is measured, and on the newest otherwise: whoever uses it holds `_turn`.
    """

    def __init__(
        self,
        context: Context,
        tip: Tip,
        replica: Replica,
        text: TextReader,
        store: ScoreStore,
        spool: Path | None = None,
    ) -> None:
        """Large payloads wait in the folder `spool` (None: where the system keeps temporary files)."""
        super().__init__(context, tip, replica)
        self._text = text
        self._heldout: float | None = None
        self._turn = asyncio.Lock()
        self._rewind = Rewind(replica)
        self._handed: Step | None = None
        self._final = -1
        self._scoring = Scoring(context, self, text, store, spool)

    def duty(self) -> Duty:
        """It follows: what it measures goes into a file, not into the round."""
        return Duty.FOLLOW

    async def beside(self) -> None:
        """Score, until every round of the run has been."""
        await self._scoring.run(self._tip)
        async with self._turn:
            await self._come_back()

    async def at(self, round_: int, work: Callable[[Replica], T]) -> T:
        """Run `work` with the replica where the record of a round was made, while nobody else uses it."""

        def there() -> T:
            self._rewind.to(round_)
            try:
                return work(self.replica)
            finally:
                give_back()

        async with self._turn:
            return await finished(self.context.offload(there))

    async def judge(self, fetched: Fetched) -> Applied:
        """Judge by the newest θ."""
        async with self._turn:
            await self._come_back()
            return await super().judge(fetched)

    async def apply(self, applied: Applied, fetched: Fetched | None) -> None:
        """Take the step, and have the round scored."""
        async with self._turn:
            await self._come_back()
            await super().apply(applied, fetched)

    async def undo(self, round_: int) -> None:
        """Take the newest record back, and what was to be said of it."""
        self._scoring.drop(round_)
        async with self._turn:
            await self._come_back()
            steps = len(self._steps)
            await super().undo(round_)
            if len(self._steps) < steps:
                self._rewind.drop()
                self._handed, self._heldout = None, None

    async def finalise(self, round_: int) -> None:
        """Let go of undo logs that the scoring does not need either; after the closing record there is no round."""
        await super().finalise(round_)
        self._final = max(self._final, round_)
        if self._tip.closed and not self._steps:
            self._scoring.end()

    async def _come_back(self) -> None:
        await self.context.offload(self._rewind.to_newest)

    async def before_apply(self, applied: Applied) -> None:
        """Know the held-out loss of the θ that the round was made from."""
        if self._heldout is None:
            self._heldout = await self.context.offload(self.heldout_loss)
            if applied.record.round:
                self.note(events.Heldout(applied.record.round - 1, loss=self._heldout))

    async def after_apply(self, applied: Applied) -> None:
        """Hand the round over to be scored, once, and measure the new θ on held-out text."""
        step = self._steps[-1]
        if self._handed is not step:
            assert self._heldout is not None, "measured before the step"
            if not applied.tip.closed:
                before = None if self._handed is None else accepted_updates(self._handed.applied)
                self._scoring.add(Job(step, self._heldout, before))
            self._rewind.add(step)
            self._handed = step
            oldest = self._scoring.oldest
            self._rewind.forget(self._final + 1 if oldest is None else min(self._final + 1, oldest))
        if not applied.tip.closed:
            self._heldout = await self.context.offload(self.heldout_loss)
            self.note(events.Heldout(applied.record.round, loss=self._heldout))

    def heldout_loss(self) -> float:
        """Loss of θ on the run's fixed sample of the held-out split, nat/token."""
        gauntlet, data = self._tip.spec.gauntlet, self._tip.spec.data
        windows = self._text.heldout(sample(HELDOUT_BEACON, b"heldout", data.heldout, gauntlet.heldout_windows))
        loss = self.replica.loss(windows)
        give_back()
        return loss
