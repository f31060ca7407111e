"""The validator: measures what each submission was worth while it still holds the θ it was made from."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from muster.kernels import SparseUpdate
from muster.node.context import Context
from muster.node.data.dataset import TextReader
from muster.node.ledger.participant import Errands, Follower
from muster.node.ledger.reader import EVALUATE
from muster.node.replica import Replica
from muster.node.submission import Submissions
from muster.node.telemetry import events
from muster.node.telemetry.health import longest_round
from muster.protocol import paths, wire
from muster.protocol.errors import ChainError, StorageError
from muster.protocol.identity import hotkey_of, public_of
from muster.protocol.incentive.pay import chain_weights, incentives
from muster.protocol.incentive.row import PeerState, ScoreRow
from muster.protocol.incentive.score import Absent, Failed, NotEvaluated, Outcome, judge, peer_score
from muster.protocol.ledger import Applied, Tip
from muster.protocol.ledger.round import Duty
from muster.protocol.reasons import DECISIONS, UNAVAILABLE
from muster.protocol.rules.assignment import assigned, share, unassigned
from muster.protocol.rules.sampling import sample
from muster.protocol.spec.layout import max_payload_bytes
from muster.protocol.wire import ScoreFile, Signed, encode_scores
from muster.validator.gauntlet.evaluation import Candidate, Evaluation, Measured, assigned_sample, evaluate, own_beacon
from muster.validator.gauntlet.score_store import ScoreStore
from muster.validator.gauntlet.screening import Screening, by_need

log = logging.getLogger(__name__)

HELDOUT_BEACON = bytes(32)
"""The held-out windows are drawn once for the whole run, so that losses of different rounds compare."""


MEASURED = DECISIONS | {""}
"""Reasons of submissions whose work is measured: nothing is known to be wrong with it."""

Work = tuple[str, SparseUpdate, list[int]]
"""A hotkey, its update, and the windows it says it trained on."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a round's judgement is made of."""

    states: Mapping[str, PeerState]
    evaluations: Mapping[str, Evaluation]
    heldout: float


@dataclass(slots=True)
class _Round:
    """How far a round's scoring is, so that a repeat does nothing twice: `record` is the digest of the record judged,
    `failing_since` the block of the first attempt to publish that failed, `published` whether there is no more to do.
    """

    record: bytes
    judged: Judged
    failing_since: int | None = None
    published: bool = False


