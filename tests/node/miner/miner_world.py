"""A miner alone with a scripted store and chain: the small model, real training, rounds that a test opens itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from builders import LEADER, MODEL, SEED, beacon, block, identity, run_spec
from noted import rounds

from muster.node.context import Context, Offload, in_place
from muster.node.data.build import Manifest, Shard
from muster.node.data.dataset import TextReader
from muster.node.ledger.seals import FoundSeal
from muster.node.miner import Memory, Miner
from muster.node.miner.engine import Engine
from muster.node.miner.inner import LocalEngine
from muster.node.miner.stages import HONEST, Stages
from muster.node.replica import Replica
from muster.node.telemetry.events import Joined
from muster.node.telemetry.facts import Facts
from muster.node.telemetry.journal import Journal
from muster.protocol import paths, wire
from muster.protocol.chain.base import Snapshot
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.errors import ChainError
from muster.protocol.faults import Faults
from muster.protocol.ledger import Tip, genesis_tip
from muster.protocol.spec import RunSpec
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage import Store
from muster.protocol.storage.base import DEFAULT_DEADLINE
from muster.protocol.storage.locations import MemoryBuckets
from muster.protocol.storage.memory import MemoryStore
from muster.protocol.types import Block
from muster.protocol.wire import Seal, Signed

ME = identity("alice")
SPEC = run_spec()
WINDOW = SPEC.data.window


class ScriptedBucket(MemoryStore):
    """A bucket that notes what is put, in order, and fails as told; `watch` hears of every put, before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[tuple[str, bytes]] = []
        self.errors: list[Exception] = []
        self.watch: Callable[[], None] = lambda: None

    async def put(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> None:
        self.watch()
        if self.errors:
            raise self.errors.pop(0)
        await super().put(key, data, deadline=deadline)
        self.puts.append((key, data))
        self.watch()

    async def put_if_absent(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> bool:
        self.watch()
        if self.errors:
            raise self.errors.pop(0)
        stored = await super().put_if_absent(key, data, deadline=deadline)
        if stored:
            self.puts.append((key, data))
        self.watch()
        return stored

    def put_under(self, key: str) -> list[bytes]:
        """Everything that was ever stored under a key, in order."""
        return [data for name, data in self.puts if name == key]


class ScriptedBuckets(MemoryBuckets):
    """Buckets of that kind."""

    def _make(self, location: str) -> Store:
        return ScriptedBucket()


class ScriptedChain(VirtualChain):
    """The virtual chain whose clock goes on by itself, and whose answers fail as told."""

    def __init__(self, genesis: ChainGenesis) -> None:
        super().__init__(genesis)
        self.snapshot_errors: list[ChainError] = []
        self.block_errors: list[ChainError] = []
        self.on_block: Callable[[], None] = lambda: None

    async def snapshot(self) -> Snapshot:
        if self.snapshot_errors:
            raise self.snapshot_errors.pop(0)
        return await super().snapshot()

    async def next_block(self, after: int) -> Block:
        if self.block_errors:
            raise self.block_errors.pop(0)
        self.advance()
        self.on_block()
        return await super().next_block(after)


def text() -> TextReader:
    """As many windows as the spec has, of the small model's vocabulary."""
    train = (np.arange(SPEC.data.windows * WINDOW + 1) * 7 % MODEL.vocab).astype(np.uint8)
    shard = Shard(bytes=len(train), blake3=blake3(train.tobytes()).hexdigest())
    return TextReader(Manifest(window=WINDOW, train=shard, heldout=shard, files=(), unigram=1.0), train, train)


def open_tip(round_: int, spec: RunSpec = SPEC) -> Tip:
    """The ledger with that round open, θ being θ_0 all along."""
    tip = genesis_tip(SpecHistory.of(spec), beacon("assign"), beacon("possess"))
    opening = replace(
        tip.opening,
        round=round_,
        base_round=round_,
        open=block(round_),
        assign=beacon("assign", round_),
        possess=beacon("possess", round_),
    )
    return replace(tip, opening=opening, outer_step=round_)


def counted_keys() -> Callable[[int], bytes]:
    """Keys that count: the same ones in every test."""
    numbers: Iterator[int] = iter(range(1, 1000))
    return lambda size: next(numbers).to_bytes(size, "little")


@dataclass
class World:
    """What outlives a miner: chain, bucket, state file and journal."""

    chain: ScriptedChain
    buckets: ScriptedBuckets = field(default_factory=ScriptedBuckets)
    state: Path | None = None
    save_every: int = 1
    facts: Facts = field(default_factory=Facts)
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        self.journal = Journal(None, lambda: 0.0, self.facts.note)
        self.journal.note(Joined(0, hotkey=ME.hotkey))

    @classmethod
    async def begin(cls, state: Path | None = None, slots: int = 4) -> World:
        """alice has slot 0 and bob 1; both may be evicted."""
        chain = ScriptedChain(ChainGenesis(seed=SEED, slots=slots, immunity=1))
        for name in ("alice", "bob"):
            await chain.register(identity(name))
        chain.advance()
        return cls(chain, state=state)

    @property
    def bucket(self) -> ScriptedBucket:
        """The miner's own bucket."""
        bucket = self.buckets.bucket("mem:alice")
        assert isinstance(bucket, ScriptedBucket)
        return bucket

    def miner(
        self,
        round_: int = 0,
        *,
        stages: Stages = HONEST,
        engine: Engine | None = None,
        faults: Faults | None = None,
        offload: Offload = in_place,
        replica: Replica | None = None,
        spec: RunSpec = SPEC,
    ) -> Miner:
        """A life of alice's miner that finds that round open."""
        tip = open_tip(round_, spec)
        around = Context(ME, self.chain, self.buckets, "mem:alice", self.journal, offload, faults=faults or Faults())
        replica = replica or Replica.genesis(spec, tip.run_id)
        engine = engine or LocalEngine(spec.model, spec.inner)
        return Miner(
            around,
            tip,
            replica,
            text(),
            self.state and Memory(self.state, self.save_every),
            engine,
            stages,
            random=counted_keys(),
        )

    def events(self, name: str) -> list[int]:
        """The rounds of the journal's events of that name."""
        return rounds(self.journal, name)

    def submissions(self, round_: int = 0) -> list[bytes]:
        """Everything that was ever put as a round's submission, head ‖ payload."""
        run_id = open_tip(round_).run_id
        heads, payloads = (self.bucket.put_under(part(run_id, round_)) for part in (paths.head, paths.payload))
        return [head + payload for head, payload in zip(heads, payloads, strict=False)]

    def signed(self, round_: int = 0) -> Signed:
        """The one submission of a round."""
        (data,) = set(self.submissions(round_))
        return wire.decode_submission(data, open_tip(round_).run_id)[0]


async def next_round(miner: Miner) -> None:
    """Close the open round as far as the miner is concerned, and open the next."""
    await miner.stop_training()
    miner._tip = open_tip(miner.tip.round + 1, miner.tip.spec)


def seal_of(miner: Miner, digest: bytes, **changes: Any) -> FoundSeal:
    """A seal by the leader, of block 1, that lists one head of the miner's."""
    tip = miner.tip
    seal = Seal(tip.run_id, tip.leader_in_turn, tip.round, tip.parent, 0, block(1), ((ME.public, digest),))
    data = wire.encode_seal(replace(seal, **changes), identity(LEADER))
    return FoundSeal(replace(seal, **changes), wire.digest_of(data), data)


async def answer(miner: Miner, *found: FoundSeal) -> FoundSeal | None:
    """Choose among seals as the session has a miner do it, and show the key for the one that is chosen."""
    chosen = await miner.choose_seal(found, await miner.context.chain.head())
    if chosen is not None:
        await miner.publish_key(chosen)
    return chosen
