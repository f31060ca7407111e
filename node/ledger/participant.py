"""What miner, validator and aggregator have in common: a replica that follows the ledger, and a place to live on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from muster.kernels import SparseUpdate, Undo
from muster.node.context import Context
from muster.node.ledger.reader import Fetched
from muster.node.ledger.seals import FoundSeal
from muster.node.replica import Replica
from muster.node.telemetry import events
from muster.protocol import ledger, wire
from muster.protocol.chain.base import Chain
from muster.protocol.errors import LedgerError, WireError
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import Applied, Tip
from muster.protocol.ledger.roots import proof_of
from muster.protocol.ledger.round import Duty, Event, RoundState
from muster.protocol.rules.admission import admit
from muster.protocol.types import Block
from muster.protocol.wire import Record

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOP_TURNS = 16
"""Turns of the event loop that reads which wait for nothing outside need at most: a few tasks deep."""


class Errands:
    """Work that goes on beside the session for as long as one round lasts.

    `wait` is how a look has one deadline for all of it: it ends when everything asked for is done, or with the next
    block; who hangs goes on hanging alone, and is looked at again.
    """

    def __init__(self, tasks: asyncio.TaskGroup, chain: Chain) -> None:
        self._tasks = tasks
        self._chain = chain
        self._running: set[asyncio.Task[Any]] = set()
        self._apart: list[Errands] = []

    def apart(self) -> Errands:
        """Errands of the same round that can be cancelled without the others, and are with all."""
        self._apart.append(Errands(self._tasks, self._chain))
        return self._apart[-1]

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something in the background; what it raises ends the session."""
        task = self._tasks.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def wait(self, started: set[asyncio.Task[None]], head: Block) -> None:
        """Until all of these are done, or the chain is beyond `head`.

        Raises:
            ChainError: the chain does not say.
        """
        for _ in range(LOOP_TURNS):  # what needs no waiting is done within a few, and then no block has to pass
            await asyncio.sleep(0)
            if all(task.done() for task in started):
                return
        block = asyncio.ensure_future(self._chain.next_block(head.number))
        everything = asyncio.ensure_future(asyncio.wait(started))
        try:
            await asyncio.wait({block, everything}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            everything.cancel()
            block.cancel()
        if block.done() and not block.cancelled():
            block.result()

    def cancel(self) -> None:
        """The round is over: whatever still runs is pointless."""
        for task in tuple(self._running):
            task.cancel()
        for errands in self._apart:
            errands.cancel()


class Participant:
    """What a role adds to the round machine: how it looks, and how it carries out each instruction.

    Looking (`known`, `judge`, `observe`) never acts. An instruction that raises `StorageError` or `ChainError` is
    given again at the next block, so each of them must be fit to be done twice.
    """

    public: bytes

    @property
    def tip(self) -> Tip:
        """Where this participant's replica stands in the ledger."""
        raise NotImplementedError

    def duty(self) -> Duty:
        """What it does in the open round."""
        raise NotImplementedError

    async def turn(self, head: Block) -> int | None:  # noqa: ARG002
        """In which later turn it may close the open round, which is late, at block `head`; None for in none.

        Raises:
            ChainError: the chain does not say.
        """
        return None

    @property
    def closing(self) -> bool:
        """Whether it, as the leader, ends the run with the open round."""
        return False

    @property
    def awaits_seal(self) -> bool:
        """Whether it has something to show once the open round is sealed."""
        return False

    async def beside(self) -> None:
        """What it does beside the session for as long as that lives; the session ends when this has, too."""

    def begin(self, errands: Errands) -> None:
        """A round begins; background work of this round is started through `errands`."""

    def saw(self, data: bytes) -> None:
        """A seal or record has been read; it is one by its digest or its name, and may not be what it must be."""

    def known(self, digest: bytes) -> Applied | None:  # noqa: ARG002
        """The judgement of a record this participant made itself, so that it need not be fetched."""
        return None

    async def judge(self, fetched: Fetched) -> Applied:
        """Check a fetched record against the rules and this replica's θ.

        Raises:
            LedgerError: the first rule it breaks.
        """
        raise NotImplementedError

    async def open_ahead(self, tip: Tip, record: Record, bundle: bytes) -> Sequence[SparseUpdate]:
        """The updates in the bundle of a record that is yet to be judged, of the spec in force at `tip`.

        Raises:
            LedgerError: one of them is not good.
        """
        raise NotImplementedError

    async def observe(self, state: RoundState, head: Block) -> list[Event]:  # noqa: ARG002
        """What a leader sees in the peers' buckets since it last looked."""
        return []

    async def train(self) -> None:
        """Do the open round's work and submit it. Runs beside the session; is cancelled when the record is there."""

    async def choose_seal(self, found: Sequence[FoundSeal], head: Block) -> FoundSeal | None:  # noqa: ARG002
        """Which of the open round's seals, seen at block `head`, counts for this participant; None for none of them."""
        return next(iter(found), None)

    async def publish_key(self, found: FoundSeal) -> None:
        """Show the payload's key: the seal is public."""

    async def publish_seal(self, head: Block) -> FoundSeal:
        """Close the round to submissions; returns the seal that stands."""
        raise NotImplementedError

    async def publish_record(self, head: Block) -> None:
        """Decide the round."""
        raise NotImplementedError

    async def apply(self, applied: Applied, fetched: Fetched | None) -> None:
        """Move θ by a judged record; `fetched` is what it was judged from, None where it is the own one."""
        raise NotImplementedError

    async def undo(self, round_: int) -> None:
        """Take the record of a round, the newest there is, back: its round is open again."""
        raise NotImplementedError

    async def finalise(self, round_: int) -> None:
        """Forget what taking back the record of a round would need."""
        raise NotImplementedError

    def note(self, event: events.Event) -> None:
        """Write to the journal."""


@dataclass(frozen=True, slots=True)
class Step:
    """A record that has been applied and may be taken back: `before` is the tip before it, `log` the bits of θ."""

    before: Tip
    applied: Applied
    log: Undo | None


class Follower(Participant):
    """A participant whose replica follows the ledger; roles add what they do beyond that."""

    def __init__(self, context: Context, tip: Tip, replica: Replica) -> None:
        self.context = context
        self.public = context.identity.public
        self.replica = replica
        self._tip = tip
        self._steps: list[Step] = []

    @property
    def tip(self) -> Tip:
        """Where the replica stands."""
        return self._tip

    async def judge(self, fetched: Fetched) -> Applied:
        """Judge by this replica's θ, in the background."""
        tip, replica = self._tip, self.replica
        return await self.context.offload(lambda: judge(fetched, tip, replica))

    async def open_ahead(self, tip: Tip, record: Record, bundle: bytes) -> Sequence[SparseUpdate]:
        """Decrypt and decode in the background; θ has no part in it."""
        return await self.context.offload(lambda: open_updates(tip, record, bundle))

    async def apply(self, applied: Applied, fetched: Fetched | None) -> None:  # noqa: ARG002
        """Take the outer step of a judged record; fit to be done twice, and θ moves once.

        What `before_apply` raises leaves θ where it was. What `after_apply` raises leaves it where it is now.
        """
        if self._tip is not applied.tip:
            await self._step(applied)
        await self.after_apply(applied)

    async def _step(self, applied: Applied) -> None:
        tip = self._tip
        self.context.faults.trip("apply.before")
        await self.before_apply(applied)
        log = await self.context.offload(lambda: self.replica.step(applied, tip.spec))
        self._steps.append(Step(tip, applied, log))
        self._tip = applied.tip
        root = await self.context.offload(self.replica.root)
        done = events.Applied(
            tip.round,
            kind=applied.record.kind.name.lower(),
            root=root.hex(),
            outer_step=self.replica.outer_step,
            accepted=tuple(hotkey_of(entry.public) for entry in applied.record.seated),
            rejected={hotkey_of(e.public): e.reason for e in applied.record.sealed if e.reason},
            bytes_up=self.context.meter.up,
            bytes_down=self.context.meter.down,
            late=tuple(hotkey_of(entry.public) for entry in applied.record.late),
        )
        self.note(done)
        for public in sorted(applied.tip.struck - tip.struck):
            self.note(events.Struck(tip.round, leader=hotkey_of(public)))
        for public in sorted(applied.tip.silenced - tip.silenced - applied.tip.struck):
            self.note(events.Silenced(tip.round, validator=hotkey_of(public)))

    async def undo(self, round_: int) -> None:
        """Give θ the bits it had before the newest record; fit to be done twice, and θ moves once.

        Where that record had not moved θ yet there is nothing to take back.
        """
        if not self._steps or self._steps[-1].before.round != round_:
            return
        step = self._steps[-1]
        await self.before_undo()
        if step.log is not None:
            log = step.log
            await self.context.offload(lambda: self.replica.undo(step.applied, log))
        self._steps.pop()
        self._tip = step.before
        root, record = await self.context.offload(self.replica.root), step.applied.digest
        self.note(events.Undone(round_, record=record.hex(), root=root.hex(), outer_step=self.replica.outer_step))

    async def finalise(self, round_: int) -> None:
        """Let go of the undo logs of this round and of those before it."""
        self._steps = [step for step in self._steps if step.before.round > round_]

    async def before_undo(self) -> None:
        """Called while the replica still holds the θ that is taken back."""

    async def before_apply(self, applied: Applied) -> None:
        """Called with a verified record while the replica still holds the θ it was made from."""

    async def after_apply(self, applied: Applied) -> None:
        """Called when the replica has taken the step, and again where it failed."""

    def note(self, event: events.Event) -> None:
        """Write to the journal."""
        self.context.journal.note(event)


def open_updates(tip: Tip, record: Record, bundle: bytes) -> Sequence[SparseUpdate]:
    """The updates of a record's accepted submissions out of its bundle, in record order; any tip of its spec will do,
    but for late work that of its round.

    Raises:
        LedgerError: a head is not readable, the bundle is not the record's, or a submission in it is not good.
    """
    try:
        accepted = [wire.decode_head(entry.head, tip.run_id) for entry in record.accepted]
    except WireError as error:
        raise LedgerError(f"an accepted header is not readable: {error.reason}") from error
    return ledger.open_bundle(tip, record, bundle)(accepted)


def judge(fetched: Fetched, tip: Tip, replica: Replica) -> Applied:
    """Check a fetched record against the rules and a replica's θ; what was decoded ahead is not decoded again.

    Updates that were came by the spec that the record names, and a record that names another one than the tip's is
    refused.

    Raises:
        LedgerError: the first rule it breaks.
    """
    updates = fetched.updates
    facts = tip.facts(possession(tip, replica))
    return ledger.verify(
        tip,
        fetched.record,
        fetched.digest,
        (fetched.seal, fetched.seal_digest),
        replica.root(),
        lambda owner, head: admit(facts, owner, head),
        ledger.open_bundle(tip, fetched.record, fetched.bundle) if updates is None else lambda _accepted: updates,
        replica.held,
    )


def possession(tip: Tip, replica: Replica) -> ledger.Possession:
    """The proof each peer must show in the open round, by a replica that stands at its tip."""
    beacon, round_ = tip.opening.possess.value, tip.round
    if tip.opening.base_round == round_:
        return lambda public: replica.possession(beacon, public, round_)
    assert tip.held, "a tip lacks what is kept of the θ before; who judged its record has it, and a checkpoint"
    return lambda public: proof_of(tip.held, beacon, public, round_)
