"""Every way of cheating: an honest miner's stages with the one replaced that it cheats at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from blake3 import blake3

from muster.kernels import SparseUpdate
from muster.node.ledger.participant import possession
from muster.node.ledger.seals import FoundSeal
from muster.node.miner import stages
from muster.node.miner.engine import Delta
from muster.node.miner.stages import OpenRound, Stages, Task
from muster.node.miner.state import Made
from muster.protocol import paths, wire
from muster.protocol.chain.base import Peer
from muster.protocol.errors import ObjectMissing
from muster.protocol.identity import public_of
from muster.protocol.rules.assignment import data_digest
from muster.protocol.spec.layout import CODEC_BYTES
from muster.protocol.types import Block
from muster.protocol.wire import Seal, Signed

_MAX_BYTES = 2**24
"""As much as it reads of a neighbour's object; its runs are small."""


NO_SEAL = bytes(32)
"""What a key says that answers nothing: there is no seal yet."""


async def _publish_key(now: OpenRound, key: bytes, seal: bytes) -> None:
    """Put a signed key object of the round, whatever it opens and answers."""
    data = wire.encode_key(now.context.identity, now.tip.run_id, now.tip.round, key, seal)
    await now.context.bucket.put(paths.key(now.tip.run_id, now.tip.round), data)


async def put_with_key(now: OpenRound, made: Made) -> None:
    """Shows the key before there is a seal to answer, so that accomplices could copy: `key_seal`."""
    await stages.put(now, made)
    await _publish_key(now, made.key, NO_SEAL)


async def keep_silent(now: OpenRound, made: Made, found: FoundSeal) -> None:
    """Never shows the key, to hold up the round: `key_missing`."""


async def show_wrong_key(now: OpenRound, made: Made, found: FoundSeal) -> None:  # noqa: ARG001
    """Publishes another key than the one committed to: `key_mismatch`."""
    await _publish_key(now, bytes(wire.KEY_BYTES), found.digest)


def any_seal(now: OpenRound, made: Made, seal: Seal, newest: Block) -> str:  # noqa: ARG001
    """Answers whatever there is."""
    return ""


def build_swapped(task: Task, update: SparseUpdate, windows: Sequence[int], key: bytes) -> bytes:
    """Puts another payload than its header commits to, changed after signing: `ciphertext_digest`."""
    data = stages.build(task, update, windows, key)
    return data[:-1] + bytes((data[-1] ^ 1,))


def build_garbage(task: Task, update: SparseUpdate, windows: Sequence[int], key: bytes) -> bytes:
    """Encrypts noise instead of codec frames, which decrypts but does not decode: a codec reason."""
    identity, tip = task.context.identity, task.tip
    signed, _ciphertext = wire.decode_submission(stages.build(task, update, windows, key), tip.run_id)
    noise = blake3(key).digest(length=signed.header.payload_bytes - CODEC_BYTES)
    sealed = wire.encrypt_frames(noise, key, tip.run_id, tip.round, identity.public)
    return wire.encode_submission(replace(signed.header, ciphertext_digest=blake3(sealed).digest()), identity, sealed)


def build_desynchronised(task: Task, update: SparseUpdate, windows: Sequence[int], key: bytes) -> bytes:
    """Proves possession of another θ than the run's: `possession`."""
    signed, ciphertext = wire.decode_submission(stages.build(task, update, windows, key), task.tip.run_id)
    stale = blake3(signed.header.possession).digest()
    return wire.encode_submission(replace(signed.header, possession=stale), task.context.identity, ciphertext)


def train_noise(task: Task, windows: list[int]) -> Delta | None:
    """Sends random directions of the usual size: of good form, and worth nothing."""
    delta = stages.train(task, windows)
    if delta is None:
        return None
    generator = torch.Generator().manual_seed(task.uid)
    noise = [torch.randn(one.shape, generator=generator) * one.pow(2).mean().sqrt() for one in delta.tensors]
    return replace(delta, tensors=tuple(noise))