class Validator(Follower):
    """A participant that scores. Its score store keeps every peer's standing by hotkey."""

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
        self._spool = spool
        self._errands: Errands | None = None
        self._text = text
        self._store = store
        self._heldout: float | None = None
        self._scoring: _Round | None = None

    def duty(self) -> Duty:
        """It follows: what it measures goes into a file, not into the round."""
        return Duty.FOLLOW

    def begin(self, errands: Errands) -> None:
        """What is fetched beside the record is fetched in the background."""
        self._errands = errands

    async def before_apply(self, applied: Applied) -> None:
        """Judge the round, publish the scores, set the weights."""
        round_ = applied.record.round
        if self._heldout is None:
            self._heldout = await self.context.offload(self.heldout_loss)
            if round_:
                self.note(events.Heldout(round_ - 1, loss=self._heldout))
        newest = await self.context.offload(self._store.newest_round)
        if applied.tip.closed or (newest is not None and newest >= round_):
            return
        if self._scoring is None or self._scoring.record != applied.digest:
            self._scoring = _Round(applied.digest, await self._measure(applied, newest))
        scoring = self._scoring
        if not scoring.published:
            await self._try_to_publish(applied, scoring)
        await self.context.offload(lambda: self._store.commit(round_, scoring.judged.states))

    async def _measure(self, applied: Applied, newest: int | None) -> Judged:
        """Measure and judge what can be measured of the round; `newest` is the newest one in the store."""
        states = {} if newest is None else await self.context.offload(lambda: self._store.states(newest))
        beacon = await self._beacon(applied)
        candidates = [] if beacon is None else await self._candidates(applied, states, beacon)
        return await self.context.offload(lambda: self._judge(applied, states, candidates, beacon))

    async def _beacon(self, applied: Applied) -> bytes | None:
        """What this validator draws its windows of the round by, once the chain has it.

        None where the leader has by then decided what these scores could have steered.

        Raises:
            ChainError: the chain does not say.
        """
        chain, spec, round_ = self.context.chain, self._tip.spec, applied.record.round
        at = applied.sealed.number + spec.clock.evaluate
        head = await chain.head()
        while not await self._recorded(round_ + spec.gauntlet.lag):
            if head.number >= at:
                return own_beacon(await chain.beacon(EVALUATE, round_, at), self.public)
            head = await chain.next_block(head.number)
        return None

    async def _try_to_publish(self, applied: Applied, scoring: _Round) -> None:
        """Publish the scores and set the weights; give up when they steer nothing any more, or a round's time is over.

        Raises:
            ChainError, StorageError: not now; the record is applied when it is done, or pointless.
        """
        round_, spec = applied.record.round, self._tip.spec
        try:
            if math.isfinite(scoring.judged.heldout):
                await self._publish(applied, scoring.judged)
            else:
                self._unpublished(
                    round_, "the loss of θ is not finite, and no loss after a step can be compared with it"
                )
        except StorageError as error:
            block = (await self.context.chain.head()).number
            if scoring.failing_since is None:
                scoring.failing_since = block
            patient = block < scoring.failing_since + longest_round(spec)
            if patient and not await self._recorded(round_ + spec.gauntlet.lag):
                raise
            self._unpublished(round_, str(error))
        scoring.published = True

    def _unpublished(self, round_: int, problem: str) -> None:
        log.error("the scores of round %d are not published: %s", round_, problem)
        self.note(events.Unpublished(round_, problem=problem))

    async def _recorded(self, round_: int) -> bool:
        """Whether the leader has anchored a record of this round or a later one."""
        leader = hotkey_of(self._tip.leader_in_turn)
        return any(seen.hotkey == leader for seen in await self.context.chain.anchors(round_))

    async def after_apply(self, applied: Applied) -> None:
        """Measure the new θ on held-out text."""
        if not applied.tip.closed:
            self._heldout = await self.context.offload(self.heldout_loss)
            self.note(events.Heldout(applied.record.round, loss=self._heldout))

    def heldout_loss(self) -> float:
        """Loss of θ on the run's fixed sample of the held-out split, nat/token."""
        gauntlet, data = self._tip.spec.gauntlet, self._tip.spec.data
        return self.replica.loss(
            self._text.heldout(sample(HELDOUT_BEACON, b"heldout", data.heldout, gauntlet.heldout_windows))
        )

    async def _candidates(self, applied: Applied, states: Mapping[str, PeerState], beacon: bytes) -> list[Work]:
        """Every submission that can be measured, with the windows it says it trained on; accepted ones first."""
        accepted, others = iter(applied.updates), []
        found: list[Work] = []
        for entry in applied.record.entries:
            signed = wire.decode_head(entry.head, self._tip.run_id) if entry.reason in MEASURED else None
            if signed is None:
                continue
            if entry.reason:
                others.append(signed)
            else:
                found.append(self._work(signed, next(accepted)))
        ranked = by_need(others, states, beacon)
        fetched = await self._fetched(ranked, applied.record.seal)
        return found + [self._work(signed, update) for signed, update in fetched]

    def _work(self, signed: Signed, update: SparseUpdate) -> Work:
        header, tip = signed.header, self._tip
        windows = assigned(tip.opening.assign.value, header.uid, tip.spec.data, header.windows)
        return header.hotkey, update, windows

    async def _fetched(self, ranked: Sequence[Signed], seal: bytes) -> list[tuple[Signed, SparseUpdate]]:
        """Valid submissions that are not in the bundle, from their peers' buckets, as many as come in time."""
        if not ranked or self._errands is None:
            return []
        context, tip = self.context, self._tip
        snapshot = await context.chain.snapshot()
        screening = Screening(
            Submissions(tip, context.offload, self._spool),
            seal,
            context.directory.stores(snapshot),
            self._errands,
            max_payload_bytes(tip.codec),
        )
        last = tip.round + tip.spec.gauntlet.lag - 1
        return await screening.run(ranked, context.chain, tip.spec.clock, lambda: self._recorded(last))

    def _judge(
        self,
        applied: Applied,
        states: Mapping[str, PeerState],
        found: list[Work],
        beacon: bytes | None,
    ) -> Judged:
        """Measure and judge, with the replica at θ of the round; without a beacon it is too late for either."""
        spec = self._tip.spec
        assert self._heldout is not None, "measured before the round is judged"
        evaluations: dict[str, Evaluation] = {}
        if found and beacon is not None:
            positions = sample(beacon, b"unassigned", share(spec.data), spec.gauntlet.eval_windows)
            common = self._text.windows(unassigned(self._tip.opening.assign.value, spec.data, positions))
            candidates = [
                Candidate(hotkey, update, self._sampled(beacon, hotkey, windows)) for hotkey, update, windows in found
            ]
            scale = spec.gauntlet.step_scale * spec.outer.alpha_at(self.replica.outer_step)
            evaluations = evaluate(self.replica, candidates, common, scale)
        outcomes = {} if beacon is None else _outcomes(applied, states, evaluations)
        return Judged(judge(states, outcomes, spec.gauntlet), evaluations, self._heldout)

    def _sampled(self, beacon: bytes, hotkey: str, windows: list[int]) -> Tensor:
        count = self._tip.spec.gauntlet.eval_windows
        return self._text.windows(assigned_sample(beacon, public_of(hotkey), windows, count))

    async def _publish(self, applied: Applied, judged: Judged) -> None:
        gauntlet, round_ = self._tip.spec.gauntlet, applied.record.round
        snapshot = await self.context.chain.snapshot()
        uids = {peer.hotkey: peer.uid for peer in snapshot.peers}
        scores = {hotkey: peer_score(state, gauntlet) for hotkey, state in judged.states.items()}
        shares = incentives(scores, gauntlet.power)
        rows = tuple(
            _row(judged.states[hotkey], uids[hotkey], judged.evaluations.get(hotkey), scores[hotkey], shares[hotkey])
            for hotkey in sorted(judged.states.keys() & uids.keys(), key=public_of)
        )
        identity = self.context.identity
        file = ScoreFile(self._tip.run_id, identity.public, round_, applied.digest, judged.heldout, rows)
        self.context.faults.trip("score.before_put")
        # What stands may have been used already; a second life, which may know less, must not replace it.
        name = paths.scores(self._tip.run_id, round_, applied.digest)
        await self.context.bucket.put_if_absent(name, encode_scores(file, identity))
        self.note(events.Scored(round_, peers=rows))
        weights = chain_weights(shares, uids)
        if weights:
            try:
                await self.context.chain.set_weights(self.context.identity, weights)
                self.note(events.Weights(round_, weights=weights))
            except (ChainError, StorageError) as error:  # the queue of this hotkey's writes is a folder
                log.info("weights are not set this round: %s", error)


