"""A run of several aggregators on the real chain, in this process: every participant is the daemons' own.

Only the buckets are memory's. An operator's two participants write through one queue on disk. All read through one
client, which asks the chain once a block for all of them: the runtime takes a second of processor time to answer.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from local_chain import LocalChain
from runs.run_builders import Stage

from muster.node.context import Context, in_place
from muster.node.ledger.bootstrap import bootstrap
from muster.node.ledger.participant import Follower
from muster.node.ledger.session import Session
from muster.node.miner import local_miner
from muster.node.telemetry import events
from muster.node.telemetry.journal import Journal
from muster.node.turns import Turns
from muster.node.writes import QueuedWrites
from muster.protocol.chain.bittensor import BittensorChain
from muster.protocol.chain.bittensor.reading import commit_order, read_commitments
from muster.protocol.chain.bittensor.runtime import Runtime
from muster.protocol.ledger.round import Instruction
from muster.protocol.storage import Store
from muster.protocol.storage.locations import MemoryBuckets
from muster.protocol.types import Anchor
from muster.testnet.roster import Member
from muster.validator.aggregator.aggregator import Aggregator
from muster.validator.gauntlet.score_store import ScoreStore
from muster.validator.gauntlet.validator import Validator

POLL_SECONDS = 1.0
"""Between two looks for a new block: the chain says that its blocks last 12 s, and here they come faster."""
PATIENCE_SECONDS = 1500.0
MOVED = ".moved"
"""At the end of a location: the same bucket, which has another address now."""

Make = Callable[[Context], Awaitable[Follower]]


class Addresses(MemoryBuckets):
    """Buckets of this process, each of them also at a second address."""

    def _make(self, location: str) -> Store:
        return self.bucket(location.removesuffix(MOVED)) if location.endswith(MOVED) else super()._make(location)


def say(what: str) -> None:
    """To who reads what a test that failed has printed."""
    sys.stdout.write(f"{what}\n")


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended: the SDK swallows a cancellation that comes while it closes a connection."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=POLL_SECONDS)


async def _nap(seconds: float) -> None:
    await asyncio.sleep(min(seconds, POLL_SECONDS))


@dataclass
class LiveRun:
    """Participants by label ("aggregator-operator-0", "miner-0"), each a task; `stage` is laid out for the chain."""

    chain: LocalChain
    stage: Stage
    folder: Path
    buckets: Addresses = field(default_factory=Addresses)
    journals: dict[str, Journal] = field(default_factory=dict)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    participants: dict[str, Follower] = field(default_factory=dict)

    @property
    def netuid(self) -> int:
        """The run's subnet."""
        assert self.stage.run.file.netuid is not None
        return self.stage.run.file.netuid

    @cached_property
    def client(self) -> BittensorChain:
        """A client of the run's subnet, which looks for blocks more often than they are said to come."""
        return BittensorChain([self.chain.url], self.netuid, sleep=_nap)

    def writes(self, member: Member, who: str) -> QueuedWrites:
        """The way of one of a member's processes to the chain."""
        return QueuedWrites(self.client, Turns(self.folder / member.name, "bittensor", who))

    def start(self) -> None:
        """Everybody: two participants an operator, one a miner."""
        for operator in self.stage.roster.operators:
            self._start(f"aggregator-{operator.name}", operator, self._aggregator)
            self._start(f"validator-{operator.name}", operator, self._validator)
        for miner in self.stage.roster.miners:
            self._start(miner.name, miner, self._miner)

    def _start(self, label: str, member: Member, make: Make) -> None:
        clock = asyncio.get_running_loop().time
        self.journals[label] = Journal(None, clock=clock, listener=lambda noted: say(f"{label}: {noted.event}"))
        context = Context(
            member.identity,
            self.writes(member, label),
            self.buckets,
            f"mem:{member.name}",
            self.journals[label],
            in_place,
            run_id=self.stage.run.history.run_id,
        )
        self.tasks[label] = asyncio.create_task(self._live(label, context, make), name=label)

    async def _live(self, label: str, context: Context, make: Make) -> None:
        self.participants[label] = participant = await make(context)
        await Session(participant, context.chain, context.directory).run()

    async def _aggregator(self, context: Context) -> Aggregator:
        tip, replica = await bootstrap(self.stage.run.history, context)
        return Aggregator(context, tip, replica, None)

    async def _validator(self, context: Context) -> Validator:
        tip, replica = await bootstrap(self.stage.run.history, context)
        return Validator(context, tip, replica, self.stage.text, ScoreStore(self.folder / f"{context.location[4:]}.db"))

    async def _miner(self, context: Context) -> Follower:
        tip, replica = await bootstrap(self.stage.run.history, context)
        return local_miner(context, tip, replica, self.stage.text, None)

    async def kill(self, operator: Member) -> None:
        """Both participants of an operator end at once, and its bucket is gone."""
        await _end([self.tasks.pop(f"{role}-{operator.name}") for role in ("aggregator", "validator")])
        bucket = self.buckets.bucket(f"mem:{operator.name}")
        for info in await bucket.list():
            await bucket.delete(info.key)

    async def until(self, true: Callable[[], bool]) -> None:
        """Look at every block whether it has come true; whoever ends meanwhile ends the test."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not true():
                for label, task in self.tasks.items():
                    if task.done():
                        raise AssertionError(f"{label} ended") from task.exception()
                await self.client.next_block((await self.client.head()).number)

    async def end(self) -> None:
        """Stop everybody."""
        await _end(self.tasks.values())
        await self.client.close()

    def told(self, label: str) -> Iterator[events.Event]:
        """What a participant has noted so far, in order."""
        return (noted.event for noted in self.journals[label].noted)

    def roots(self, label: str) -> Mapping[int, str]:
        """Each round's state root after a record that a participant applied and has not taken back."""
        roots: dict[int, str] = {}
        for event in self.told(label):
            if isinstance(event, events.Applied):
                roots[event.round] = event.root
            elif isinstance(event, events.Undone):
                roots.pop(event.round, None)
        return roots

    def finals(self, label: str) -> Mapping[int, int]:
        """The block in which a participant saw each round to be final."""
        return {
            event.round: event.block
            for event in self.told(label)
            if isinstance(event, events.Transition) and Instruction.FINAL in event.given
        }


@dataclass(frozen=True, slots=True)
class Write:
    """One commitment as it came into a block."""

    location: str | None
    anchor: Anchor | None
    block: int
    hotkey: str


async def writes_since(chain: LocalChain, netuid: int, first: int) -> list[Write]:
    """Every commitment from block `first` on, in chain order: the chain's present state shows the newest ones only."""
    runtime = Runtime(chain.url)
    await runtime.connect()
    found: list[Write] = []
    try:
        for number in range(first, await runtime.block_number() + 1):
            at = await runtime.block_hash(number)
            entries = await runtime.query_map("Commitments", "CommitmentOf", [netuid], block_hash=at)
            committed, blocks = read_commitments(entries)
            made = [hotkey for hotkey, block in blocks.items() if block == number]
            order = commit_order((await runtime.get_block(block_number=number) or {})["extrinsics"], netuid)
            for hotkey in sorted(made, key=lambda one: order.get(one, 0)):
                found.append(Write(committed[hotkey].location, committed[hotkey].anchor, number, hotkey))
    finally:
        await runtime.close()
    return found
