"""The aggregator: follows the ledger and, when it leads, seals the round, decides it and signs the record."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from blake3 import blake3

from muster.node import follow
from muster.node.checkpoint import make_checkpoint
from muster.node.participant import Follower, Surroundings
from muster.node.replica import Replica
from muster.protocol import ledger, paths, wire
from muster.protocol.bundle import write_bundle
from muster.protocol.chain.base import Anchor, AnchorSeen, Block, Snapshot
from muster.protocol.errors import LedgerError, ObjectMissing, StorageError, WireError
from muster.protocol.identity import public_of
from muster.protocol.ledger import Applied, Tip
from muster.protocol.round import Event, KeySettled, Phase, Role, RoundState, ScoresIn, SubmissionSeen
from muster.protocol.scores import decode_scores, max_scores_bytes, used
from muster.protocol.session import MAX_SEAL_BYTES
from muster.protocol.storage import Store
from muster.protocol.wire import Record, ScoresUsed, Seal
from muster.validator.aggregator.compose import Decision, Work, compose
from muster.validator.aggregator.intake import Intake

log = logging.getLogger(__name__)

MAX_AMENDMENT_BYTES = 8192


@dataclass(slots=True)
class _Open:
    """What this process knows of the round it leads."""

    intake: Intake
    scores: dict[str, ScoresUsed] = field(default_factory=dict)
    sealed: tuple[Seal, bytes] | None = None


class Aggregator(Follower):
    """One aggregator. `rounds` is after how many rounds it closes the run when it leads (None: never)."""

    def __init__(self, surroundings: Surroundings, tip: Tip, replica: Replica, rounds: int | None) -> None:
        super().__init__(surroundings, tip, replica)
        self._rounds = rounds
        self._open = self._begin()

    def role(self) -> Role:
        """It leads when it is its turn."""
        return Role.LEADER if self._tip.leader(0) == self.public else Role.FOLLOWER

    @property
    def _closing(self) -> bool:
        return self._rounds is not None and self._tip.round >= self._rounds

    def _begin(self) -> _Open:
        beacon, round_ = self._tip.opening.possess.value, self._tip.round
        facts = self._tip.facts(lambda public: self.replica.possession(beacon, public, round_))
        return _Open(Intake(facts, self.surroundings.offload))

    async def after_apply(self, applied: Applied) -> None:  # noqa: ARG002
        """The next round begins with nothing taken in."""
        self._open = self._begin()

    async def apply(self, anchor: AnchorSeen, store: Store) -> bool:
        """Another leader's round is kept in this bucket too, for whoever joins when that leader is gone."""
        run_id, round_ = self._tip.run_id, self._tip.round
        done = await super().apply(anchor, store)
        if done and anchor.hotkey != self.surroundings.identity.hotkey:
            try:
                await self._mirror(store, run_id, round_)
            except StorageError as error:
                log.warning("round %d is not mirrored: %s", round_, error)
        return done

    async def _mirror(self, store: Store, run_id: bytes, round_: int) -> None:
        limit = follow.MAX_BUNDLE_BYTES
        for key in (paths.seal(run_id, round_), paths.heads(run_id, round_), paths.bundle(run_id, round_)):
            if await store.head(key) is not None:
                data = await store.get(key, max_bytes=limit, deadline=follow.BULK_DEADLINE)
                await self.surroundings.bucket.put(key, data, deadline=follow.BULK_DEADLINE)
        key = paths.record(run_id, round_)
        await self.surroundings.bucket.put(key, await store.get(key, max_bytes=wire.MAX_BODY_BYTES))

    async def observe(self, state: RoundState, head: Block) -> list[Event]:
        """New heads before the seal; keys, payloads and scores after it."""
        if state.role is not Role.LEADER:
            return []
        if self._closing:
            return await self._observe_closing(state, head)
        snapshot = await self.surroundings.chain.snapshot()
        stores = self._stores(snapshot)
        if state.phase is Phase.SUBMIT:
            peers = {public_of(peer.hotkey): peer.uid for peer in snapshot.peers}
            self._open.intake.facts = self._tip.facts(self._open.intake.facts.possession, peers)
            return [SubmissionSeen(peer) for peer in await self._open.intake.look(stores)]
        seal, _ = await self._seal()
        settled = await self._open.intake.reveal(stores, seal.early)
        events: list[Event] = [KeySettled(peer) for peer in settled]
        wanted = self._tip.round - self._tip.spec.gauntlet.lag
        if not state.scored and await self._collect_scores(snapshot, wanted):
            events.append(ScoresIn())
        return events

    async def _observe_closing(self, state: RoundState, head: Block) -> list[Event]:
        """The run ends: nothing more is taken in, but the last round's scores are waited for."""
        if state.phase is Phase.SUBMIT:
            await self.publish_seal(head)
        snapshot = await self.surroundings.chain.snapshot()
        if not state.scored and await self._collect_scores(snapshot, self._tip.round - 1):
            return [ScoresIn()]
        return []

    def _stores(self, snapshot: Snapshot) -> dict[bytes, Store]:
        stores: dict[bytes, Store] = {}
        for peer in snapshot.peers:
            if peer.location is None:
                continue
            try:
                stores[public_of(peer.hotkey)] = self.surroundings.buckets.bucket(peer.location)
            except StorageError as error:
                log.warning("peer %s committed a location that cannot be used: %s", peer.hotkey, error)
        return stores

    async def publish_seal(self, head: Block) -> None:
        """Sign the list of what is in; of two lives of this leader the first one's seal stands."""
        tip, intake, bucket = self._tip, self._open.intake, self.surroundings.bucket
        if await bucket.head(paths.seal(tip.run_id, tip.round)) is not None:
            return
        stores = self._stores(await self.surroundings.chain.snapshot())
        headers = tuple((public, ledger.head_digest(intake.heads[public].data)) for public in sorted(intake.heads))
        early = await intake.early(stores)
        seal = Seal(tip.run_id, self.public, tip.round, tip.parent, 0, head, headers, early)
        self.surroundings.faults.trip("seal.before_put")
        await bucket.put(paths.heads(tip.run_id, tip.round), intake.save())
        data = wire.encode_seal(seal, self.surroundings.identity)
        if await bucket.put_if_absent(paths.seal(tip.run_id, tip.round), data):
            self.note("sealed", round=tip.round, block=head.number, submissions=len(headers))

    async def _seal(self) -> tuple[Seal, bytes]:
        """This round's seal as it stands in the bucket, with the heads it lists."""
        if self._open.sealed is None:
            tip, bucket = self._tip, self.surroundings.bucket
            data = await bucket.get(paths.seal(tip.run_id, tip.round), max_bytes=MAX_SEAL_BYTES)
            seal, digest = wire.decode_seal(data, tip.run_id)
            if {public for public, _ in seal.headers} != set(self._open.intake.heads):
                saved = await bucket.get(paths.heads(tip.run_id, tip.round), max_bytes=wire.MAX_BODY_BYTES)
                self._open.intake.heads.clear()
                self._open.intake.load(saved)
            self._open.sealed = seal, digest
        return self._open.sealed

    async def _collect_scores(self, snapshot: Snapshot, wanted: int) -> bool:
        """Read the score files of round `wanted`; True once there is none left to wait for."""
        tip = self._tip
        if wanted < 0:
            return True
        peers, cap = snapshot.by_hotkey(), max_scores_bytes(tip.spec.data.slots)
        known = tip.remembered | {public_of(hotkey) for hotkey in peers}
        for hotkey in tip.spec.genesis.leaders:
            peer = peers.get(hotkey)
            if hotkey in self._open.scores or peer is None or peer.location is None or not peer.permit:
                continue
            try:
                store = self.surroundings.buckets.bucket(peer.location)
                data = await store.get(paths.scores(tip.run_id, wanted), max_bytes=cap)
                body, digest = decode_scores(data, tip.run_id, hotkey, wanted)
            except ObjectMissing:
                continue
            except (StorageError, WireError) as error:
                log.warning("the scores of %s for round %d cannot be used: %s", hotkey, wanted, error)
                continue
            self._open.scores[hotkey] = used(body, digest, hotkey, peer.stake, known)
        return len(self._open.scores) == len(tip.spec.genesis.leaders)

    async def publish_record(self, head: Block) -> None:
        """Decide the round, put bundle, checkpoint and record, and anchor it; all of it can be done again."""
        tip, bucket = self._tip, self.surroundings.bucket
        anchors = await self.surroundings.chain.anchors(tip.round)
        if any(seen.hotkey == self.surroundings.identity.hotkey for seen in anchors):
            return
        key = paths.record(tip.run_id, tip.round)
        if await bucket.head(key) is None:
            record, bundle = await self._decide(head)
            data = wire.encode_record(record, self.surroundings.identity)
            await self._check_own(data, bundle)
            if bundle:
                self.surroundings.faults.trip("bundle.before_put")
                await bucket.put(paths.bundle(tip.run_id, tip.round), bundle, deadline=follow.BULK_DEADLINE)
            self.surroundings.faults.trip("record.before_put")
            await bucket.put_if_absent(key, data)
        data = await bucket.get(key, max_bytes=wire.MAX_BODY_BYTES)
        record, digest = wire.decode_record(data, tip.run_id, len(tip.layout.shapes))
        await self.surroundings.chain.commit(
            self.surroundings.identity, self.surroundings.location, Anchor(tip.round, digest)
        )
        self.note("recorded", round=tip.round, kind=record.kind.name.lower(), accepted=len(record.accepted))

    async def _check_own(self, data: bytes, bundle: bytes) -> None:
        """Judge the record as everybody will: one that would be refused must not be published, let alone anchored.

        Raises:
            LedgerError: this leader has a fault; going on would stall the run for everybody.
        """
        tip, (seal, seal_digest) = self._tip, await self._seal()
        record, digest = wire.decode_record(data, tip.run_id, len(tip.layout.shapes))
        fetched = follow.Fetched(record, digest, seal, seal_digest, bundle)
        await self.surroundings.offload(lambda: follow.judge(fetched, tip, self.replica))

    async def _decide(self, head: Block) -> tuple[Record, bytes]:
        tip, chain, intake = self._tip, self.surroundings.chain, self._open.intake
        seal, digest = await self._seal()
        snapshot = await chain.snapshot()
        stores = self._stores(snapshot)
        # A leader that was restarted when everything was due has not looked even once.
        await intake.reveal(stores, seal.early)
        await self._collect_scores(snapshot, tip.round - tip.spec.gauntlet.lag)
        await intake.give_up(stores)
        intake.recheck({public_of(peer.hotkey): peer.uid for peer in snapshot.peers})
        decision = Decision(
            seal=seal,
            seal_digest=digest,
            root=await self.surroundings.offload(self.replica.root),
            scores=() if self._closing else tuple(sorted(self._open.scores.values(), key=lambda s: s.validator)),
            evaluate=await follow.draw(chain, follow.EVALUATE, tip.round, head.number),
            assign=await follow.draw(chain, follow.ASSIGN, tip.round + 1, tip.opening.open.number),
            possess=await follow.draw(chain, follow.POSSESS, tip.round + 1, head.number),
            checkpoint=await self._checkpoint(),
            amendments=await self._amendments(),
            closing=self._closing,
        )
        known = {public: head.reason or intake.failures.get(public, "") for public, head in intake.heads.items()}
        choice = tip.choose(known, decision.scores)
        taken = [intake.payloads[public] for public in choice.accepted]
        _, weights = await self.surroundings.offload(lambda: ledger.prepare([one.update for one in taken], tip.spec))
        bundle = write_bundle(one.opened for one in taken)
        heads = {public: head.data for public, head in intake.heads.items()}
        work = Work(choice, weights, blake3(bundle).digest(), len(bundle))
        return compose(tip, decision, heads, work), bundle

    async def _checkpoint(self) -> bytes:
        """Write the checkpoint of θ where one is due; returns what the record pins."""
        tip, replica, bucket = self._tip, self.replica, self.surroundings.bucket
        if not self._closing and (tip.round == 0 or tip.round % tip.spec.clock.checkpoint_every):
            return ledger.NO_CHECKPOINT
        made = await self.surroundings.offload(
            lambda: make_checkpoint(
                replica.theta, tip.layout, tip.run_id, tip.round, replica.outer_step, replica.root()
            )
        )
        for name, data in made.shards.items():
            key = paths.checkpoint(tip.run_id, tip.round, name)
            await bucket.put(key, data, deadline=follow.BULK_DEADLINE)
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
