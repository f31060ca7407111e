"""A leader alone with a chain, buckets and two scripted miners, on a clock that jumps; it can die at any request."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from builders import LEADER, MINERS, SEED, identity, possession_of, run_spec, submission
from noted import rounds

from muster.lab import clock
from muster.lab.faults import Fault, Request, Script
from muster.lab.faulty import FaultyBuckets, FaultyChain
from muster.node.context import Context, in_place
from muster.node.directory import Directory
from muster.node.ledger.participant import Follower, judge, possession
from muster.node.ledger.reader import Fetched, Reader, genesis_tip
from muster.node.ledger.session import Session
from muster.node.replica import Replica
from muster.node.telemetry.journal import Journal
from muster.protocol import paths, wire
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.ledger import Applied, Tip
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage import Buckets, Store
from muster.protocol.storage.base import DEFAULT_DEADLINE
from muster.protocol.storage.locations import MemoryBuckets
from muster.protocol.storage.memory import MemoryStore
from muster.protocol.wire import Record
from muster.validator.aggregator.aggregator import Aggregator

T = TypeVar("T")

BLOCK = 12.0
"""Seconds between two blocks."""

MAX_BYTES = 2**24


class Died(Exception):
    """The process is gone."""


class Mortal(Script):
    """A script with a request at which whoever makes it dies: before anything happened (a kind that fires before the
    request), or after it has happened and before the answer came (`lost`)."""

    def __init__(self, death: Fault, faults: Sequence[Fault] = ()) -> None:
        super().__init__((death, *faults))
        self._death = death

    def before(self, request: Request, height: int) -> Fault | None:
        return self._survived(super().before(request, height))

    def after(self, request: Request, height: int) -> Fault | None:
        return self._survived(super().after(request, height))

    def _survived(self, fault: Fault | None) -> Fault | None:
        if fault is self._death:
            raise Died
        return fault


class LoggedStore(MemoryStore):
    """A bucket that remembers everything that was ever stored."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: defaultdict[str, list[bytes]] = defaultdict(list)

    async def put(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> None:
        await super().put(key, data, deadline=deadline)
        self.stored[key].append(data)

    async def put_if_absent(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> bool:
        stored = await super().put_if_absent(key, data, deadline=deadline)
        if stored:
            self.stored[key].append(data)
        return stored


class LoggedBuckets(MemoryBuckets):
    """Buckets of that kind."""

    def _make(self, location: str) -> Store:
        return LoggedStore()


class Counting(Aggregator):
    """An aggregator that counts how many records it judges."""

    judged = 0

    async def judge(self, fetched: Fetched) -> Applied:
        self.judged += 1
        return await super().judge(fetched)


@dataclass
class World:
    """What outlives a leader: chain, buckets, journal."""

    chain: VirtualChain
    tip: Tip
    leaders: tuple[str, ...]
    behind: LoggedBuckets = field(default_factory=LoggedBuckets)
    journal: Journal = field(default_factory=lambda: Journal(None, lambda: 0.0))

    @classmethod
    async def begin(
        cls, leaders: tuple[str, ...] = (LEADER,), stake: int = 1, final_after: int = 0, **sections: Any
    ) -> World:
        """Everybody registered, round 0 open; a block is final once `final_after` further ones are there."""
        genesis = run_spec().genesis.model_dump() | {"leaders": tuple(identity(name).hotkey for name in leaders)}
        spec = run_spec(genesis=genesis, **sections)
        stakes = {identity(name).hotkey: stake for name in leaders}
        genesis_of_chain = ChainGenesis(seed=SEED, stakes=stakes, slots=spec.data.slots, weights_rate_limit=1)
        chain = VirtualChain(genesis_of_chain, final_after)
        for name in (*MINERS, *leaders):
            await chain.register(identity(name))
            await chain.commit(identity(name), f"mem:{name}")
        chain.advance()
        return cls(chain, await genesis_tip(SpecHistory.of(spec), chain), leaders)

    @property
    def run_id(self) -> bytes:
        """The run."""
        return self.tip.run_id

    def bucket(self, name: str = LEADER) -> LoggedStore:
        """A bucket as its owner has it."""
        bucket = self.behind.bucket(f"mem:{name}")
        assert isinstance(bucket, LoggedStore)
        return bucket

    def stored(self, key: str, name: str = LEADER) -> list[bytes]:
        """Everything that was ever stored under a key."""
        return self.bucket(name).stored[key]

    def life(
        self,
        script: Script | None = None,
        rounds: int | None = None,
        name: str = LEADER,
        start: tuple[Tip, Replica] | None = None,
    ) -> tuple[Counting, Session]:
        """A new process of a leader; it begins at genesis unless told else."""
        journal = self.journal if name == LEADER else Journal(None, lambda: 0.0)
        around = self.context(name, script or Script(), journal)
        leader = Counting(around, *(start or (self.tip, self.replica())), rounds)
        return leader, Session(leader, around.chain, around.directory)

    def replica(self) -> Replica:
        """θ_0."""
        return Replica.genesis(self.tip.history.genesis, self.run_id)

    async def lead(
        self, script: Script | None = None, rounds: int = 1, start: tuple[Tip, Replica] | None = None
    ) -> Counting:
        """A whole life of the leader, until the run is closed after `rounds` rounds, or it dies (`Died`)."""
        leader, session = self.life(script, rounds, start=start)
        died = False
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(self._tick()), tasks.create_task(self.mine(leader))]
            try:
                await session.run()
            except* Died:
                died = True
            for task in beside:
                task.cancel()
        if died:
            raise Died
        return leader

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(BLOCK)
            self.chain.advance()

    async def follow(self, follower: Follower, around: Context) -> None:
        """Have somebody follow a run that is over, block by block."""
        async with asyncio.TaskGroup() as tasks:
            ticking = tasks.create_task(self._tick())
            await Session(follower, around.chain, around.directory).run()
            ticking.cancel()

    def context(self, name: str, script: Script, journal: Journal) -> Context:
        """Somebody's view of chain and buckets."""
        chain = FaultyChain(self.chain, script, lambda: self.chain.height, name)
        buckets: Buckets = FaultyBuckets(self.behind, script, lambda: self.chain.height, name)
        return Context(identity(name), chain, buckets, f"mem:{name}", journal, in_place)

    async def mine(self, leader: Aggregator) -> None:
        """Both miners, from now on: submit what the open round asks for, and show the key once the seal is there."""
        done: set[tuple[int, str]] = set()
        while True:
            tip = leader.tip
            facts = tip.facts(possession_of(tip.opening) if not tip.round else possession(tip, leader.replica))
            for uid, name in enumerate(MINERS):
                sent, bucket = submission(facts, identity(name), uid), self.bucket(name)
                if (tip.round, name) not in done:
                    await bucket.put(paths.payload(self.run_id, tip.round), sent.payload)
                    await bucket.put(paths.head(self.run_id, tip.round), sent.head)
                    done.add((tip.round, name))
                seal = self.seal_of(tip.round)
                if seal is not None:
                    await bucket.put(paths.key(self.run_id, tip.round), sent.key(seal))
            await self.chain.next_block(self.chain.height)

    def seal_of(self, round_: int) -> bytes | None:
        """The digest of the round's seal, None where none is public."""
        return self._digest_of(paths.seals(self.run_id, round_))

    def record_of(self, round_: int) -> bytes | None:
        """The digest of the round's record, None where none is public."""
        return self._digest_of(paths.records(self.run_id, round_))

    def _digest_of(self, prefix: str) -> bytes | None:
        public = [stored[-1] for stored in self.named(prefix).values()]
        return wire.digest_of(public[0]) if public else None

    def named(self, prefix: str, name: str = LEADER) -> dict[str, list[bytes]]:
        """Everything that was ever stored under names that begin so, by name."""
        return {key: data for key, data in self.bucket(name).stored.items() if key.startswith(prefix) and data}

    async def fetched(self, tip: Tip | None = None) -> Fetched:
        """The record of round 0 (or of a tip's round), as a follower fetches it."""
        tip = tip or self.tip
        read = Reader(self.chain, Directory(self.chain, self.behind))
        (pointer,) = {pointer.digest: pointer for pointer in await read.anchored(tip)}.values()
        fetched = await read.fetch(pointer, tip)
        await read.check_beacons(tip, fetched.record, fetched.seal)
        return fetched

    async def followed(self, rounds: int) -> list[Record]:
        """All records of a run that closed after so many rounds, as somebody who joins then verifies them."""
        tip, replica, records = self.tip, self.replica(), []
        while not tip.closed:
            applied = judge(await self.fetched(tip), tip, replica)
            replica.step(applied, tip.spec)
            records.append(applied.record)
            tip = applied.tip
        assert len(records) == rounds + 1
        return records

    def events(self, name: str) -> list[int]:
        """The rounds of the journal's events of that name."""
        return rounds(self.journal, name)


def play(main: Coroutine[Any, Any, T]) -> T:
    """Run a test to its end on the clock that jumps."""
    return clock.run(main, limit=24 * 3600.0)
