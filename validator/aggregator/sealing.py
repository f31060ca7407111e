"""The seal of a round: made once and published until it stands, whoever of a leader's lives made it.

What a leader signs is on its disk and then in its bucket before anybody can see it, with the heads that it lists, under
a name that the first one takes: so of two lives of a leader the first one's seal stands, and the second goes on from
its heads. It is signed once the bucket takes what is written: an old one nobody answers, and there is no other.
"""

from __future__ import annotations

from collections.abc import Mapping

from muster.node.ledger.seals import FoundSeal
from muster.node.telemetry import events
from muster.protocol import paths, wire
from muster.protocol.errors import ObjectDamaged, WireError
from muster.protocol.ledger import Tip
from muster.protocol.types import Block
from muster.protocol.wire import Seal
from muster.validator.aggregator.leading import Leading
from muster.validator.aggregator.signed import SEAL


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
            if self._draft is None:
                self._draft = await self._earlier() or await self._make(head)
            context.faults.trip("seal.before_put")
            saved = wire.encode_sealed(self._draft.data, self._leading.intake.heads())
            await self._leading.signed.keep(SEAL, tip.round, self._leading.under, saved)
            if await context.bucket.put_if_absent(paths.heads(tip.run_id, tip.round, self._leading.under), saved):
                self._stands(self._draft)
        found = await self.standing()
        await context.bucket.put(paths.seal(tip.run_id, tip.round, found.digest), found.data)
        return found

    async def _earlier(self) -> FoundSeal | None:
        """What an earlier life has signed, by this leader's disk; its bucket may have been lost."""
        tip = self._leading.tip
        saved = await self._leading.signed.kept(SEAL, tip.round, self._leading.under)
        if saved is None:
            return None
        found, heads = _sealed(saved, tip)
        self._close(found, heads)
        return found

    async def _make(self, head: Block) -> FoundSeal:
        """What is in now, as a seal; from here on nothing is taken in any more."""
        context, tip, intake = self._leading.context, self._leading.tip, self._leading.intake
        await context.bucket.put(paths.writable(tip.run_id), b"")
        taken = () if self._leading.rescuing else sorted(intake.peers.items())
        listed = tuple((public, wire.head_digest(one.head.data)) for public, one in taken)
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
        self._close(found, heads)
        self._standing = found

    def _close(self, found: FoundSeal, heads: Mapping[bytes, bytes]) -> None:
        intake = self._leading.intake
        intake.load(heads, found.seal)
        intake.close(found.seal, found.digest)

    async def keep(self) -> None:
        """Have the seal that was gone on with in this bucket, like one of its own: the record names it, and a later
        life of this leader goes on with it, too.

        Raises:
            StorageError: not now.
        """
        found, tip, bucket = self._standing, self._leading.tip, self._leading.context.bucket
        if found is not None and found.seal.leader != self._leading.context.identity.public:
            saved = wire.encode_sealed(found.data, self._leading.intake.heads())
            await bucket.put_if_absent(paths.heads(tip.run_id, tip.round, self._leading.under), saved)
            await bucket.put(paths.seal(tip.run_id, tip.round, found.digest), found.data)

    async def standing(self) -> FoundSeal:
        """The round's seal; one that an earlier life made is read back, with the heads it lists.

        Raises:
            StorageError: it cannot be read now, or what was read is damaged.
        """
        if self._standing is None:
            tip, bucket = self._leading.tip, self._leading.context.bucket
            saved = await bucket.get(
                paths.heads(tip.run_id, tip.round, self._leading.under), max_bytes=wire.MAX_BODY_BYTES
            )
            found, heads = _sealed(saved, tip)
            if self._draft is not None and found.digest == self._draft.digest:  # put, and only the answer was lost
                self._stands(self._draft)
            else:
                self._close(found, heads)
                self._standing = found
        assert self._standing is not None
        return self._standing


def _sealed(saved: bytes, tip: Tip) -> tuple[FoundSeal, Mapping[bytes, bytes]]:
    """The own seal as it was saved, and the heads that it lists."""
    try:
        data, heads = wire.decode_sealed(saved)
        seal, digest = wire.decode_seal(data, tip.run_id)
    except WireError as error:
        raise ObjectDamaged(f"the own seal of round {tip.round} is not readable: {error}") from error
    return FoundSeal(seal, digest, data), heads
