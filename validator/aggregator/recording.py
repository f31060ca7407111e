"""The record of a round: decided once, judged as everybody will judge it, put and anchored until the chain has it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from muster.node.ledger.reader import ASSIGN, POSSESS, draw
from muster.node.telemetry import events
from muster.protocol import ledger, paths, wire
from muster.protocol.errors import (
    LedgerError,
    ObjectDamaged,
    ObjectMissing,
    ObjectTooLarge,
    StorageError,
    WireError,
)
from muster.protocol.ledger import Applied
from muster.protocol.rules.late import place_of
from muster.protocol.rules.majority import carried_by
from muster.protocol.types import Anchor, Block
from muster.protocol.wire import Entry, Record, ScoresUsed
from muster.validator.aggregator.bundle import Bundle, make_bundle
from muster.validator.aggregator.compose import Decision, Work, compose
from muster.validator.aggregator.leading import Leading
from muster.validator.aggregator.mirroring import save_checkpoint
from muster.validator.aggregator.sealing import Sealing
from muster.validator.aggregator.signed import RECORD

log = logging.getLogger(__name__)


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
        for seen in () if self._leading.rescuing else own:
            if seen.block <= final and not await self._left(seen.anchor):
                return  # the round is decided, and this life has not seen it yet
        if self._standing is None:
            self._standing = digest = await self._put(head)
            accepted = None if self.made is None else len(self.made.applied.record.accepted)
            around.journal.note(events.Recorded(tip.round, record=digest.hex(), accepted=accepted))
        anchor = Anchor(tip.round, self._standing)
        if all(seen.anchor != anchor for seen in own):
            await around.chain.commit(around.identity, around.committed, anchor)

    async def _left(self, anchor: Anchor) -> bool:
        """Whether an anchor of this leader's stands on another record than its ledger does, where it stood before.

        That vote is for a round which has this one's number and another past. What is not at hand is not taken for one:
        the round would have two records of this leader.
        """
        bucket, tip = self._leading.context.bucket, self._leading.tip
        if len(tip.leaders) == 1 or anchor.round != tip.round:
            return False
        try:
            key = paths.record(tip.run_id, tip.round, anchor.digest)
            data = await bucket.get(key, max_bytes=wire.MAX_BODY_BYTES)
            record, digest = wire.decode_record(data, tip.run_id, len(tip.layout.shapes))
        except (StorageError, WireError) as error:
            log.warning("what this leader has anchored for round %d is not at hand: %s", tip.round, error)
            return False
        return digest == anchor.digest and record.parent != tip.parent

    async def _put(self, head: Block) -> bytes:
        """Have one record of the round in the own bucket, made where there is none; its digest.

        What this leader signs is on its disk and then there before anybody can see it, under a name that the first of
        its lives takes.
        """
        around, tip = self._leading.context, self._leading.tip
        if self.made is None:
            if (found := await self._found() or await self._earlier(head)) is not None:
                return await self._show(*found)
            self.made = await self.make(head)
        await self._sealing.keep()
        made, digest = self.made, self.made.applied.digest
        if made.bundle.size:
            around.faults.trip("bundle.before_put")
            await made.bundle.put(around.bucket, paths.bundle(tip.run_id, tip.round, digest))
        await self._leading.signed.keep(RECORD, tip.round, self._leading.under, made.data)
        around.faults.trip("record.before_put")
        if await around.bucket.put_if_absent(paths.made(tip.run_id, tip.round, self._leading.under), made.data):
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
            key = paths.made(tip.run_id, tip.round, self._leading.under)
            data = await self._leading.context.bucket.get(key, max_bytes=wire.MAX_BODY_BYTES)
            return data, wire.decode_record(data, tip.run_id, len(tip.layout.shapes))[1]
        except ObjectMissing:
            return None
        except WireError as error:
            raise ObjectDamaged(f"the own record of round {tip.round} is not readable: {error}") from error

    async def _earlier(self, head: Block) -> tuple[bytes, bytes] | None:
        """The record that an earlier life has signed, by this leader's disk, and its digest; None where there is none.

        What it names may have been lost with the bucket, and is put again: of the same submissions the bundle is the
        same.

        Raises:
            ChainError, StorageError: not now; or a submission that it accepts is not at hand any more.
        """
        around, tip = self._leading.context, self._leading.tip
        data = await self._leading.signed.kept(RECORD, tip.round, self._leading.under)
        if data is None:
            return None
        try:
            record, digest = wire.decode_record(data, tip.run_id, len(tip.layout.shapes))
        except WireError as error:
            raise ObjectDamaged(f"the record that was signed for round {tip.round} is not readable: {error}") from error
        await self._restore(record, paths.bundle(tip.run_id, tip.round, digest), head)
        if record.checkpoint != ledger.NO_CHECKPOINT:
            await save_checkpoint(around, tip, self._leading.replica, self._leading.spool)
        await around.bucket.put_if_absent(paths.made(tip.run_id, tip.round, self._leading.under), data)
        return data, digest

    async def _restore(self, record: Record, key: str, head: Block) -> None:
        """Have the bundle of a record of an earlier life in the own bucket; late work in it is fetched by the record,
        whatever scores say now."""
        leading, bucket = self._leading, self._leading.context.bucket
        late, peers = leading.late, leading.intake.peers
        if not record.bundle_bytes:
            return
        with suppress(ObjectMissing):
            await bucket.get_range(key, 0, 1)
            return
        places = [place_of(entry) for entry in record.late]
        if places:
            stores = leading.context.directory.stores(await leading.context.chain.snapshot())
            late.look(stores, [one for one in leading.tip.late if one.place in places], len(places), head)
        payloads = [peers[entry.public].payload for entry in record.seated if entry.public in peers]
        payloads += [late.payload(place) for place in places]
        opened = [payload.opened for payload in payloads if payload is not None]
        bundle = await leading.context.offload(lambda: make_bundle(opened, leading.spool))
        if bundle.digest != record.bundle:
            raise ObjectMissing(
                f"the record that was signed for round {record.round} accepts what is not at hand any more, and there "
                "is no other"
            )
        await bundle.put(bucket, key)

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
        late = leading.late_work(scores, choice)
        payloads = [*(intake.payload(public) for public in choice.accepted), *(payload for _, payload in late)]
        updates = [payload.update for payload in payloads]
        windows = [payload.opened.signed.header.windows for payload in payloads]
        ages = [tip.round - one.round for one, _ in late]
        weighed = await offload(lambda: ledger.prepare(updates, windows, tip.spec, ages))
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
            amendments=await self._amendments(scores),
            proofs=leading.proofs(scores),
            closing=leading.closing and not leading.rescuing,
            turn=max(leading.turn, sealed.seal.turn),  # an earlier life may have sealed it in a later turn
            rescuer=leading.context.identity.public if leading.rescuing else None,
        )
        entries = tuple(Entry(one.public, one.round, payload.opened.signed.head, "") for one, payload in late)
        work = Work(choice, weighed, bundle.digest, bundle.size, entries)
        record = compose(tip, decision, intake.heads(), work)
        data = wire.encode_record(record, leading.context.identity)
        digest = wire.digest_of(data)
        named, held = (sealed.seal, sealed.digest), leading.replica.held
        applied = await offload(
            lambda: ledger.verify(
                tip, record, digest, named, decision.root, intake.admitted, lambda _accepted: updates, held
            )
        )
        return MadeRecord(data, applied, bundle)

    async def _checkpoint(self) -> bytes:
        """Write the checkpoint of θ where one is due; returns what the record pins."""
        leading, tip = self._leading, self._leading.tip
        due = tip.round > 0 and tip.round % tip.spec.clock.checkpoint_every == 0
        if not due and not leading.closing:
            return ledger.NO_CHECKPOINT
        return await save_checkpoint(leading.context, tip, leading.replica, leading.spool)

    async def _amendments(self, scores: Sequence[ScoresUsed]) -> tuple[bytes, ...]:
        """Amendments waiting in the bucket that are valid in a record with these scores, in the order of their numbers.

        As many as a record takes; in a rescue the one that it is by.
        """
        if self._leading.rescue is not None and self._leading.rescuing:
            return (self._leading.rescue,)
        tip, bucket = self._leading.tip, self._leading.context.bucket
        waiting: list[tuple[int, str, bytes]] = []
        known = {paths.amendment(tip.run_id, each.amendment.number) for each in tip.history.adopted}
        for info in await bucket.list(paths.amendments(tip.run_id)):
            if info.key in known:
                continue
            try:
                data = await bucket.get(info.key, max_bytes=wire.MAX_AMENDMENT_BYTES)
                number = wire.decode_amendment(data, tip.run_id).number
            except (ObjectTooLarge, WireError) as error:
                log.warning("the amendment %s is not taken up: %s", info.key, error)
                continue
            if number > len(tip.history.adopted):
                waiting.append((number, info.key, data))
        history, carried = tip.history, carried_by(tip.validators - tip.silenced, scores)
        found: list[bytes] = []
        for _, key, data in sorted(waiting):
            if len(found) == wire.MAX_AMENDMENTS:
                break
            try:
                history = history.adopt(data, tip.round, carried)
            except LedgerError as error:
                log.warning("the amendment %s is not taken up: %s", key, error)
                continue
            found.append(data)
        return tuple(found)
