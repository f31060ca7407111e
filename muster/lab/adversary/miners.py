"""One class per way of cheating; each overrides the one seam it cheats at and is an honest miner otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from blake3 import blake3
from torch import Tensor

from muster.kernels import SparseUpdate
from muster.node.ledger.reader import FoundSeal
from muster.node.miner.inner import TrainResult
from muster.node.miner.miner import Miner
from muster.protocol import paths, wire
from muster.protocol.errors import ObjectMissing
from muster.protocol.identity import public_of
from muster.protocol.ledger import Tip
from muster.protocol.rules.admission import MAX_HEAD_BYTES, MAX_KEY_BYTES
from muster.protocol.rules.assignment import data_digest
from muster.protocol.spec.layout import CODEC_BYTES
from muster.protocol.types import Block
from muster.protocol.wire import Signed

NO_SEAL = bytes(32)
"""What a key answers that was shown before there was a seal."""


class EarlyKey(Miner):
    """Shows the key before there is a seal to answer, so that accomplices could copy: `key_seal`."""

    async def train(self) -> None:
        """Submit and publish the key at once."""
        await super().train()
        made, tip = self.made, self._tip
        if made is not None:
            data = wire.encode_key(self.context.identity, tip.run_id, tip.round, made.key, NO_SEAL)
            await self.context.bucket.put(paths.key(tip.run_id, tip.round), data)

    async def publish_key(self, found: FoundSeal) -> None:
        """It is public."""


class NoKey(Miner):
    """Never shows the key, to hold up the round: `key_missing`."""

    async def publish_key(self, found: FoundSeal) -> None:
        """Keep silent."""


class WrongKey(Miner):
    """Publishes another key than the one committed to: `key_mismatch`."""

    async def publish_key(self, found: FoundSeal) -> None:
        """Sign and publish a key that opens nothing."""
        tip = self._tip
        data = wire.encode_key(self.context.identity, tip.run_id, tip.round, bytes(wire.KEY_BYTES), found.digest)
        await self.context.bucket.put(paths.key(tip.run_id, tip.round), data)


class Swapped(Miner):
    """Puts another payload than its header commits to: `ciphertext_digest`."""

    def build(self, tip: Tip, uid: int, update: SparseUpdate, windows: list[int], key: bytes) -> bytes:
        """Change the ciphertext after signing."""
        data = super().build(tip, uid, update, windows, key)
        return data[:-1] + bytes((data[-1] ^ 1,))


class Garbage(Miner):
    """Encrypts noise instead of codec frames: a codec reason."""

    def build(self, tip: Tip, uid: int, update: SparseUpdate, windows: list[int], key: bytes) -> bytes:
        """A payload that decrypts but does not decode."""
        signed, _ciphertext = wire.decode(super().build(tip, uid, update, windows, key), tip.run_id)
        noise = blake3(key).digest(length=signed.header.payload_bytes - CODEC_BYTES)
        sealed = wire.encrypt(noise, key, tip.run_id, tip.round, self.public)
        header = replace(signed.header, ciphertext_digest=blake3(sealed).digest())
        return wire.encode(header, self.context.identity, sealed)


class Desynchronised(Miner):
    """Holds another θ than the run's: `possession`."""

    def build(self, tip: Tip, uid: int, update: SparseUpdate, windows: list[int], key: bytes) -> bytes:
        """Prove possession of a θ that is one outer step behind."""
        signed, ciphertext = wire.decode(super().build(tip, uid, update, windows, key), tip.run_id)
        stale = blake3(signed.header.possession).digest()
        return wire.encode(replace(signed.header, possession=stale), self.context.identity, ciphertext)


class Resigner(Miner):
    """Puts an earlier finisher's submission under its own signature: `payload_auth` (or `key_missing`)."""

    _victim = ""

    @property
    def awaits_seal(self) -> bool:
        """Once it has claimed somebody's work."""
        return bool(self._victim)

    async def train(self) -> None:
        """Wait for somebody's submission, then claim it."""
        tip, chain = self._tip, self.context.chain
        head = await chain.head()
        while head.number < tip.opening.deadline:
            for peer in (await chain.snapshot()).peers:
                if peer.location is None or public_of(peer.hotkey) not in tip.opening.expected:
                    continue
                store = self.context.buckets.bucket(peer.location)
                try:
                    head_data = await store.get(paths.head(tip.run_id, tip.round), max_bytes=MAX_HEAD_BYTES)
                    ciphertext = await store.get(paths.payload(tip.run_id, tip.round), max_bytes=2**24)
                except ObjectMissing:
                    continue
                await self._claim(tip, wire.decode_head(head_data, tip.run_id), ciphertext)
                return
            head = await chain.next_block(head.number)

    async def _claim(self, tip: Tip, signed: Signed, ciphertext: bytes) -> None:
        if signed.header.public == self.public:
            return
        uid = await self.slot()
        assert uid is not None
        self._victim = signed.header.hotkey
        mine = replace(
            signed.header,
            public=self.public,
            possession=self.replica.possession(tip.opening.possess.value, self.public, tip.round),
            uid=uid,
            data_digest=data_digest(self.assigned_windows(tip, uid)[: signed.header.windows]),
        )
        bucket = self.context.bucket
        await bucket.put(paths.payload(tip.run_id, tip.round), ciphertext)
        await bucket.put(paths.head(tip.run_id, tip.round), wire.encode_head(mine, self.context.identity))

    async def choose_seal(self, found: Sequence[FoundSeal], head: Block) -> FoundSeal | None:  # noqa: ARG002
        """Any seal will do."""
        return next(iter(found), None)

    async def publish_key(self, found: FoundSeal) -> None:
        """Copy the victim's key as soon as it is public."""
        tip, chain = self._tip, self.context.chain
        peer = (await chain.snapshot()).by_hotkey()[self._victim]
        assert peer.location is not None
        store = self.context.buckets.bucket(peer.location)
        head = await chain.head()
        for _ in range(tip.spec.clock.reveal):
            try:
                data = await store.get(paths.key(tip.run_id, tip.round), max_bytes=MAX_KEY_BYTES)
            except ObjectMissing:
                head = await chain.next_block(head.number)
                continue
            key = wire.decode_key(data, tip.run_id, tip.round, public_of(self._victim)).payload_key
            mine = wire.encode_key(self.context.identity, tip.run_id, tip.round, key, found.digest)
            await self.context.bucket.put(paths.key(tip.run_id, tip.round), mine)
            return


class Noise(Miner):
    """Trains nothing and sends random directions of the usual size: of good form, and worth nothing."""

    def shape_delta(self, result: TrainResult, uid: int) -> list[Tensor]:
        """Noise as large as the honest pseudo-gradient."""
        generator = torch.Generator().manual_seed(uid)
        return [torch.randn(delta.shape, generator=generator) * delta.pow(2).mean().sqrt() for delta in result.delta]


class Silent(Miner):
    """Is registered and expected, and submits nothing: costs the run one deadline, once."""

    async def train(self) -> None:
        """Do nothing."""


ADVERSARIES: dict[str, type[Miner]] = {
    "desynchronised": Desynchronised,
    "early_key": EarlyKey,
    "garbage": Garbage,
    "no_key": NoKey,
    "noise": Noise,
    "resigner": Resigner,
    "silent": Silent,
    "swapped": Swapped,
    "wrong_key": WrongKey,
}
"""Every adversary by the name `--adversary NAME=COUNT` takes."""