def no_windows(task: Task) -> list[int]:  # noqa: ARG001
    """Is registered and expected, and submits nothing: costs the run one deadline, once."""
    return []


class Resigner:
    """Puts an earlier finisher's submission under its own signature: `payload_auth` (or `key_missing`)."""

    def __init__(self) -> None:
        self._victim = ""

    @classmethod
    def stages(cls) -> Stages:
        """Those of one miner: whom it robs is remembered from `put` to `key`."""
        one = cls()
        return Stages(train=cls.train, put=one.put, seal=any_seal, key=one.key)

    @staticmethod
    def train(task: Task, windows: list[int]) -> Delta:
        """Δ = 0: what it makes of its own is never sent."""
        zeros = tuple(torch.zeros(shape) for shape in task.tip.layout.shapes)
        return Delta(zeros, len(windows) // task.tip.spec.inner.batch, 0.0, 0.0)

    async def put(self, now: OpenRound, made: Made) -> None:  # noqa: ARG002
        """Wait for somebody's submission, and claim the first one found."""
        tip, chain = now.tip, now.context.chain
        head = await chain.head()
        while head.number < tip.opening.deadline:
            for peer in (await chain.snapshot()).peers:
                if peer.hotkey != now.context.identity.hotkey and public_of(peer.hotkey) in tip.opening.expected:
                    head_data = await _read(now, peer, paths.head(tip.run_id, tip.round))
                    payload = await _read(now, peer, paths.payload(tip.run_id, tip.round))
                    if head_data is not None and payload is not None:
                        await self._claim(now, wire.decode_head(head_data, tip.run_id), payload)
                        return
            head = await chain.next_block(head.number)

    async def _claim(self, now: OpenRound, signed: Signed, ciphertext: bytes) -> None:
        context, tip = now.context, now.tip
        public = context.identity.public
        uid = await stages.slot_of(now)
        if uid is None:
            return
        self._victim = signed.header.hotkey
        own = stages.windows_of(tip, uid)
        mine = replace(
            signed.header,
            public=public,
            possession=possession(tip, now.replica)(public),
            uid=uid,
            data_digest=data_digest(own[: signed.header.windows]),
        )
        await context.bucket.put(paths.payload(tip.run_id, tip.round), ciphertext)
        await context.bucket.put(paths.head(tip.run_id, tip.round), wire.encode_head(mine, context.identity))

    async def key(self, now: OpenRound, made: Made, found: FoundSeal) -> None:  # noqa: ARG002
        """Copy the victim's key as soon as it is public."""
        tip, chain = now.tip, now.context.chain
        peer = (await chain.snapshot()).by_hotkey().get(self._victim)
        if peer is None:
            return
        head = await chain.head()
        for _ in range(tip.spec.clock.reveal):
            data = await _read(now, peer, paths.key(tip.run_id, tip.round))
            if data is not None:
                key = wire.decode_key(data, tip.run_id, tip.round, public_of(peer.hotkey)).payload_key
                await _publish_key(now, key, found.digest)
                return
            head = await chain.next_block(head.number)


async def _read(now: OpenRound, peer: Peer, key: str) -> bytes | None:
    """An object out of somebody's bucket; None where it is not there."""
    if peer.location is None:
        return None
    try:
        return await now.context.buckets.bucket(peer.location).get(key, max_bytes=_MAX_BYTES)
    except ObjectMissing:
        return None


ADVERSARIES: Mapping[str, Callable[[], Stages]] = {
    "desynchronised": lambda: Stages(build=build_desynchronised),
    "early_key": lambda: Stages(put=put_with_key),
    "garbage": lambda: Stages(build=build_garbage),
    "no_key": lambda: Stages(key=keep_silent),
    "noise": lambda: Stages(train=train_noise),
    "resigner": Resigner.stages,
    "silent": lambda: Stages(windows=no_windows),
    "swapped": lambda: Stages(build=build_swapped),
    "wrong_key": lambda: Stages(key=show_wrong_key),
}
"""The stages of every adversary by the name `--adversary NAME=COUNT` takes; each call makes one miner's."""
