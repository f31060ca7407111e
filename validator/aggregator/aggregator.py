"""The aggregator: follows the ledger, and leads a round when it is its turn."""

from __future__ import annotations

import logging
from pathlib import Path

from muster.node.context import Context
from muster.node.freed import give_back
from muster.node.ledger.objects import BULK_DEADLINE
from muster.node.ledger.participant import Errands, Follower
from muster.node.ledger.reader import Fetched, FoundSeal
from muster.node.replica import Replica
from muster.node.telemetry import events
from muster.node.telemetry.health import longest_round
from muster.protocol import paths
from muster.protocol.errors import StorageError
from muster.protocol.ledger import Applied, Tip
from muster.protocol.ledger.round import Duty, Event, KeySettled, Phase, RoundState, ScoresIn, SubmissionSeen
from muster.protocol.types import Block
from muster.validator.aggregator.disputes import Disputes
from muster.validator.aggregator.leading import Leading
from muster.validator.aggregator.recording import Recording
from muster.validator.aggregator.sealing import Sealing
from muster.validator.aggregator.steering import Steering

log = logging.getLogger(__name__)


class _Open:
    """The open round: what is known of it, its seal and its record; `settled` is what the machine has been told."""

    def __init__(self, leading: Leading) -> None:
        self.leading = leading
        self.sealing = Sealing(leading)
        self.recording = Recording(leading, self.sealing)
        self.settled: frozenset[bytes] = frozenset()


class Aggregator(Follower):
    """One aggregator. `rounds` is after how many outer steps' rounds it closes the run when it leads (None: never);
    large payloads wait in the folder `spool` (None: where the system keeps temporary files)."""

    def __init__(
        self, context: Context, tip: Tip, replica: Replica, rounds: int | None, spool: Path | None = None
    ) -> None:
        super().__init__(context, tip, replica)
        self._rounds = rounds
        self._spool = spool
        self._steering = Steering(context)
        self._disputes = Disputes(context)
        self._round: _Open | None = None
        self._failing_since: int | None = None

    def duty(self) -> Duty:
        """It leads when it is its turn."""
        return Duty.LEAD if self._tip.leader_in_turn == self.public else Duty.FOLLOW

    @property
    def closing(self) -> bool:
        """Whether the open round is the one after the last."""
        return self._rounds is not None and self._tip.round >= self._rounds

    def begin(self, errands: Errands) -> None:
        """The round begins with nothing taken in."""
        steering, disputes = self._steering, self._disputes
        self._round = _Open(
            Leading(self.context, self._tip, self.replica, errands, steering, disputes, self.closing, self._spool)
        )

    @property
    def _open(self) -> _Open:
        assert self._round is not None, "the session begins a round before anything happens in it"
        return self._round

    def known(self, digest: bytes) -> Applied | None:
        """The record this leader made was judged when it was made."""
        return self._open.recording.known(digest)

    async def observe(self, state: RoundState, head: Block) -> list[Event]:
        """New heads before the seal; keys, payloads and scores after it."""
        if state.duty is not Duty.LEAD:
            return []
        snapshot = await self.context.chain.snapshot()
        open_ = self._open
        leading = open_.leading
        if state.phase is Phase.SUBMIT:
            return [] if leading.closing else [SubmissionSeen(peer) for peer in await leading.look(snapshot, head)]
        seal = (await open_.sealing.standing()).seal
        scored = state.scored or await leading.scored(snapshot, head)
        settled = await leading.reveal(snapshot, head)
        if not scored and len(seal.headers) > self._tip.spec.gauntlet.seats:
            settled &= leading.intake.ended()  # the scores may yet say that others come first
        events: list[Event] = [KeySettled(peer) for peer in sorted(settled - open_.settled)]
        open_.settled |= settled
        return [*events, ScoresIn()] if scored and not state.scored else events

    async def publish_seal(self, head: Block) -> FoundSeal:
        """Sign the list of what is in; of two lives of this leader the first one's seal stands."""
        return await self._open.sealing.publish(head)

    async def publish_record(self, head: Block) -> None:
        """Decide the round, put bundle, checkpoint and record, and anchor it; all of it can be done again."""
        await self._open.recording.publish(head)

    async def apply(self, applied: Applied, fetched: Fetched | None) -> None:
        """Another leader's round is kept in this bucket first, for whoever joins when that leader is gone.

        Raises:
            ChainError, StorageError: not now; a bucket that takes nothing is tried for a round, and then done without.
        """
        before = self._tip
        if fetched is not None and applied.record.leader != self.public:
            try:
                await self._mirror(before, fetched)
            except StorageError as error:
                await self._check_patience(before, error)
        await super().apply(applied, fetched)
        self._failing_since = None
        self._steering.recorded(before, applied.record, applied.digest)

    async def finalise(self, round_: int) -> None:
        """Let go of undo logs; what the round's submissions took goes back to the system."""
        await super().finalise(round_)
        await self.context.offload(give_back)

    async def _check_patience(self, tip: Tip, error: StorageError) -> None:
        """Raise the error of a copy that could not be kept, unless that has been tried for long enough."""
        block = (await self.context.chain.head()).number
        if self._failing_since is None:
            self._failing_since = block
        if block < self._failing_since + longest_round(tip.spec):
            raise error
        log.error("round %d is not mirrored: %s", tip.round, error)
        self.note(events.Unmirrored(tip.round, problem=str(error)))

    async def _mirror(self, tip: Tip, fetched: Fetched) -> None:
        bucket, run_id, round_, digest = self.context.bucket, tip.run_id, tip.round, fetched.digest
        if fetched.bundle:
            await bucket.put(paths.bundle(run_id, round_, digest), fetched.bundle, deadline=BULK_DEADLINE)
        await bucket.put(paths.seal(run_id, round_, fetched.seal_digest), fetched.seal_data)
        await bucket.put(paths.record(run_id, round_, digest), fetched.record_data)
