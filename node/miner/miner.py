"""The miner: trains on its assigned windows, submits what changed most, and keeps the rest for next time.

The order is what makes it safe to kill: the round's submission, its key and the error feedback after it become durable
together, and only then is anything sent. What is sent counts as sent for error feedback, whatever becomes of it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from blake3 import blake3
from torch import Tensor

from muster.kernels import SparseUpdate, compress_
from muster.node.context import Context
from muster.node.data.dataset import TextReader
from muster.node.ledger.participant import Follower
from muster.node.ledger.reader import BULK_DEADLINE, FoundSeal
from muster.node.miner.answering import answer, answered
from muster.node.miner.inner import InnerTrainer, RoundLost, TrainResult
from muster.node.miner.memory import Made, Memory, load_memory, save_memory
from muster.node.replica import Replica
from muster.protocol import ledger, paths, wire
from muster.protocol.errors import StorageError
from muster.protocol.ledger import Applied, Tip
from muster.protocol.ledger.round import Role
from muster.protocol.rules.assignment import assigned, data_digest, share
from muster.protocol.spec.layout import AEAD_TAG_BYTES
from muster.protocol.types import Block
from muster.protocol.wire import Header

log = logging.getLogger(__name__)

UPLOAD_DEADLINE = BULK_DEADLINE
"""Seconds an upload may take before it counts as failed."""


class Miner(Follower):
    """A participant that trains. Everything it must remember is in one file (none: it lives in this process only).

    Of the model's size, fp32, it holds θ, the working copy, its gradients, the optimizer's moments and e. Δ takes the
    gradients' place, and the new e is made in Δ's; so the old e, kept until the new one is durable, is the one copy
    beyond what training needs. (Models too small for the compiled kernels take scratch for as long as they compress.)
    """

    def __init__(
        self,
        context: Context,
        tip: Tip,
        replica: Replica,
        text: TextReader,
        memory_path: Path | None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Go on from what `memory_path` holds; `random` makes keys.

        Raises:
            ConfigError: that file is of another release or run.
            MusterError: it is of another optimizer.
        """
        super().__init__(context, tip, replica)
        self._text = text
        self._random = random
        self._path = memory_path
        self._memory = load_memory(memory_path, tip.layout) if memory_path else Memory.blank(tip.layout)
        self._trainer = InnerTrainer(tip.spec.model, tip.spec.inner)
        self._trainer.load_state(self._memory.optimizer)
        self._memory = replace(self._memory, optimizer={})  # the trainer has copies
        self._unsaved: Memory | None = None
        self.sits_out: Callable[[int], bool] = lambda _round: False
        self._stop = threading.Event()
        self._over: Tip | None = None
        self._trouble: tuple[int, str] | None = None
        self._busy = threading.Lock()
        self._sent: int | None = None
        self._sending = False
        self._refused: set[bytes] = set()

    def role(self) -> Role:
        """A miner mines."""
        return Role.MINER

    @property
    def error_feedback(self) -> tuple[Tensor, ...]:
        """e after the newest submission, fp32 in layout order; for reading."""
        return self._memory.residual

    @property
    def made(self) -> Made | None:
        """The open round's submission; None until it is made and durable."""
        made = self._memory.made
        return made if made is not None and made.round == self._tip.round else None

    @property
    def awaits_seal(self) -> bool:
        """Once it is made: where the bucket took the submission and only its answer was lost, it may be sealed."""
        return self.made is not None

    async def slot(self) -> int | None:
        """The uid that this hotkey has now; None where it is not registered.

        Raises:
            ChainError: the chain does not say.
        """
        peer = (await self.context.chain.snapshot()).by_hotkey().get(self.context.identity.hotkey)
        return None if peer is None else peer.uid

    async def train(self) -> None:
        """Make the open round's submission, unless that has been done, and put it.

        Called again for the same round, after an error or in another life, it sends the very bytes that are stored.

        Raises:
            ChainError: the chain tells neither this hotkey's slot nor of the next block.
            StorageError: what was made cannot be stored on this machine's disk; the next call tries that again.
        """
        tip = self._tip
        if self.sits_out(tip.round):
            return
        made = self.made or await self._make(tip)
        if made is not None:
            await self._send(tip, made)

    async def stop_training(self) -> None:
        """End the open round's training for good; once this returns nothing reads θ any more."""
        self._over = self._tip
        self._stop.set()

        def wait() -> None:
            with self._busy:
                pass

        await self.context.offload(wait)

    async def before_apply(self, applied: Applied) -> None:  # noqa: ARG002
        """Training stops before θ moves under it."""
        await self.stop_training()

    async def choose_seal(self, found: Sequence[FoundSeal], head: Block) -> FoundSeal | None:
        """The first seal that this submission's key may answer; the journal says what is wrong with any other.

        Raises:
            StorageError: the own bucket does not show which seal was answered before.
        """
        made, tip = self.made, self._tip
        if made is None:
            return None
        signed, _ = wire.decode(made.submission, tip.run_id)
        for one in found:
            if one.digest in self._refused:
                continue
            problem = ledger.unanswerable(tip, one.seal, self.public, signed.digest, head)
            if not problem or one.digest == await answered(self.context.bucket, tip):
                return one
            self._refused.add(one.digest)
            if not one.seal.sealed(self.public):
                continue  # it came too late for this seal, with which nothing is wrong
            log.warning("a seal of round %d is not answered: %s", tip.round, problem)
            self.note("seal_refused", round=tip.round, seal=one.digest.hex(), problem=problem)
        return None

    async def publish_key(self, found: FoundSeal) -> None:
        """Show the key, for the one seal that this miner answers in this round; fit to be done twice.

        Raises:
            StorageError: the bucket did not take it.
        """
        made, tip = self.made, self._tip
        assert made is not None, "a seal is chosen by what is made"
        seal = await answer(self.context.bucket, tip, found)
        self.context.faults.trip("submit.before_key")
        data = wire.encode_key(self.context.identity, tip.run_id, tip.round, made.key, seal)
        await self.context.bucket.put(paths.key(tip.run_id, tip.round), data)
        self.note("key", round=tip.round)
        if self._sent != tip.round and not self._sending:  # an earlier life ended between head and payload
            await self._put_submission(tip, made)

    async def _make(self, tip: Tip) -> Made | None:
        """The round's work in the slot of now; None where there is none to send, and the journal says why."""
        uid = await self.slot()
        if uid is None:
            log.error("round %d is sat out: this hotkey has no slot on the subnet; register it again", tip.round)
            self.note("unregistered", round=tip.round)
            return None
        self._stop = stop = threading.Event()
        try:
            return await self.context.offload(lambda: self._work(tip, uid, stop))
        except RoundLost as error:
            self._over = tip
            log.error("round %d is lost: %s", tip.round, error)
            self.note("lost", round=tip.round, problem=str(error))
            return None
        finally:
            stop.set()  # a thread does not end with the task that waits for it

    async def _send(self, tip: Tip, made: Made) -> None:
        """Put a submission, again at every block, until the bucket has it or the round is over."""
        chain = self.context.chain
        self._sending = True
        try:
            while not await self._put(tip, made):
                head = await chain.head()
                await chain.next_block(head.number)
                if self._tip is not tip:
                    return
        finally:
            self._sending = False
        self.note("submitted", round=tip.round, bytes=len(made.submission), values=tip.layout.kept(tip.spec.sparse.k))

    async def _put(self, tip: Tip, made: Made) -> bool:
        """Upload the submission; False where the store failed and it is worth trying again."""
        try:
            self.context.faults.trip("submit.before_put")
            await self._put_submission(tip, made)
        except StorageError as error:
            log.warning("the submission of round %d is not up yet: %s", made.round, error)
            if self._trouble != (made.round, str(error)):
                self._trouble = made.round, str(error)
                self.note("trouble", round=made.round, problem=f"the submission is not up yet: {error}")
            return False
        return True

    async def _put_submission(self, tip: Tip, made: Made) -> None:
        """The head, which is what has to be there in time for the seal, and then the payload.

        Raises:
            StorageError: the bucket did not take both.
        """
        signed, ciphertext = wire.decode(made.submission, tip.run_id)
        bucket = self.context.bucket
        await bucket.put(paths.head(tip.run_id, made.round), signed.head)
        await bucket.put(paths.payload(tip.run_id, made.round), ciphertext, deadline=UPLOAD_DEADLINE)
        self._sent = made.round

    def _work(self, tip: Tip, uid: int, stop: threading.Event) -> Made | None:
        """In a thread, one at a time: train, compress, remember; None where the round was over first.

        A thread that outlived the task that waited for it may have made the submission by now; it is made once.
        """
        with self._busy:
            if stop.is_set() or self._over is tip:
                return None
            if self.made is None:
                if self._unsaved is None or self._unsaved.made is None or self._unsaved.made.round != tip.round:
                    self._unsaved = self._train(tip, uid)
                if self._unsaved is None:
                    return None
                self._remember(self._unsaved)
                self._unsaved = None
            return self.made

    def _remember(self, memory: Memory) -> None:
        """Make a round's work durable: from here on it counts as sent."""
        self.context.faults.trip("submit.before_save")
        if self._path:
            save_memory(replace(memory, optimizer=self._trainer.state()), self._path)
        self._memory = memory

    def _train(self, tip: Tip, uid: int) -> Memory | None:
        """Inner training and compression; None where the round was over first.

        The memory of Δ becomes that of the new e. The old e is only read: it counts until the new one is durable.

        Raises:
            RoundLost: the slot has no text, or a number is not finite.
        """
        spec = tip.spec
        windows = self.assigned_windows(tip, uid)
        self._trainer.inner = spec.inner
        self.note("training", round=tip.round)
        result = self.inner_training(tip, windows)
        if result is None:
            return None
        self.note("trained", round=tip.round, steps=result.steps, seconds=result.seconds, loss=result.loss)
        left, error = self.shape_delta(result, uid), self._memory.residual
        try:
            update = compress_(left, error, spec.sparse.error_decay, spec.sparse.k, tip.layout.grid).update
        except ValueError as problem:
            raise RoundLost(
                f"{problem}; check this machine's RAM, and if every round ends so, start with a blank memory file"
            ) from problem
        key = self._random(wire.KEY_BYTES)
        submission = self.build(tip, uid, update, windows[: result.steps * spec.inner.batch], key)
        return Memory(tuple(left), made=Made(tip.round, key, submission))

    def assigned_windows(self, tip: Tip, uid: int) -> list[int]:
        """The windows of a full round's work: H batches, or as many whole ones as the slot's share holds.

        Raises:
            RoundLost: the run has no text for that slot.
        """
        spec = tip.spec
        if uid >= spec.data.slots:
            raise RoundLost(f"slot {uid} gets no text: this run assigns it to slots 0 to {spec.data.slots - 1}")
        batches = min(spec.inner.steps, share(spec.data) // spec.inner.batch)
        return assigned(tip.opening.assign.value, uid, spec.data, batches * spec.inner.batch)

    def inner_training(self, tip: Tip, windows: list[int]) -> TrainResult | None:
        """H inner steps on the windows; None where the round was over first.

        Raises:
            Diverged: a number is not finite.
        """
        faults, stop = self.context.faults, self._stop
        result = self._trainer.train(
            self.replica.theta,
            self._text.windows(windows),
            self.replica.outer_step * tip.spec.inner.steps,
            on_step=lambda _step, _loss: faults.trip("train.step"),
            stop=stop.is_set,
        )
        return None if stop.is_set() else result

    def shape_delta(self, result: TrainResult, uid: int) -> list[Tensor]:  # noqa: ARG002
        """The pseudo-gradient that is folded into error feedback, contiguous; its memory becomes the new e's."""
        return result.delta

    def build(self, tip: Tip, uid: int, update: SparseUpdate, windows: list[int], key: bytes) -> bytes:
        """The whole submission object."""
        ciphertext = wire.seal(update, key, tip.run_id, tip.round, self.public)
        header = Header(
            run_id=tip.run_id,
            public=self.public,
            round=tip.round,
            base_round=tip.opening.base_round,
            uid=uid,
            layout=tip.layout.digest,
            possession=self.replica.possession(tip.opening.possess.value, self.public, tip.round),
            data_digest=data_digest(windows),
            windows=len(windows),
            tokens=len(windows) * tip.spec.data.window,
            payload_bytes=len(ciphertext) - AEAD_TAG_BYTES,
            ciphertext_digest=blake3(ciphertext).digest(),
            key_commitment=wire.key_commitment(key),
        )
        return wire.encode(header, self.context.identity, ciphertext)
