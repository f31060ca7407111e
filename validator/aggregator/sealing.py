"""The seal of a round: made once and published until it stands, whoever of a leader's lives made it.

What a leader signs is in its bucket before anybody can see it, with the heads that it lists, under a name that the
first one takes: so of two lives of a leader the first one's seal stands, and the second goes on from its heads.
"""

from __future__ import annotations

from collections.abc import Mapping

from muster.node.ledger.reader import FoundSeal
from muster.node.telemetry import events
from muster.protocol import paths, wire
from muster.protocol.errors import ObjectDamaged, WireError
from muster.protocol.types import Block
from muster.protocol.wire import Seal
from muster.validator.aggregator.leading import Leading


class Sealing:
    """Ends taking in."""

    def __init__(self, leading: Leading) -> None:
        self._leading = leading
        self._draft: FoundSeal | None = None
        self._standing: FoundSeal | None = None

    async def publish(self, head: Block) -> FoundSeal:
        """Sign the list of what is in, and put it; can be done again. Returns the seal that stands.

        Raises:
            ChainError, StorageError: not now.
        """
        context, tip = self._leading.context, self._leading.tip
        if self._standing is None:
            if self._draft is None or head.number - self._draft.seal.block.number > tip.spec.clock.seal_age:
                self._draft = self._make(head)  # nobody answers one that is too old
            context.faults.trip("seal.before_put")
            saved = wire.encode_sealed(self._draft.data, self._leading.intake.heads())
            if await context.bucket.put_if_absent(paths.heads(tip.run_id, tip.round, tip.parent), saved):
                self._stands(self._draft)
        found = await self.standing()
        await context.bucket.put(paths.seal(tip.run_id, tip.round, found.digest), found.data)
        return found

    def _make(self, head: Block) -> FoundSeal:
        """What is in now, as a seal; from here on nothing is taken in any more."""
        context, tip, intake = self._leading.context, self._leading.tip, self._leading.intake
        listed = tuple((public, wire.head_digest(taken.head.data)) for public, taken in sorted(intake.peers.items()))
        seal = Seal(tip.run_id, context.identity.public, tip.round, tip.parent, self._leading.turn, head, listed)
        data = wire.encode_seal(seal, context.identity)
        made = FoundSeal(seal, wire.digest_of(data), data)
        intake.close(seal, made.digest)
        return made

    def _stands(self, draft: FoundSeal) -> None:
        tip, seal = self._leading.tip, draft.seal
        self._standing = draft
        told = events.Sealed(tip.round, block=seal.block.number, submissions=len(seal.headers))
        self._leading.context.journal.note(told)

    def adopt(self, found: FoundSeal, heads: Mapping[bytes, bytes]) -> None:
        """Go on with the seal of an earlier turn, and the heads that it lists; this leader makes none in this round.

        Raises:
            ObjectDamaged: the heads are others.
        """
        intake = self._leading.intake
        intake.load(heads, found.seal)
        intake.close(found.seal, found.digest)
        self._standing = found

    async def keep(self) -> None:
        """Have the seal that was gone on with in this bucket, like one of its own: the record names it, and a later
        life of this leader goes on with it, too.

        Raises:
            StorageError: not now.
        """
        found, tip, bucket = self._standing, self._leading.tip, self._leading.context.bucket
        if found is not None and found.seal.leader != self._leading.context.identity.public:
            saved = wire.encode_sealed(found.data, self._leading.intake.heads())
            await bucket.put_if_absent(paths.heads(tip.run_id, tip.round, tip.parent), saved)
            await bucket.put(paths.seal(tip.run_id, tip.round, found.digest), found.data)

    async def standing(self) -> FoundSeal:
        """The round's seal; one that an earlier life made is read back, with the heads it lists.

        Raises:
            StorageError: it cannot be read now, or what was read is damaged.
        """
        if self._standing is None:
            tip, bucket, intake = self._leading.tip, self._leading.context.bucket, self._leading.intake
            saved = await bucket.get(paths.heads(tip.run_id, tip.round, tip.parent), max_bytes=wire.MAX_BODY_BYTES)
            try:
                data, heads = wire.decode_sealed(saved)
                seal, digest = wire.decode_seal(data, tip.run_id)
            except WireError as error:
                raise ObjectDamaged(f"the own seal of round {tip.round} is not readable: {error}") from error
            found = FoundSeal(seal, digest, data)
            if self._draft is not None and digest == self._draft.digest:  # it was put, and only the answer was lost
                self._stands(self._draft)
            else:
                intake.load(heads, seal)
                intake.close(seal, digest)
                self._standing = found
        assert self._standing is not None
        return self._standing
