"""A run whose ledger a test writes record by record, and a follower of it whose every request goes by a script."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from blake3 import blake3
from builders import LEADER, MINERS, SEED, Sent, identity, payload_key, peers, run_spec, submission, update

from muster.lab.faults import Fault, Script
from muster.lab.faulty import FaultyBuckets, FaultyChain
from muster.node.context import Context, in_place
from muster.node.directory import Directory
from muster.node.ledger.participant import Follower, judge, possession
from muster.node.ledger.reader import ASSIGN, POSSESS, Fetched, Reader, draw, genesis_tip
from muster.node.ledger.session import Session
from muster.node.replica import Replica
from muster.node.telemetry import events
from muster.node.telemetry.journal import Journal
from muster.protocol import paths, wire
from muster.protocol.chain.base import AnchorSeen
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.identity import Identity
from muster.protocol.ledger import Tip, prepare
from muster.protocol.ledger.bundle import Opened, write_bundle
from muster.protocol.ledger.round import Duty
from muster.protocol.spec import RunSpec
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage import Store
from muster.protocol.storage.locations import MemoryBuckets
from muster.protocol.types import Anchor, Beacon
from muster.protocol.wire import Record, Seal
from muster.validator.aggregator.compose import Decision, Work, compose

E = TypeVar("E", bound=events.Event)

ME = "watcher"
LEAD = identity(LEADER)
BLOCK_SECONDS = 12.0
MAX_BYTES = 2**24
"""Larger than any object of these runs."""


class NewestOnly(VirtualChain):
    """A chain that shows each hotkey's newest anchor and no other, as Bittensor does."""

    async def anchors(self, round_: int) -> tuple[AnchorSeen, ...]:
        newest = {seen.hotkey: seen for seen in await super().anchors(0)}
        return tuple(seen for seen in newest.values() if seen.anchor.round >= round_)


@dataclass(frozen=True)
class Written:
    """A record and all it names, as objects; `pointer` and journal know it by its digest."""

    record: Record
    digest: bytes
    seal: Seal
    objects: Mapping[str, bytes]

    def object(self, kind: str) -> tuple[str, bytes]:
        """The key and the bytes of the `rec`, the `seal` or the `bin`."""
        return next((key, data) for key, data in self.objects.items() if key.endswith(f".{kind}"))

    @property
    def fetched(self) -> Fetched:
        """As a reader gives it."""
        bundle = next((data for key, data in self.objects.items() if key.endswith(".bin")), b"")
        return Fetched(self.record, self.digest, self.seal, self.record.seal, bundle)


class Watcher(Follower):
    """A participant that does nothing but follow."""

    def duty(self) -> Duty:
        return Duty.FOLLOW


def _opened(sent: Sent, seal: bytes, run_id: bytes) -> Opened:
    """A submission whose key answers a seal."""
    return Opened(wire.decode_head(sent.head, run_id), sent.key(seal), sent.payload)


