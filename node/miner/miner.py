"""The miner: trains on its assigned windows, submits what changed most, and keeps the rest for next time."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3
from torch import Tensor

from muster.kernels import SparseUpdate, compress, fold, residual
from muster.node import follow
from muster.node.data import TextReader
from muster.node.miner.inner import InnerTrainer, TrainResult
from muster.node.miner.memory import Memory, Pending, load_memory, save_memory
from muster.node.ledger.participant import Follower, Surroundings
from muster.node.replica import Replica
from muster.protocol import paths, wire
from muster.protocol.assignment import assigned, data_digest, share
from muster.protocol.chain.base import AnchorSeen
from muster.protocol.errors import StorageError
from muster.protocol.identity import hotkey_of
from muster.protocol.layout import AEAD_TAG_BYTES
from muster.protocol.ledger import Applied, Tip
from muster.protocol.round import Role
from muster.protocol.storage import Store
from muster.protocol.wire import Entry, Header, Seal

log = logging.getLogger(__name__)

UPLOAD_DEADLINE = follow.BULK_DEADLINE
"""Seconds an upload may take before it counts as failed."""


class Miner(Follower):
    """A participant that trains. Everything it must remember is in one file (none: it lives in this process only)."""

    def __init__(
        self,
        surroundings: Surroundings,
        tip: Tip,
        replica: Replica,
        text: TextReader,
        memory_path: Path | None,
        uid: int,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        super().__init__(surroundings, tip, replica)
        self.uid = uid
        self._text = text
        self._random = random
        self._path = memory_path
        self._memory = load_memory(memory_path, tip.layout) if memory_path else Memory.blank(tip.layout)
        self._trainer = InnerTrainer(tip.spec.model, tip.spec.inner)
        if self._memory.optimizer:
            self._trainer.load_state(self._memory.optimizer)
        self.sits_out: Callable[[int], bool] = lambda _round: False
        self._stop = False
        self._idle = asyncio.Event()
        self._idle.set()

    def role(self) -> Role:
        """A miner mines."""
        return Role.MINER

    @property
    def error_feedback(self) -> tuple[Tensor, ...]:
        """e as the last known record left it, fp32 in layout order; for reading."""
        return self._memory.residual

    async def settle(self) -> None:
        """Find out what became of a submission made before this process started.

        Raises:
            StorageError, WireError: its record cannot be read.
        """
        pending = self._memory.pending
        if pending is None or pending.round >= self._tip.round:
            return
        snapshot = await self.surroundings.chain.snapshot()
        leader = snapshot.by_hotkey()[hotkey_of(self._tip.leader(0))]
        assert leader.location is not None, "a leader that has recorded rounds has a bucket"
        store = self.surroundings.buckets.bucket(leader.location)
        tensors = len(self._tip.layout.shapes)
        record, _ = await follow.fetch_record(store, self._tip.run_id, pending.round, tensors)
        await self._settle(_accepted(record.accepted, self.public))

    async def train(self) -> None:
        """Train the open round and put the submission; a submission made before a restart is put again."""
        tip = self._tip
        pending = self._memory.pending
        if self.sits_out(tip.round):
            return
        if pending is None or pending.round != tip.round:
            self._idle.clear()
            try:
                pending = await self.surroundings.offload(lambda: self._work(tip))
            finally:
                self._idle.set()
        if pending is None:
            return
        head = await self.surroundings.chain.head()
        while not await self._put(tip, pending):
            head = await self.surroundings.chain.next_block(head.number)
        self.note("submitted", round=tip.round, bytes=len(pending.submission), values=tip.layout.kept(pending.k))

    async def _put(self, tip: Tip, pending: Pending) -> bool:
        """Upload the submission; False where the store failed and it is worth trying again."""
        try:
            self.surroundings.faults.trip("submit.before_put")
            key = paths.submission(tip.run_id, tip.round)
            await self.surroundings.bucket.put(key, pending.submission, deadline=UPLOAD_DEADLINE)
        except StorageError as error:
            log.warning("the submission of round %d is not up yet: %s", tip.round, error)
            return False
        return True

    async def publish_key(self, seal: Seal) -> None:
        """Show the key of the sealed submission, if it is this very one that was sealed."""
        pending, tip = self._memory.pending, self._tip
        if pending is None or pending.round != seal.round:
            return
        signed, _ = wire.decode(pending.submission, tip.run_id)
        if (self.public, signed.digest) not in seal.headers:
            self.note("sealed_other", round=seal.round)
            return
        self.surroundings.faults.trip("submit.before_key")
        data = wire.encode_key(self.surroundings.identity, tip.run_id, seal.round, pending.key)
        await self.surroundings.bucket.put(paths.key(tip.run_id, seal.round), data)
        self.note("key", round=seal.round)

    async def apply(self, anchor: AnchorSeen, store: Store) -> bool:
        """Training stops before θ moves under it."""
        self._stop = True
        await self._idle.wait()
        done = await super().apply(anchor, store)
        self._stop = False
        return done

    async def after_apply(self, applied: Applied) -> None:
        """Commit error feedback by what the record says."""
        pending = self._memory.pending
        if pending is not None and pending.round == applied.record.round:
            await self._settle(_accepted(applied.record.accepted, self.public))

    async def _settle(self, accepted: bool) -> None:
        pending = self._memory.pending
        assert pending is not None
        grid = self._tip.layout.grid

        def work() -> None:
            left = pending.acc
            if accepted:
                left = tuple(residual(pending.acc, compress(pending.acc, pending.k, grid)))
            self._remember(self._memory.settled(left))

        await self.surroundings.offload(work)

    def _remember(self, memory: Memory) -> None:
        self._memory = memory
        if self._path:
            save_memory(memory, self._path)

    def _work(self, tip: Tip) -> Pending | None:
        """Inner training and compression, in a thread; None where the round was over first."""
        spec = tip.spec
        windows = self.assigned_windows(tip)
        self._trainer.inner = spec.inner
        self.note("training", round=tip.round)
        result = self.inner_training(tip, windows)
        if result is None:
            return None
        self.note("trained", round=tip.round, steps=result.steps, seconds=result.seconds, loss=result.loss)
        acc = fold(list(self._memory.residual), self.shape_delta(result), spec.sparse.error_decay)
        update = self.shape_update(compress(acc, spec.sparse.k, tip.layout.grid))
        key = self._random(wire.KEY_BYTES)
        submission = self.build(tip, update, windows[: result.steps * spec.inner.batch], key)
        pending = Pending(tip.round, spec.sparse.k, tuple(acc), key, submission)
        self._remember(Memory(self._memory.residual, self._trainer.state(), pending))
        return pending

    def assigned_windows(self, tip: Tip) -> list[int]:
        """The windows of a full round's work: H batches, or as many whole ones as the slot's share holds."""
        spec = tip.spec
        batches = min(spec.inner.steps, share(spec.data) // spec.inner.batch)
        return assigned(tip.opening.assign.value, self.uid, spec.data, batches * spec.inner.batch)

    def inner_training(self, tip: Tip, windows: list[int]) -> TrainResult | None:
        """H inner steps on the windows; None where the round was over first."""
        faults = self.surroundings.faults
        result = self._trainer.train(
            self.replica.theta,
            self._text.windows(windows),
            self.replica.outer_step * tip.spec.inner.steps,
            on_step=lambda _step, _loss: faults.trip("train.step"),
            stop=lambda: self._stop,
        )
        return None if self._stop else result

    def shape_delta(self, result: TrainResult) -> list[Tensor]:
        """The pseudo-gradient that is folded into error feedback."""
        return result.delta

    def shape_update(self, update: SparseUpdate) -> SparseUpdate:
        """The update that is sent."""
        return update

    def build(self, tip: Tip, update: SparseUpdate, windows: list[int], key: bytes) -> bytes:
        """The whole submission object."""
        ciphertext = wire.seal(update, key, tip.run_id, tip.round, self.public)
        header = Header(
            run_id=tip.run_id,
            public=self.public,
            round=tip.round,
            base_round=tip.opening.base_round,
            uid=self.uid,
            layout=tip.layout.digest,
            possession=self.replica.possession(tip.opening.possess.value, self.public, tip.round),
            data_digest=data_digest(windows),
            windows=len(windows),
            tokens=len(windows) * tip.spec.data.window,
            payload_bytes=len(ciphertext) - AEAD_TAG_BYTES,
            ciphertext_digest=blake3(ciphertext).digest(),
            key_commitment=wire.key_commitment(key),
        )
        return wire.encode(header, self.surroundings.identity, ciphertext)


def _accepted(entries: tuple[Entry, ...], public: bytes) -> bool:
    return any(entry.public == public for entry in entries)