def _outcomes(
    applied: Applied, states: Mapping[str, PeerState], evaluations: Mapping[str, Evaluation]
) -> dict[str, Outcome]:
    """What the record and the measurements say of each peer; a peer known to the store but not sealed is absent."""
    outcomes: dict[str, Outcome] = {hotkey: Absent() for hotkey in states}
    for entry in applied.record.entries:
        hotkey = hotkey_of(entry.public)
        evaluation = evaluations.get(hotkey)
        if isinstance(evaluation, Measured):
            outcomes[hotkey] = evaluation.outcome()
        elif evaluation is not None:
            outcomes[hotkey] = evaluation
        elif entry.reason in MEASURED or entry.reason == UNAVAILABLE:
            outcomes[hotkey] = NotEvaluated()
        else:
            outcomes[hotkey] = Failed(entry.reason)
    return outcomes


def _row(state: PeerState, uid: int, evaluation: Evaluation | None, score: float, incentive: float) -> ScoreRow:
    measured = evaluation if isinstance(evaluation, Measured) else None
    return ScoreRow(
        **asdict(state),
        uid=uid,
        assigned_before=measured.assigned.before if measured else None,
        assigned_after=measured.assigned.after if measured else None,
        unassigned_before=measured.unassigned.before if measured else None,
        unassigned_after=measured.unassigned.after if measured else None,
        peer_score=score,
        incentive=incentive,
    )
