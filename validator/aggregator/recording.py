"""The record of a round: decided once, judged as everybody will judge it, put and anchored until the chain has it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from muster.node.ledger.objects import BULK_DEADLINE
from muster.node.ledger.reader import ASSIGN, POSSESS, draw
from muster.node.replica import Spool
from muster.node.submission import SPOOL_BYTES
from muster.node.telemetry import events
from muster.protocol import ledger, paths, wire
from muster.protocol.errors import LedgerError, ObjectDamaged, ObjectMissing, ObjectTooLarge, WireError
from muster.protocol.ledger import Applied
from muster.protocol.types import Anchor, Block
from muster.validator.aggregator.bundle import Bundle, make_bundle
from muster.validator.aggregator.compose import Decision, Work, compose
from muster.validator.aggregator.leading import Leading
from muster.validator.aggregator.sealing import Sealing

log = logging.getLogger(__name__)

MAX_AMENDMENT_BYTES = 8192


@dataclass(frozen=True, slots=True)
class MadeRecord:
    """A record of this life's making, judged, with all that has to be published for it."""

    data: bytes
    applied: Applied
    bundle: Bundle


class Recording:
    """Decides a round; of two lives of a leader the first one's record stands.

    `made` is the record of this life's making, None before.
    """

    def __init__(self, leading: Leading, sealing: Sealing) -> None:
        self._leading = leading
        self._sealing = sealing
        self.made: MadeRecord | None = None
        self._standing: bytes | None = None

    def known(self, digest: bytes) -> Applied | None:
        """The record this life made was judged when it was made."""
        made = self.made
        return made.applied if made is not None and made.applied.digest == digest else None

    async def publish(self, head: Block) -> None:
        """Decide the round, put bundle, checkpoint and record, and anchor it; all of it can be done again.

        Raises:
            ChainError, StorageError: not now.
            LedgerError: this leader has a fault; going on would stall the run for everybody.
        """
        around, tip = self._leading.context, self._leading.tip
        own = [seen for seen in await around.chain.anchors(tip.round) if seen.hotkey == around.identity.hotkey]
        final = await around.chain.final()
        if any(seen.block <= final for seen in own):
            return  # the round is decided, and this life has not seen it yet
        if self._standing is None:
            self._standing = digest = await self._put(head)
            accepted = None if self.made is None else len(self.made.applied.record.accepted)
            around.journal.note(events.Recorded(tip.round, record=digest.hex(), accepted=accepted))
        anchor = Anchor(tip.round, self._standing)
        if all(seen.anchor != anchor for seen in own):
            await around.chain.commit(around.identity, around.location, anchor)

    async def _put(self, head: Block) -> bytes:
        """Have one record of the round in the own bucket, made where there is none; its digest.

        What this leader signs is there before anybody can see it, under a name that the first of its lives takes.
        """
        around, tip = self._leading.context, self._leading.tip
        if self.made is None:
            if (found := await self._found()) is not None:
                return await self._show(*found)
            self.made = await self.make(head)
        made, digest = self.made, self.made.applied.digest
        if made.bundle.size:
            around.faults.trip("bundle.before_put")
            await made.bundle.put(around.bucket, paths.bundle(tip.run_id, tip.round, digest))
        around.faults.trip("record.before_put")
        if await around.bucket.put_if_absent(paths.made(tip.run_id, tip.round, tip.parent), made.data):
            return await self._show(made.data, digest)
        found = await self._found()
        if found is None:
            raise ObjectMissing(f"the own record of round {tip.round} is there and cannot be found")
        if found[1] != digest:
            log.warning("an earlier life of this leader has recorded round %d otherwise: its record stands", tip.round)
            self.made = None
        return await self._show(*found)

    async def _show(self, data: bytes, digest: bytes) -> bytes:
        """Make a record public; its digest."""
        tip = self._leading.tip
        await self._leading.context.bucket.put(paths.record(tip.run_id, tip.round, digest), data)
        return digest

    async def _found(self) -> tuple[bytes, bytes] | None:
        """The record that is signed for this round, and its digest; None where none is.

        Raises:
            StorageError: the bucket cannot be read, or what was read is damaged.
        """
        tip = self._leading.tip
        try:
            key = paths.made(tip.run_id, tip.round, tip.parent)
            data = await self._leading.context.bucket.get(key, max_bytes=wire.MAX_BODY_BYTES)
            return data, wire.decode_record(data, tip.run_id, len(tip.layout.shapes))[1]
        except ObjectMissing:
            return None
        except WireError as error:
            raise ObjectDamaged(f"the own record of round {tip.round} is not readable: {error}") from error

    async def make(self, head: Block) -> MadeRecord:
        """Decide the round, and judge the record as everybody will: a bad one must not be published or anchored."""
        leading, tip, intake = self._leading, self._leading.tip, self._leading.intake
        chain, offload = leading.context.chain, leading.context.offload
        sealed = await self._sealing.standing()
        snapshot = await chain.snapshot()
        if leading.order(snapshot) != intake.order:  # scores have come in since the last look, or there was none
            await leading.reveal(snapshot, head)
        failures, scores = intake.failures(), leading.scores(snapshot)
        choice = tip.choose({public: failures.get(public, "") for public in intake.peers}, scores)
        payloads = [intake.payload(public) for public in choice.accepted]
        updates = [payload.update for payload in payloads]
        windows = [payload.opened.signed.header.windows for payload in payloads]
        weighed = await offload(lambda: ledger.prepare(updates, windows, tip.spec))
        opened, ailments = [payload.opened for payload in payloads], leading.context.ailments
        bundle = await offload(lambda: make_bundle(opened, leading.spool, ailments))
        decision = Decision(
            seal=sealed.seal,
            seal_digest=sealed.digest,
            root=await offload(leading.replica.root),
            scores=scores,
            assign=await draw(chain, ASSIGN, tip.round + 1, tip.opening.open.number),
            possess=await draw(chain, POSSESS, tip.round + 1, head.number),
            checkpoint=await self._checkpoint(),
            amendments=await self._amendments(),
            proofs=leading.proofs(scores),
            closing=leading.closing,
        )
        record = compose(tip, decision, intake.heads(), Work(choice, weighed, bundle.digest, bundle.size))
        data = wire.encode_record(record, leading.context.identity)
        digest = wire.digest_of(data)
        named = (sealed.seal, sealed.digest)
        applied = await offload(
            lambda: ledger.verify(tip, record, digest, named, decision.root, intake.admitted, lambda _accepted: updates)
        )
        return MadeRecord(data, applied, bundle)

    async def _checkpoint(self) -> bytes:
        """Write the checkpoint of θ, a shard at a time, where one is due; returns what the record pins.

        A large shard waits on disk: beside θ there is no other copy of it in memory.
        """
        tip, replica, around = self._leading.tip, self._leading.replica, self._leading.context
        due = tip.round > 0 and tip.round % tip.spec.clock.checkpoint_every == 0
        if not due and not self._leading.closing:
            return ledger.NO_CHECKPOINT

        async def put(name: str, data: bytes) -> None:
            await around.bucket.put(paths.checkpoint(tip.run_id, tip.round, name), data, deadline=BULK_DEADLINE)

        async def upload(name: str, file: Path) -> None:
            await around.bucket.upload(paths.checkpoint(tip.run_id, tip.round, name), file, deadline=BULK_DEADLINE)

        spool = Spool(self._leading.spool, SPOOL_BYTES, upload)
        with around.ailments.writing("a checkpoint"):
            digest, size = await replica.save(tip.round, ledger.tip_info(tip), put, around.offload, large=spool)
        around.journal.note(events.Checkpoint(tip.round, bytes=size))
        return digest

    async def _amendments(self) -> tuple[bytes, ...]:
        """Amendments waiting in the bucket that are valid now, in the order of their numbers; a record's fill."""
        tip, bucket = self._leading.tip, self._leading.context.bucket
        waiting: list[tuple[int, str, bytes]] = []
        for info in await bucket.list(paths.amendments(tip.run_id)):
            try:
                data = await bucket.get(info.key, max_bytes=MAX_AMENDMENT_BYTES)
                number = wire.decode_amendment(data, tip.run_id).number
            except (ObjectTooLarge, WireError) as error:
                log.warning("the amendment %s is not taken up: %s", info.key, error)
                continue
            if number > len(tip.history.adopted):
                waiting.append((number, info.key, data))
        history = tip.history
        found: list[bytes] = []
        for _, key, data in sorted(waiting):
            if len(found) == wire.MAX_AMENDMENTS:
                break
            try:
                history = history.adopt(data, tip.round)
            except LedgerError as error:
                log.warning("the amendment %s is not taken up: %s", key, error)
                continue
            found.append(data)
        return tuple(found)
