"""The aggregator: follows the ledger and, when it leads, seals the round, decides it and signs the record."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from muster.node.checkpoint import make_checkpoint
from muster.node.ledger.participant import Errands, Follower, Surroundings, possession
from muster.node.ledger.reader import ASSIGN, BULK_DEADLINE, EVALUATE, MAX_SEAL_BYTES, POSSESS, Fetched, draw
from muster.node.replica import Replica
from muster.node.submission import Submissions
from muster.protocol import ledger, paths, wire
from muster.protocol.chain.base import Anchor, Block, Snapshot
from muster.protocol.errors import LedgerError, ObjectDamaged, ObjectMissing, WireError
from muster.protocol.identity import public_of
from muster.protocol.ledger import Applied, Tip
from muster.protocol.round import Event, KeySettled, Phase, Role, RoundState, ScoresIn, SubmissionSeen
from muster.protocol.wire import ScoresUsed, Seal
from muster.validator.aggregator.bundle import Bundle, make_bundle
from muster.validator.aggregator.compose import Decision, Work, compose
from muster.validator.aggregator.intake import Intake
from muster.validator.aggregator.steering import Steering

log = logging.getLogger(__name__)

MAX_AMENDMENT_BYTES = 8192


@dataclass(slots=True)
class _Open:
    """What this process knows of the round it leads.

    `draft` is the seal it is about to publish, `seal` the one that stands (each with its bytes' digest); `settled`
    what the machine has been told; `made` the record it decided, so that it is decided once.
    """

    intake: Intake
    errands: Errands
    draft: tuple[Seal, bytes, bytes] | None = None
    seal: tuple[Seal, bytes] | None = None
    settled: set[bytes] = field(default_factory=set)
    made: _Made | None = None


@dataclass(frozen=True, slots=True)
class _Made:
    """A record of its own making, judged, with all that has to be published for it."""

    data: bytes
    applied: Applied
    bundle: Bundle


class Aggregator(Follower):
    """One aggregator. `rounds` is after how many outer steps' rounds it closes the run when it leads (None: never);
    large payloads wait in the folder `spool` (None: where the system keeps temporary files)."""

    def __init__(
        self, surroundings: Surroundings, tip: Tip, replica: Replica, rounds: int | None, spool: Path | None = None
    ) -> None:
        super().__init__(surroundings, tip, replica)
        self._rounds = rounds
        self._spool = spool
        self._steering = Steering(surroundings.directory)
        self._round: _Open | None = None

    def role(self) -> Role:
        """It leads when it is its turn."""
        return Role.LEADER if self._tip.leader_in_turn == self.public else Role.FOLLOWER

    @property
    def closing(self) -> bool:
        """Whether the open round is the one after the last."""
        return self._rounds is not None and self._tip.round >= self._rounds

    def begin(self, errands: Errands) -> None:
        """The round begins with nothing taken in."""
        tip, offload = self._tip, self.surroundings.offload
        facts = tip.facts(possession(tip, self.replica))
        self._round = _Open(Intake(facts, Submissions(tip, offload, self._spool), errands, offload), errands)

    @property
    def _open(self) -> _Open:
        assert self._round is not None, "the session begins a round before anything happens in it"
        return self._round

    def known(self, digest: bytes) -> Applied | None:
        """The record this leader made was judged when it was made."""
        made = self._open.made
        return made.applied if made is not None and made.applied.digest == digest else None

    async def apply(self, applied: Applied, fetched: Fetched | None) -> None:
        """Another leader's round is kept in this bucket first, for whoever joins when that leader is gone."""
        before = self._tip
        if fetched is not None and applied.record.leader != self.public:
            await self._mirror(before, fetched)
        await super().apply(applied, fetched)
        self._steering.recorded(before, applied.record)

    async def _mirror(self, tip: Tip, fetched: Fetched) -> None:
        bucket, run_id, round_ = self.surroundings.bucket, tip.run_id, tip.round
        if fetched.bundle:
            await bucket.put(paths.bundle(run_id, round_), fetched.bundle, deadline=BULK_DEADLINE)
        await bucket.put(paths.seal(run_id, round_), fetched.seal_data)
        await bucket.put(paths.record(run_id, round_), fetched.record_data)

    async def observe(self, state: RoundState, head: Block) -> list[Event]:
        """New heads before the seal; keys, payloads and scores after it."""
        if state.role is not Role.LEADER:
            return []
        snapshot = await self.surroundings.chain.snapshot()
        stores = self.surroundings.directory.stores(snapshot)
        intake, events = self._open.intake, list[Event]()
        if state.phase is Phase.SUBMIT:
            if not state.closing:
                intake.facts = self._tip.facts(intake.facts.possession, _uids(snapshot))
                events += [SubmissionSeen(peer) for peer in await intake.look(stores, head)]
            return events
        seal, _ = await self._sealed()
        scored = state.scored or await self._steering.look(
            self._tip, self._score_rounds, snapshot, self._open.errands, head
        )
        intake.recheck(_uids(snapshot))
        settled = await self._reveal(snapshot, head)
        if not scored and len(seal.headers) > self._tip.spec.gauntlet.seats:
            settled &= intake.ended()  # the scores may yet say that others come first
        events += [KeySettled(peer) for peer in sorted(settled - self._open.settled)]
        self._open.settled |= settled
        return [*events, ScoresIn()] if scored and not state.scored else events

    @property
    def _score_rounds(self) -> range:
        """The rounds whose scores are waited for: a closing round is steered by none, but the last ones shall be in."""
        return (
            range(self._tip.round - 1, self._tip.round - 2, -1)[: self._tip.round]
            if self.closing
            else self._tip.score_rounds
        )

    def _scores(self, snapshot: Snapshot) -> tuple[ScoresUsed, ...]:
        return () if self.closing else self._steering.used(self._tip, snapshot)

    async def _reveal(self, snapshot: Snapshot, head: Block) -> frozenset[bytes]:
        """Go on fetching what may get a seat, by what is known of the scores now."""
        intake, tip = self._open.intake, self._tip
        order = tip.order(intake.candidates(), self._scores(snapshot))
        stores = self.surroundings.directory.stores(snapshot)
        return await intake.reveal(stores, order, tip.spec.gauntlet.seats, head)

    async def publish_seal(self, head: Block) -> Seal:
        """Sign the list of what is in; of two lives of this leader the first one's seal stands."""
        tip, open_, bucket = self._tip, self._open, self.surroundings.bucket
        if open_.draft is None:
            open_.draft = await self._draft_seal(head)
        seal, digest, data = open_.draft
        self.surroundings.faults.trip("seal.before_put")
        key = paths.seal(tip.run_id, tip.round)
        if await bucket.head(key) is None:  # or the heads of the seal that stands would be lost
            await bucket.put(paths.heads(tip.run_id, tip.round), open_.intake.save())
        if await bucket.put_if_absent(key, data):
            open_.seal = seal, digest
        stands, standing = await self._sealed()
        if standing == digest:
            self.note("sealed", round=tip.round, block=seal.block.number, submissions=len(seal.headers))
        return stands

    async def _draft_seal(self, head: Block) -> tuple[Seal, bytes, bytes]:
        """What is in now, as a seal; once made it is published, unless another stands already; none is made again."""
        tip, intake = self._tip, self._open.intake
        stores = self.surroundings.directory.stores(await self.surroundings.chain.snapshot())
        early = await intake.early(stores, head)
        listed = tuple((public, ledger.head_digest(taken.head.data)) for public, taken in sorted(intake.peers.items()))
        seal = Seal(tip.run_id, self.public, tip.round, tip.parent, 0, head, listed, early)
        intake.close(seal)
        data = wire.encode_seal(seal, self.surroundings.identity)
        return seal, wire.digest_of(data), data

    async def _sealed(self) -> tuple[Seal, bytes]:
        """This round's seal; one that an earlier life of this process made is read back, with the heads it lists.

        Raises:
            StorageError: it cannot be read now, or what was read is damaged.
        """
        open_, tip, bucket = self._open, self._tip, self.surroundings.bucket
        if open_.seal is None:
            data = await bucket.get(paths.seal(tip.run_id, tip.round), max_bytes=MAX_SEAL_BYTES)
            if open_.draft is not None and data == open_.draft[2]:  # it was put, and only the answer was lost
                open_.seal = open_.draft[:2]
                return open_.seal
            try:
                seal, digest = wire.decode_seal(data, tip.run_id)
            except WireError as error:
                raise ObjectDamaged(f"the own seal of round {tip.round} is not readable: {error}") from error
            saved = await bucket.get(paths.heads(tip.run_id, tip.round), max_bytes=wire.MAX_BODY_BYTES)
            open_.intake.load(saved, seal)
            open_.intake.close(seal)
            open_.seal = seal, digest
        return open_.seal

    async def publish_record(self, head: Block) -> None:
        """Decide the round, put bundle, checkpoint and record, and anchor it; all of it can be done again."""
        tip, identity, chain = self._tip, self.surroundings.identity, self.surroundings.chain
        own = [seen.anchor for seen in await chain.anchors(tip.round) if seen.hotkey == identity.hotkey]
        if not own:
            digest = await self._put_record(head)
            await chain.commit(identity, self.surroundings.location, Anchor(tip.round, digest))
        elif own[0].round == tip.round:  # it was written, and only the answer was lost
            digest = own[0].digest
        else:
            return
        made = self._open.made
        counts = {} if made is None else {"accepted": len(made.applied.record.accepted)}
        self.note("recorded", round=tip.round, record=digest.hex(), **counts)

    async def _put_record(self, head: Block) -> bytes:
        """Put bundle and record, unless a record stands; returns the digest of the one that stands in the end."""
        tip, open_, bucket = self._tip, self._open, self.surroundings.bucket
        stands = None if open_.made else await self._recorded()
        if stands is not None:
            return stands
        made = open_.made = open_.made or await self._make(head)
        if made.bundle.size:
            self.surroundings.faults.trip("bundle.before_put")
            await made.bundle.put(bucket, paths.bundle(tip.run_id, tip.round))
        self.surroundings.faults.trip("record.before_put")
        if await bucket.put_if_absent(paths.record(tip.run_id, tip.round), made.data):
            return made.applied.digest
        stands = await self._recorded()  # what is anchored must be what everybody will read
        if stands is None:
            raise ObjectMissing(f"the own record of round {tip.round} stands and cannot be read back")
        return stands

    async def _recorded(self) -> bytes | None:
        """The digest of the record that an earlier life of this process put into its bucket, None where none has.

        Raises:
            StorageError: the bucket cannot be read, or what was read is damaged.
        """
        tip = self._tip
        try:
            key = paths.record(tip.run_id, tip.round)
            data = await self.surroundings.bucket.get(key, max_bytes=wire.MAX_BODY_BYTES)
            return wire.decode_record(data, tip.run_id, len(tip.layout.shapes))[1]
        except ObjectMissing:
            return None
        except WireError as error:
            raise ObjectDamaged(f"the own record of round {tip.round} is not readable: {error}") from error

    async def _make(self, head: Block) -> _Made:
        """Decide the round, and judge the record as everybody will: a bad one must not be published or anchored.

        Raises:
            ChainError, StorageError: something the record needs is not to be had now.
            LedgerError: this leader has a fault; going on would stall the run for everybody.
        """
        tip, chain, intake = self._tip, self.surroundings.chain, self._open.intake
        seal, seal_digest = await self._sealed()
        snapshot = await chain.snapshot()
        intake.recheck(_uids(snapshot))
        await self._reveal(snapshot, head)  # scores may have come in since the last look, and with them another order
        failures, scores = intake.failures(), self._scores(snapshot)
        choice = tip.choose({public: failures.get(public, "") for public in intake.peers}, scores)
        payloads = [intake.payload(public) for public in choice.accepted]
        updates = [payload.update for payload in payloads]
        _, weights = await self.surroundings.offload(lambda: ledger.prepare(updates, tip.spec))
        opened = [payload.opened for payload in payloads]
        bundle = await self.surroundings.offload(lambda: make_bundle(opened, self._spool))
        decision = Decision(
            seal=seal,
            seal_digest=seal_digest,
            root=await self.surroundings.offload(self.replica.root),
            scores=scores,
            evaluate=await draw(chain, EVALUATE, tip.round, head.number),
            assign=await draw(chain, ASSIGN, tip.round + 1, tip.opening.open.number),
            possess=await draw(chain, POSSESS, tip.round + 1, head.number),
            checkpoint=await self._checkpoint(),
            amendments=await self._amendments(),
            closing=self.closing,
        )
        heads = {public: taken.head.data for public, taken in intake.peers.items()}
        record = compose(tip, decision, heads, Work(choice, weights, bundle.digest, bundle.size))
        data = wire.encode_record(record, self.surroundings.identity)
        digest = wire.digest_of(data)
        applied = await self.surroundings.offload(
            lambda: ledger.verify(
                tip, record, digest, (seal, seal_digest), decision.root, intake.admitted, lambda _accepted: updates
            )
        )
        return _Made(data, applied, bundle)

    async def _checkpoint(self) -> bytes:
        """Write the checkpoint of θ where one is due; returns what the record pins."""
        tip, replica, bucket = self._tip, self.replica, self.surroundings.bucket
        if not self.closing and (tip.round == 0 or tip.round % tip.spec.clock.checkpoint_every):
            return ledger.NO_CHECKPOINT
        made = await self.surroundings.offload(
            lambda: make_checkpoint(
                replica.theta, tip.layout, tip.run_id, tip.round, replica.outer_step, replica.root()
            )
        )
        for name, data in made.shards.items():
            key = paths.checkpoint(tip.run_id, tip.round, name)
            await bucket.put(key, data, deadline=BULK_DEADLINE)
        await bucket.put(paths.checkpoint(tip.run_id, tip.round, paths.MANIFEST), made.manifest)
        self.note("checkpoint", round=tip.round, bytes=sum(map(len, made.shards.values())))
        return made.digest

    async def _amendments(self) -> tuple[bytes, ...]:
        """Amendments waiting in the bucket that are valid now and not yet adopted."""
        tip, bucket = self._tip, self.surroundings.bucket
        found: list[bytes] = []
        known = set(tip.history.amendments)
        for info in await bucket.list(paths.amendments(tip.run_id), limit=wire.MAX_AMENDMENTS):
            data = await bucket.get(info.key, max_bytes=MAX_AMENDMENT_BYTES)
            try:
                if wire.decode_amendment(data, tip.run_id) in known:
                    continue
                ledger.adopt_amendments(tip.history, [*found, data], tip.round)
            except (LedgerError, WireError) as error:
                log.warning("the amendment %s is not taken up: %s", info.key, error)
                continue
            found.append(data)
        return tuple(found)


def _uids(snapshot: Snapshot) -> dict[bytes, int]:
    return {public_of(peer.hotkey): peer.uid for peer in snapshot.peers}