@dataclass
class World:
    """The chain, the true buckets, and where the ledger stands once everything written is applied."""

    chain: VirtualChain
    script: Script
    tip: Tip
    replica: Replica
    leaders: Sequence[str] = (LEADER,)
    buckets: MemoryBuckets = field(default_factory=MemoryBuckets)

    @classmethod
    async def begin(
        cls,
        *faults: Fault,
        make: Callable[[ChainGenesis], VirtualChain] = VirtualChain,
        spec: RunSpec | None = None,
        located: bool = True,
        leaders: Sequence[str] = (LEADER,),
    ) -> World:
        """Miners (slots 0 and 1), leaders and watcher registered; `located`: the leaders' buckets are known."""
        listed = {"leaders": tuple(identity(name).hotkey for name in leaders)}
        spec = spec or run_spec(clock={"reveal": 8}, genesis=listed, data={"slots": 3 + len(leaders)})
        chain = make(ChainGenesis(seed=SEED, slots=spec.data.slots, immunity=1))
        for name in (*MINERS, *leaders, ME):
            await chain.register(identity(name))
        for name in leaders if located else ():
            await chain.commit(identity(name), f"mem:{name}")
        history = SpecHistory.of(spec)
        tip = await genesis_tip(history, chain)
        return cls(chain, Script(faults), tip, Replica.genesis(spec, tip.run_id), leaders)

    @property
    def bucket(self) -> Store:
        """The leader's bucket, as it is."""
        return self.buckets.bucket(f"mem:{LEADER}")

    def around(self, name: str = ME, **parts: Any) -> Context:
        """What somebody lives on: the script befalls it, by its name."""
        height = lambda: self.chain.height  # noqa: E731
        chain = FaultyChain(self.chain, self.script, height, name)
        buckets = FaultyBuckets(self.buckets, self.script, height, name)
        clock = lambda: 0.0  # noqa: E731
        return Context(identity(name), chain, buckets, f"mem:{name}", Journal(None, clock), in_place, **parts)

    def reader(self) -> Reader:
        """A reader as the watcher has one."""
        around = self.around()
        return Reader(around.chain, Directory(around.chain, around.buckets))

    async def write(
        self,
        names: Sequence[str] = MINERS,
        *,
        closing: bool = False,
        ahead: int = 0,
        turn: int = 0,
        rescuer: str = "",
        **changes: Any,
    ) -> Written:
        """The record of the open round, by the leader in that turn (or by who rescues it), with work of these miners in
        it; `changes` to its fields, then signed.

        The chain goes on to the blocks that it names, those `ahead` of time excepted. Nothing of it is public yet.
        """
        tip, chain = self.tip, self.chain
        whole = closing or (names and set(tip.opening.expected) <= {identity(name).public for name in names})
        await self.reach(max(tip.opening.min_block if whole else tip.opening.deadline, tip.turn_begins(turn)))
        leader = identity(rescuer) if rescuer else self.signer(tip.leader(turn))
        taken = {} if closing else dict(self._taken(name) for name in names)
        heads = {public: sent.head for public, (sent, _) in taken.items()}
        block = await chain.head()
        listed = tuple((public, wire.head_digest(heads[public])) for public in sorted(heads))
        seal = Seal(tip.run_id, leader.public, tip.round, tip.parent, turn, block, listed)
        await self.reach(block.number + 1)
        seal_data = wire.encode_seal(seal, leader)
        choice = tip.choose(dict.fromkeys(heads, ""), ())
        windows = [wire.decode_head(heads[public], tip.run_id).header.windows for public in choice.accepted]
        weighed = prepare([taken[public][1] for public in choice.accepted], windows, tip.spec)
        sealed = wire.digest_of(seal_data)
        bundle = write_bundle(_opened(taken[public][0], sealed, tip.run_id) for public in choice.accepted)
        newest = chain.genesis.block(chain.height + ahead)
        decision = Decision(
            seal=seal,
            seal_digest=sealed,
            root=self.replica.root(),
            scores=(),
            assign=await draw(chain, ASSIGN, tip.round + 1, tip.opening.open.number),
            possess=Beacon(newest, chain.genesis.beacon(POSSESS, tip.round + 1)),
            checkpoint=changes.pop("checkpoint", bytes(32)),
            closing=closing,
            turn=turn,
            rescuer=leader.public,
            amendments=changes.pop("amendments", ()),
        )
        made = compose(tip, decision, heads, Work(choice, weighed, blake3(bundle).digest(), len(bundle)))
        return self.sign(replace(made, **changes), seal, seal_data, bundle)

    def sign(self, record: Record, seal: Seal, seal_data: bytes, bundle: bytes) -> Written:
        """A record by a leader, valid or not, with what it names."""
        run_id, round_ = self.tip.run_id, self.tip.round
        data = wire.encode_record(record, self.signer(record.leader))
        digest = wire.digest_of(data)
        objects = {paths.seal(run_id, round_, record.seal): seal_data, paths.record(run_id, round_, digest): data}
        if bundle:
            objects[paths.bundle(run_id, round_, digest)] = bundle
        return Written(record, digest, seal, objects)

    def signer(self, public: bytes) -> Identity:
        """One of the list or of the miners, by its public key; who is neither signs as the first."""
        return next((one for one in map(identity, (*self.leaders, *MINERS)) if one.public == public), LEAD)

    def _taken(self, name: str) -> tuple[bytes, tuple[Sent, Any]]:
        miner, uid, tip = identity(name), peers()[identity(name).public], self.tip
        facts, key, work = tip.facts(possession(tip, self.replica)), payload_key(uid), update(uid + 1)
        return miner.public, (submission(facts, miner, uid, work, key), work)

    async def submit(self, name: str) -> None:
        """A miner's submission of the open round, and where its bucket is."""
        (sent, _), tip, bucket = self._taken(name)[1], self.tip, self.buckets.bucket(f"mem:{name}")
        await bucket.put(paths.payload(tip.run_id, tip.round), sent.payload)
        await bucket.put(paths.head(tip.run_id, tip.round), sent.head)
        await self.chain.commit(identity(name), f"mem:{name}")

    async def show(self, name: str, seal: bytes, round_: int = 0) -> None:
        """A miner's key, for the seal with this digest."""
        miner, run_id = identity(name), self.tip.run_id
        data = wire.encode_key(miner, run_id, round_, payload_key(peers()[miner.public]), seal)
        await self.buckets.bucket(f"mem:{name}").put(paths.key(run_id, round_), data)

    def bucket_of(self, name: str) -> Store:
        """Somebody's bucket, as it is."""
        return self.buckets.bucket(f"mem:{name}")

    async def put(self, written: Written, *names: str) -> None:
        """Make a record and what it names public in the buckets of these (all of the list), by nobody's word yet."""
        for name in names or self.leaders:
            for key, data in written.objects.items():
                await self.bucket_of(name).put(key, data)

    async def anchor(self, written: Written, *names: str) -> None:
        """The word of these (of all of the list) on the chain."""
        for name in names or self.leaders:
            await self.chain.commit(identity(name), f"mem:{name}", Anchor(self.tip.round, written.digest))

    def go_on(self, written: Written) -> None:
        """The record counts: what is written from here on comes after it."""
        applied = judge(written.fetched, self.tip, self.replica)
        self.replica.step(applied, self.tip.spec)
        self.tip = applied.tip

    async def close(self, names: Sequence[str] = MINERS, by: Sequence[str] = (), **how: Any) -> Written:
        """Write a valid record, put and anchor it for these (for all of the list), and go on."""
        written = await self.write(names, **how)
        await self.put(written, *by)
        await self.anchor(written, *by)
        self.go_on(written)
        return written

    async def null_rounds(self, count: int) -> None:
        """So many rounds in which nobody submits."""
        for _ in range(count):
            await self.close(())

    async def reach(self, height: int) -> None:
        """Let blocks come until there is one of that height."""
        if height > self.chain.height:
            self.chain.advance(height - self.chain.height)


