"""The seal of a round: made once and published until it stands, whoever of a leader's lives made it."""

from __future__ import annotations

from dataclasses import dataclass

from muster.node.ledger.reader import MAX_SEAL_BYTES
from muster.node.telemetry import events
from muster.protocol import ledger, paths, wire
from muster.protocol.errors import ObjectDamaged, WireError
from muster.protocol.types import Block
from muster.protocol.wire import Seal
from muster.validator.aggregator.leading import Leading


@dataclass(frozen=True, slots=True)
class _Draft:
    """A seal of this life's making, and its object."""

    seal: Seal
    digest: bytes
    data: bytes


class Sealing:
    """Ends taking in; of two lives of a leader the first one's seal stands."""

    def __init__(self, leading: Leading) -> None:
        self._leading = leading
        self._draft: _Draft | None = None
        self._standing: tuple[Seal, bytes] | None = None

    async def publish(self, head: Block) -> Seal:
        """Sign the list of what is in, and put it; can be done again. Returns the seal that stands.

        Raises:
            ChainError, StorageError: not now.
        """
        context, tip, bucket = self._leading.context, self._leading.tip, self._leading.context.bucket
        if self._draft is None:
            self._draft = await self._make(head)
        context.faults.trip("seal.before_put")
        key = paths.seal(tip.run_id, tip.round)
        if await bucket.head(key) is None:  # or the heads of the seal that stands would be lost
            await bucket.put(paths.heads(tip.run_id, tip.round), self._leading.intake.save())
        if await bucket.put_if_absent(key, self._draft.data):
            self._stands(self._draft)
        return (await self.standing())[0]

    async def _make(self, head: Block) -> _Draft:
        """What is in now, as a seal; from here on nothing is taken in any more."""
        context, tip, intake = self._leading.context, self._leading.tip, self._leading.intake
        stores = context.directory.stores(await context.chain.snapshot())
        early = await intake.early(stores, head)
        listed = tuple((public, ledger.head_digest(taken.head.data)) for public, taken in sorted(intake.peers.items()))
        seal = Seal(tip.run_id, context.identity.public, tip.round, tip.parent, 0, head, listed, early)
        intake.close(seal)
        data = wire.encode_seal(seal, context.identity)
        return _Draft(seal, wire.digest_of(data), data)

    def _stands(self, draft: _Draft) -> None:
        tip, seal = self._leading.tip, draft.seal
        self._standing = seal, draft.digest
        told = events.Sealed(tip.round, block=seal.block.number, submissions=len(seal.headers))
        self._leading.context.journal.note(told)

    async def standing(self) -> tuple[Seal, bytes]:
        """The round's seal and its digest; one that an earlier life made is read back, with the heads it lists.

        Raises:
            StorageError: it cannot be read now, or what was read is damaged.
        """
        if self._standing is None:
            tip, bucket, intake = self._leading.tip, self._leading.context.bucket, self._leading.intake
            data = await bucket.get(paths.seal(tip.run_id, tip.round), max_bytes=MAX_SEAL_BYTES)
            if self._draft is not None and data == self._draft.data:  # it was put, and only the answer was lost
                self._stands(self._draft)
            else:
                try:
                    seal, digest = wire.decode_seal(data, tip.run_id)
                except WireError as error:
                    raise ObjectDamaged(f"the own seal of round {tip.round} is not readable: {error}") from error
                saved = await bucket.get(paths.heads(tip.run_id, tip.round), max_bytes=wire.MAX_BODY_BYTES)
                intake.load(saved, seal)
                intake.close(seal)
                self._standing = seal, digest
        assert self._standing is not None
        return self._standing
