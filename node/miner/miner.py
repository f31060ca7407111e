"""The miner: trains on its assigned windows, submits what changed most, and keeps the rest for next time.

What it does is in `stages`, what trains is an `Engine`; here is the order, which makes it safe to kill: the round's
submission, its key and the error feedback after it become durable together, and only then is anything sent. What is
sent counts as sent for error feedback, whatever becomes of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from muster.node.compute import CPU, Compute
from muster.node.context import Context
from muster.node.data.dataset import TextReader
from muster.node.freed import give_back
from muster.node.ledger.participant import Errands, Follower
from muster.node.ledger.reader import ASSIGN, draw
from muster.node.ledger.seals import FoundSeal
from muster.node.miner import overdue
from muster.node.miner.ahead import Ahead, foreseen
from muster.node.miner.answering import answered
from muster.node.miner.earnings import Earnings
from muster.node.miner.engine import Engine, RoundLost
from muster.node.miner.memory import Memory
from muster.node.miner.passed_over import Shown, passed_over
from muster.node.miner.stages import HONEST, OpenRound, Stages, Task
from muster.node.miner.state import Made, MinerState
from muster.node.miner.tidying import forget_submissions
from muster.node.replica import Replica
from muster.node.telemetry import events
from muster.protocol import wire
from muster.protocol.errors import ChainError, StorageError
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import Applied, Tip
from muster.protocol.ledger.round import Duty
from muster.protocol.types import Block

log = logging.getLogger(__name__)


class MakeMiner(Protocol):
    """Gives a miner its engine and its stages: what daemon and simulator are told to start."""

    def __call__(
        self,
        context: Context,
        tip: Tip,
        replica: Replica,
        text: TextReader,
        memory: Memory | None,
        compute: Compute = CPU,
    ) -> Miner:
        """A miner that goes on from what `memory` holds (None: from nothing, and nothing is kept).

        It trains as `compute` says, on the replica's device.
        """


class Miner(Follower):
    """A participant that trains. What it must remember is in `Memory` (none: it lives in this process only).

    Of the model's size, fp32, it holds θ and what the engine holds: the working copy, its gradients, the optimizer's
    moments. Δ takes the gradients' place, and the new e is made in Δ's. The old e, which counts until the new one is
    durable, is read from the file, so it takes memory for as long as the miner compresses, and no more of it than
    there is to spare. (Models too small for the compiled kernels take scratch then.) Where Δ is on a GPU, both e are in
    the host's memory all the same. In a run with a delay it holds two more (`Ahead`).
    """

    def __init__(
        self,
        context: Context,
        tip: Tip,
        replica: Replica,
        text: TextReader,
        memory: Memory | None,
        engine: Engine,
        stages: Stages = HONEST,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Go on from what `memory` holds; `engine` is this miner's alone, `random` makes keys.

        Raises:
            ConfigError: that file is of another release or run.
            StorageError: it cannot be read.
            MusterError: it is of another engine or optimizer.
        """
        super().__init__(context, tip, replica)
        self._text = text
        self._engine = engine
        self._stages = stages
        self._random = random
        self._memory = memory
        self._state, forgotten = (
            memory.load(tip.layout, engine.load_state) if memory else (MinerState.blank(tip.layout), 0)
        )
        if forgotten:
            log.warning("error feedback and moments know nothing of the last %d rounds' work", forgotten)
            self.note(events.Forgot(tip.round, rounds=forgotten))
        self._unsaved: MinerState | None = None
        self.sits_out: Callable[[int], bool] = lambda _round: False
        self._stop = threading.Event()
        self._over: Tip | None = None
        self._trouble: tuple[int, str] | None = None
        self._busy = threading.Lock()
        self._ahead = Ahead() if tip.spec.clock.delay else None
        self._ahead_of: Tip | None = None
        self._errands: Errands | None = None
        self._sent: Made | None = None
        self._shown: Shown | None = None
        self._sending = False
        self._refused: set[bytes] = set()
        self._earnings = Earnings(context)
        self._overdue: asyncio.Task[None] | None = None

    def duty(self) -> Duty:
        """A miner mines."""
        return Duty.MINE

    def begin(self, errands: Errands) -> None:
        """See beside the round what is made of the earlier ones' work; what of it is not up yet may come late, and what
        nobody asks for any more goes."""
        self._errands = errands
        errands.start(self._earnings.look(self._tip))
        errands.start(forget_submissions(self.context, self._tip))
        made = self._state.made
        if made is not None and made is not self._sent and overdue.is_open(self._tip, made):
            self._overdue = errands.start(self._send_late(made))

    @property
    def error_feedback(self) -> tuple[Tensor, ...]:
        """e after the newest submission, fp32 in layout order; for reading."""
        return self._state.error

    @property
    def made(self) -> Made | None:
        """The open round's submission; None until it is made and durable."""
        made = self._state.made
        return made if made is not None and made.belongs(self._tip) else None

    @property
    def awaits_seal(self) -> bool:
        """Once it is made: where the bucket took the submission and only its answer was lost, it may be sealed."""
        return self.made is not None

    async def train(self) -> None:
        """Make the open round's submission, unless that has been done, and put it.

        Called again for the same round, after an error or in another life, it sends the very bytes that are stored.

        Raises:
            ChainError: the chain tells neither this hotkey's slot nor of the next block.
            StorageError: what was made cannot be stored on this machine's disk; the next call tries that again.
        """
        now = self._now()
        if self.sits_out(now.tip.round):
            return
        made = self.made or await self._make(now)
        if made is not None:
            if self._ahead and self._errands is not None and self._ahead_of is not now.tip:
                self._ahead_of = now.tip
                self._errands.start(self._go_ahead(now))
            await self._send(now, made)

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

    async def after_apply(self, applied: Applied) -> None:
        """Scores of the round will be named by its record; and whoever was passed over says so."""
        self._earnings.applied(applied)
        shown, self._shown = self._shown, None
        problem = "" if shown is None else passed_over(shown, self.public, applied)
        if problem:
            leader = hotkey_of(applied.record.leader)
            log.warning("round %d, closed by %s: %s", applied.record.round, leader, problem)
            self.note(events.PassedOver(applied.record.round, leader=leader, problem=problem))

    async def before_undo(self) -> None:
        """So it does before θ moves back; error feedback stays as it is, for what was made counts as sent."""
        await self.stop_training()

    async def choose_seal(self, found: Sequence[FoundSeal], head: Block) -> FoundSeal | None:
        """The first seal that this submission's key may answer; the journal says what is wrong with any other.

        Raises:
            StorageError: the own bucket does not show which seal was answered before.
        """
        made, now = self.made, self._now()
        if made is None:
            return None
        for one in found:
            if one.digest in self._refused:
                continue
            problem = self._stages.seal(now, made, one.seal, head)
            if not problem or one.digest == await answered(self.context.bucket, now.tip):
                return one
            self._refused.add(one.digest)
            if not one.seal.sealed(self.public):
                continue  # it came too late for this seal, with which nothing is wrong
            log.warning("a seal of round %d is not answered: %s", now.tip.round, problem)
            self.note(events.SealRefused(now.tip.round, seal=one.digest.hex(), problem=problem))
        return None

    async def publish_key(self, found: FoundSeal) -> None:
        """Show the key, for the one seal that this miner answers in this round; fit to be done twice.

        Raises:
            StorageError: the bucket did not take it.
        """
        made, now = self.made, self._now()
        assert made is not None, "a seal is chosen by what is made"
        await self._stages.key(now, made, found)
        if self._shown is not None and self._shown.made is made:
            self._shown = replace(self._shown, key=await self._block())
        if self._sent is not made and not self._sending:  # an earlier life ended between head and payload
            await self._stages.put(now, made)
            self._sent = made

    async def _block(self) -> int | None:
        """The newest block; None where the chain does not say, and then nothing follows from it."""
        try:
            return (await self.context.chain.head()).number
        except ChainError as error:
            log.debug("at which block it is up is not known: %s", error)
            return None

    def _now(self) -> OpenRound:
        return OpenRound(self.context, self._tip, self.replica)

    async def _make(self, now: OpenRound) -> Made | None:
        """The round's work in the slot of now; None where there is none to send, and the journal says why."""
        tip = now.tip
        uid = await self._stages.slot(now)
        if uid is None:
            log.error("round %d is sat out: this hotkey has no slot on the subnet; register it again", tip.round)
            self.note(events.Unregistered(tip.round))
            return None
        self._stop = stop = threading.Event()
        try:
            task = Task(now.context, tip, now.replica, uid, self._text, self._engine, stop, self._ahead)
            return await self.context.offload(lambda: self._work(task))
        except RoundLost as error:
            self._over = tip
            log.error("round %d is lost: %s", tip.round, error)
            self.note(events.Lost(tip.round, problem=str(error)))
            return None
        finally:
            stop.set()  # a thread does not end with the task that waits for it

    async def _go_ahead(self, now: OpenRound) -> None:
        """Train for the next round while this one closes, until its record is applied; what fails is done then."""
        tip, chain = now.tip, self.context.chain
        if self.sits_out(tip.round + 1):
            return
        self._stop = stop = threading.Event()
        try:
            uid = await self._stages.slot(now)
            assign = await draw(chain, ASSIGN, tip.round + 1, tip.opening.open.number)
            if uid is not None and self._tip is tip:
                coming = foreseen(tip, assign)
                task = Task(now.context, coming, now.replica, uid, self._text, self._engine, stop, self._ahead)
                await self.context.offload(lambda: self._work_ahead(tip, task))
        except (ChainError, RoundLost) as error:
            log.warning("nothing is done ahead of round %d: %s", tip.round + 1, error)
        finally:
            stop.set()

    async def _send(self, now: OpenRound, made: Made) -> None:
        """Put a submission, again at every block, until the bucket has it or the round is over."""
        chain = self.context.chain
        self._sending = True
        if self._overdue is not None:
            self._overdue.cancel()  # what may still be in time goes first
        try:
            while not await self._put(now, made):
                head = await chain.head()
                await chain.next_block(head.number)
                if self._tip is not now.tip:
                    return
        finally:
            self._sending = False

    async def _send_late(self, made: Made) -> None:
        """Go on with the payload of an earlier round while the open one's is not ready."""
        if await overdue.send(self.context, self._tip, made) and self._state.made is made:
            self._sent = made

    async def _put(self, now: OpenRound, made: Made) -> bool:
        """Put the submission; False where the store failed and it is worth trying again."""
        try:
            await self._stages.put(now, made)
            self._sent, self._shown = made, Shown(made, await self._block())
        except StorageError as error:
            log.warning("the submission of round %d is not up yet: %s", made.round, error)
            if self._trouble != (made.round, str(error)):
                self._trouble = made.round, str(error)
                self.note(events.Trouble(made.round, problem=f"the submission is not up yet: {error}"))
            return False
        return True

    def _work(self, task: Task) -> Made | None:
        """In a thread, one at a time: train, compress, remember; None where there is nothing to send.

        A thread that outlived the task that waited for it may have made the submission by now; it is made once.
        """
        tip = task.tip
        with self._busy:
            if task.stop.is_set() or self._over is tip:
                return None
            if self.made is None:
                if self._unsaved is None or self._unsaved.made is None or not self._unsaved.made.belongs(tip):
                    self._unsaved = self._do(task)
                if self._unsaved is None:
                    return None
                self._remember(self._unsaved)
                self._unsaved = None
                give_back()
            return self.made

    def _work_ahead(self, tip: Tip, task: Task) -> None:
        """In a thread, when the open round's work is done: train for the next one while θ stays."""
        with self._busy:
            if task.stop.is_set() or self._over is tip:
                return
            windows = self._stages.windows(task)
            if windows:
                self._stages.ahead(task, windows)
                give_back()

    def _do(self, task: Task) -> MinerState | None:
        """The round's stages, and what is to be remembered of them; None where there is no work or the round was over.

        The old e is only read: it counts until the new one is durable.

        Raises:
            RoundLost: the slot has no text, or a number is not finite.
        """
        stages, round_ = self._stages, task.tip.round
        windows = stages.windows(task)
        if not windows:
            return None
        self.note(events.Training(round_))
        delta = stages.train(task, windows)
        give_back()
        if delta is None:
            return None
        self.note(events.Trained(round_, steps=delta.steps, seconds=delta.seconds, loss=delta.loss))
        update, left = stages.compress(task, delta, self._state.error)
        key = self._random(wire.KEY_BYTES)
        trained_on = windows[: delta.steps * task.tip.spec.inner.batch]
        return MinerState(left, Made(round_, task.tip.parent, key, stages.build(task, update, trained_on, key)))

    def _remember(self, state: MinerState) -> None:
        """Make a round's work durable: from here on it counts as sent."""
        self.context.faults.trip("submit.before_save")
        if self._memory:
            with self.context.ailments.writing("the miner's memory"):
                state = self._memory.save(self._tip.layout, state, self._engine.state)
        self._state = state
