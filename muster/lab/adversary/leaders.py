"""Ways of cheating as a leader: an honest aggregator with the one deed replaced that it cheats at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from muster.node.context import Context
from muster.node.ledger.participant import Errands
from muster.node.ledger.seals import FoundSeal
from muster.node.replica import Replica
from muster.protocol import paths, wire
from muster.protocol.chain.base import Snapshot
from muster.protocol.errors import StorageError
from muster.protocol.ledger import Tip
from muster.protocol.ledger.round import Event, SubmissionSeen
from muster.protocol.reasons import KEY_MISSING
from muster.protocol.types import Anchor, Block
from muster.validator.aggregator.aggregator import Aggregator
from muster.validator.aggregator.leading import Leading
from muster.validator.aggregator.recording import MadeRecord, Recording
from muster.validator.aggregator.sealing import Sealing
from muster.validator.aggregator.twice import Twice

TWICE = 1
"""The round in which it cheats."""


class _Silent(Twice):
    """Finds no leaders that signed two: it is one."""

    def look(self, tip: Tip, errands: Errands) -> None:
        """It does not."""


class Liar(Aggregator):
    """Cheats in one round, if it is the first of the run's list, and carries no proofs; all others are honest."""

    def __init__(
        self,
        context: Context,
        tip: Tip,
        replica: Replica,
        rounds: int | None,
        spool: Path | None = None,
        signed: Path | None = None,
        keep: int = 0,
    ) -> None:
        super().__init__(context, tip, replica, rounds, spool, signed, keep)
        if tip.listed[0] == self.public:
            self._twice = _Silent(context, tip.run_id)

    @property
    def lies(self) -> bool:
        """Whether this is the round."""
        return self._tip.round == TWICE and self._tip.listed[0] == self.public

    @property
    def victim(self) -> bytes:
        """Whom it harms where it harms one."""
        return self._tip.opening.expected[-1]

    async def _show(self, made: MadeRecord, data: bytes) -> None:
        """Publish and anchor another record than the one that was made."""
        tip, bucket, digest = self._tip, self.context.bucket, wire.digest_of(data)
        await made.bundle.put(bucket, paths.bundle(tip.run_id, tip.round, digest))
        await bucket.put(paths.record(tip.run_id, tip.round, digest), data)
        await self.context.chain.commit(self.context.identity, self.context.committed, Anchor(tip.round, digest))


class Equivocator(Liar):
    """Signs and anchors two valid records for one round, in two blocks: the second as if the last miner's key had never
    come."""

    at_once = False

    async def publish_record(self, head: Block) -> None:
        """Decide the round, and once more."""
        await super().publish_record(head)
        recording, intake = self._open.recording, self._open.leading.intake
        if not self.lies or recording.made is None:
            return
        intake.peers[recording.made.applied.record.seated[-1].public].fail(KEY_MISSING)
        other = await recording.make(head)
        if not self.at_once:
            await self.context.chain.next_block(head.number)
        await self._show(other, other.data)


class EquivocatorAtOnce(Equivocator):
    """The same in one block, of whose anchors only the later one counts."""

    at_once = True


class _Second(Sealing):
    """Another seal than the one that stands."""

    def __init__(self, leading: Leading, found: FoundSeal) -> None:
        super().__init__(leading)
        self._found = found

    async def standing(self) -> FoundSeal:
        """That one."""
        return self._found


class SealsTwice(Liar):
    """Seals a second time when it has seen the keys that answer its first seal, takes that away, and records by the
    second."""

    async def publish_record(self, head: Block) -> None:
        """Decide the round by a seal that nobody answered."""
        if not self.lies:
            return await super().publish_record(head)
        tip, bucket, sealing = self._tip, self.context.bucket, self._open.sealing
        first = await sealing.standing()
        later = await self.context.chain.block(first.seal.block.number + 1)
        if head.number <= later.number:
            raise StorageError("it waits for the next block")
        seal = replace(first.seal, block=later)
        data = wire.encode_seal(seal, self.context.identity)
        await bucket.put(paths.seal(tip.run_id, tip.round, wire.digest_of(data)), data)
        await bucket.delete(paths.seal(tip.run_id, tip.round, first.digest))
        second = _Second(self._open.leading, FoundSeal(seal, wire.digest_of(data), data))
        made = await Recording(self._open.leading, second).make(head)
        await self._show(made, made.data)
        return None


class FlipsAByte(Liar):
    """Records the victim's head with one byte of its signature changed."""

    async def publish_record(self, head: Block) -> None:
        """Decide the round by other bytes than those that were sealed."""
        if not self.lies:
            return await super().publish_record(head)
        made = await self._open.recording.make(head)
        entries = list(made.applied.record.entries)
        at = next(i for i, entry in enumerate(entries) if entry.public == self.victim)
        flipped = entries[at].head[:-1] + bytes([entries[at].head[-1] ^ 1])
        entries[at] = replace(entries[at], head=flipped)
        record = replace(made.applied.record, entries=tuple(entries))
        await self._show(made, wire.encode_record(record, self.context.identity))
        return None


class Backdates(Liar):
    """Seals late, and names a block that was early."""

    async def publish_seal(self, head: Block) -> FoundSeal:
        """Close the round as if it had been long ago."""
        if not self.lies:
            return await super().publish_seal(head)
        early = self._tip.opening.min_block
        if head.number <= early + self._tip.spec.clock.seal_age:
            raise StorageError("it waits until its seal is too old")
        return await super().publish_seal(await self.context.chain.block(early))


class LeavesOut(Liar):
    """Has not seen the victim's head."""

    async def _look(self, snapshot: Snapshot, head: Block) -> list[Event]:
        """What it has seen, without that."""
        seen: Sequence[Event] = await super()._look(snapshot, head)
        if not self.lies:
            return list(seen)
        self._open.leading.intake.peers.pop(self.victim, None)
        return [event for event in seen if event != SubmissionSeen(self.victim)]


class KnowsNoKey(Liar):
    """Says that the victim's key never came."""

    async def publish_record(self, head: Block) -> None:
        """Decide the round without it."""
        if self.lies:
            self._open.leading.intake.peers[self.victim].fail(KEY_MISSING)
        await super().publish_record(head)
