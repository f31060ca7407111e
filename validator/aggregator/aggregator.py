"""The aggregator: follows the ledger, and leads a round when it is its turn."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from muster.node.context import Context
from muster.node.freed import give_back
from muster.node.ledger.participant import Errands, Follower
from muster.node.ledger.reader import Fetched, Reader
from muster.node.ledger.seals import FoundSeal
from muster.node.replica import Replica
from muster.node.telemetry import events
from muster.node.telemetry.health import longest_round
from muster.protocol.chain.base import Snapshot
from muster.protocol.errors import ChainError, MusterError, StorageError
from muster.protocol.ledger import RESCUE, Applied, Tip
from muster.protocol.ledger.round import (
    Duty,
    Event,
    KeySettled,
    Phase,
    RoundState,
    ScoresIn,
    SealSeen,
    SubmissionSeen,
)
from muster.protocol.types import Anchor, Block
from muster.validator.aggregator.disputes import Disputes
from muster.validator.aggregator.leading import Leading
from muster.validator.aggregator.mirroring import mirror
from muster.validator.aggregator.recording import Recording
from muster.validator.aggregator.retention import Retention
from muster.validator.aggregator.sealing import Sealing
from muster.validator.aggregator.signed import Signed
from muster.validator.aggregator.steering import Steering
from muster.validator.aggregator.takeover import Takeover
from muster.validator.aggregator.twice import Twice

log = logging.getLogger(__name__)


class _Open:
    """The open round: what is known of it, its seal and its record; `settled` is what the machine has been told."""

    def __init__(self, leading: Leading, reader: Reader) -> None:
        self.leading = leading
        self.sealing = Sealing(leading)
        self.takeover = Takeover(leading, reader)
        self.recording = Recording(leading, self.sealing)
        self.settled: frozenset[bytes] = frozenset()


class Aggregator(Follower):
    """One aggregator. `rounds` is after how many outer steps' rounds it closes the run when it leads (None: never);
    large payloads wait in the folder `spool` (None: where the system keeps temporary files); in the folder `signed` it
    writes down what it signs (None: nowhere but in its bucket); `keep` is how many bytes of bundles and checkpoints its
    bucket may hold (None: any number)."""

    def __init__(
        self,
        context: Context,
        tip: Tip,
        replica: Replica,
        rounds: int | None,
        spool: Path | None = None,
        signed: Path | None = None,
        keep: int | None = None,
    ) -> None:
        super().__init__(context, tip, replica)
        self._rounds = rounds
        self._spool = spool
        self._signed = Signed(signed, context.offload)
        self._steering = Steering(context)
        self._disputes = Disputes(context)
        self._twice = Twice(context, tip.run_id)
        self._retention = Retention(context, tip.run_id, tip.round, keep)
        self._reader = Reader(context.chain, context.directory, self._twice.saw)
        self._round: _Open | None = None
        self._failing_since: int | None = None

    def duty(self) -> Duty:
        """It leads when it is its turn."""
        return Duty.LEAD if self._tip.leader_in_turn == self.public else Duty.FOLLOW

    async def turn(self, head: Block) -> int | None:
        """The newest of its turns that has begun; where the owner names it, because the run hangs, that goes before.

        Raises:
            ChainError: the chain does not say.
        """
        tip, newest = self._tip, self._tip.turn_at(head.number)
        if head.number >= tip.turn_begins(RESCUE):
            rescue = (await self._reader.rescuers.of(tip)).get(self.public)
            if rescue is not None and rescue.round == tip.round:
                self._open.leading.rescue = rescue.amendment
                return RESCUE
        lately = range(newest, max(newest - len(tip.leaders), 0), -1)
        return next((turn for turn in lately if tip.leader(turn) == self.public), None)

    async def choose_seal(self, found: Sequence[FoundSeal], head: Block) -> FoundSeal | None:  # noqa: ARG002
        """Its own, of an earlier life."""
        return next((one for one in found if one.seal.leader == self.public), None)

    @property
    def closing(self) -> bool:
        """Whether the open round is the one after the last."""
        return self._rounds is not None and self._tip.round >= self._rounds

    def begin(self, errands: Errands) -> None:
        """The round begins with nothing taken in."""
        self._twice.look(self._tip, errands)
        errands.start(self._retention.tidy())
        self._round = _Open(
            Leading(
                self.context,
                self._tip,
                self.replica,
                errands,
                self._steering,
                self._disputes,
                self._twice,
                self._signed,
                self.closing,
                self._spool,
            ),
            self._reader,
        )

    def saw(self, data: bytes) -> None:
        """Whoever signs two may show the second to anybody."""
        self._twice.saw(data)

    @property
    def _open(self) -> _Open:
        assert self._round is not None, "the session begins a round before anything happens in it"
        return self._round

    def known(self, digest: bytes) -> Applied | None:
        """The record this leader made was judged when it was made."""
        return self._open.recording.known(digest)

    async def observe(self, state: RoundState, head: Block) -> list[Event]:
        """New heads before the seal, and in a later turn the seal that there is; keys, payloads and scores after it."""
        if state.duty is not Duty.LEAD:
            return []
        snapshot = await self.context.chain.snapshot()
        open_ = self._open
        leading = open_.leading
        leading.turn = state.turn
        if leading.rescuing:
            return [] if state.scored else [ScoresIn()]
        if state.phase is Phase.SUBMIT:
            return [] if leading.closing else await self._look(snapshot, head)
        seal = (await open_.sealing.standing()).seal
        scored = state.scored or await leading.scored(snapshot, head)
        settled = await leading.reveal(snapshot, head)
        if not scored and len(seal.headers) > self._tip.spec.gauntlet.seats:
            settled &= leading.intake.ended()  # the scores may yet say that others come first
        events: list[Event] = [KeySettled(peer) for peer in sorted(settled - open_.settled)]
        open_.settled |= settled
        return [*events, ScoresIn()] if scored and not state.scored else events

    async def _look(self, snapshot: Snapshot, head: Block) -> list[Event]:
        open_ = self._open
        seen: list[Event] = [SubmissionSeen(peer) for peer in await open_.leading.look(snapshot, head)]
        if not open_.leading.turn:
            return seen
        answered = await open_.takeover.look(self.context.directory.stores(snapshot), head)
        if answered is None:
            return seen
        seal = answered.found.seal
        open_.sealing.adopt(answered.found, answered.heads)
        return [*seen, SealSeen(frozenset(peer for peer, _ in seal.headers), seal.block.number)]

    async def publish_seal(self, head: Block) -> FoundSeal:
        """Sign the list of what is in; of two lives of this leader the first one's seal stands."""
        return await self._open.sealing.publish(head)

    async def publish_record(self, head: Block) -> None:
        """Decide the round, put bundle, checkpoint and record, and anchor it; all of it can be done again."""
        await self._open.recording.publish(head)

    async def apply(self, applied: Applied, fetched: Fetched | None) -> None:
        """Another leader's round is kept in this bucket first, for whoever needs it when that leader is gone; and then
        this aggregator votes for it: its newest anchor says what it judged valid and serves whole.

        Raises:
            ChainError, StorageError: not now; what fails is tried for a round, and then done without.
        """
        before = self._tip
        if before is not applied.tip:
            if fetched is not None and applied.record.leader != self.public:
                try:
                    await mirror(self.context, before, fetched, self.replica, self._spool)
                except StorageError as error:
                    if await self._patient(before, error):
                        raise
                    self.note(events.Unmirrored(before.round, problem=str(error)))
            await super().apply(applied, fetched)
            self._steering.recorded(before, applied.record, applied.digest)
            self._twice.recorded(before, applied.record)
        try:
            await self._vote(Anchor(applied.record.round, applied.digest), applied.tip)
        except (ChainError, StorageError) as error:  # the queue of this hotkey's writes is a folder
            if await self._patient(self._tip, error):
                raise
        self._failing_since = None

    async def _vote(self, anchor: Anchor, tip: Tip) -> None:
        """Anchor a record, which led to this tip, unless that is this aggregator's newest anchor, or the run is ahead.

        The vote is of the list that was in force in the record's round, whoever is on the next one.
        """
        chain, me = self.context.chain, self.context.identity.hotkey
        leaders = set(tip.history.at(anchor.round).genesis.leaders)
        if len(leaders) == 1 or me not in leaders:
            return  # of a list of one the leader's own anchor is the vote
        seen = [one for one in await chain.anchors(anchor.round) if one.hotkey in leaders]
        own = [one.anchor for one in seen if one.hotkey == me]
        behind = any(one.anchor.round > anchor.round for one in seen if one.hotkey != me)
        if not behind and own[-1:] != [anchor]:
            await chain.commit(self.context.identity, self.context.committed, anchor)

    async def finalise(self, round_: int) -> None:
        """Let go of undo logs, and of what there is no room for; what the submissions took goes back to the system."""
        for step in self._steps:
            if step.before.round <= round_:
                self._retention.final(step.applied.record)
        await super().finalise(round_)
        await self.context.offload(give_back)

    async def _patient(self, tip: Tip, error: MusterError) -> bool:
        """Whether what failed is tried again; not for longer than a round."""
        block = (await self.context.chain.head()).number
        if self._failing_since is None:
            self._failing_since = block
        if block < self._failing_since + longest_round(tip.spec):
            return True
        log.error("round %d is done without: %s", tip.round, error)
        return False