@dataclass
class Life:
    """A participant in its session, the chain going on by itself, a block every twelve seconds of the loop's time."""

    world: World
    participant: Follower
    chain: FaultyChain
    around: Context

    @classmethod
    async def of(cls, world: World, make: type[Watcher] = Watcher, tip: Tip | None = None) -> Life:
        """The watcher, from the beginning of the run."""
        around = world.around()
        tip = tip or await genesis_tip(world.tip.history, world.chain)
        replica = Replica.genesis(tip.history.genesis, tip.run_id)
        chain = around.chain
        assert isinstance(chain, FaultyChain)
        return cls(world, make(around, tip, replica), chain, around)

    @property
    def session(self) -> Session:
        """A new session of the participant."""
        return Session(self.participant, self.chain, self.around.directory)

    def events(self, kind: type[E]) -> list[E]:
        """The journal's events of a kind."""
        return [noted.event for noted in self.around.journal.noted if isinstance(noted.event, kind)]

    @property
    def rounds(self) -> list[int]:
        """The rounds that have been applied."""
        return [event.round for event in self.events(events.Applied)]

    async def live(self, *plan: Callable[[], Awaitable[object]], blocks: int = 200) -> None:
        """Follow to the closing record; the plan's steps happen in the course of it, one a block.

        Raises:
            AssertionError: it is not there after so many blocks.
        """
        async with asyncio.TaskGroup() as tasks:
            session = tasks.create_task(self.session.run())
            steps = iter(plan)
            for _ in range(blocks):
                await asyncio.sleep(BLOCK_SECONDS)
                if session.done():
                    break
                if (step := next(steps, None)) is not None:
                    await step()
                self.world.chain.advance()
            assert session.done(), f"the session stands in round {self.participant.tip.round}"

    @property
    def agrees(self) -> bool:
        """Whether it holds the θ that the ledger leads to, at the ledger's tip."""
        same = self.participant.replica.root() == self.world.replica.root()
        return same and self.participant.tip == self.world.tip


async def nothing() -> None:
    """A block in which the test does nothing."""


async def run_with(*faults: Fault, ended: bool = True, **how: Any) -> World:
    """Two rounds, one of them with work in it, and the end of the run."""
    world = await World.begin(*faults, **how)
    await world.close()
    await world.close(())
    if ended:
        await world.close(closing=True)
    return world


async def drive(world: World) -> None:
    """A block every twelve seconds."""
    while True:
        await asyncio.sleep(BLOCK_SECONDS)
        world.chain.advance()
