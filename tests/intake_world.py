"""A round with as many peers as a test needs, each with its bucket: what a leader takes in, on a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from builders import LEADER, NO_SEAL, SEED, identity, possession_of, run_spec, submission

from muster.lab import clock
from muster.lab.faults import Script
from muster.lab.faulty import FaultyBuckets
from muster.node.ledger.participant import Errands
from muster.node.ledger.reader import genesis_tip
from muster.node.submission import Submissions
from muster.protocol import paths, wire
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.ledger import Tip
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage import Store
from muster.protocol.storage.locations import MemoryBuckets
from muster.protocol.types import Block
from muster.protocol.wire import Seal
from muster.validator.aggregator.intake import Intake

T = TypeVar("T")

BLOCK = 12.0
"""Seconds between two blocks of these chains."""

LOOKER = "leader"
"""Who asks, in scripts."""


def names(count: int) -> tuple[str, ...]:
    """Peers in the order of their public keys, which is the order that everything is listed in."""
    return tuple(sorted((f"peer-{i}" for i in range(count)), key=lambda name: identity(name).public))


def public(name: str) -> bytes:
    """The public key of a peer."""
    return identity(name).public


def reasons(intake: Intake) -> dict[str, str]:
    """Why each peer has no payload in, by name, of peers made by `names`."""
    known = {public(name): name for name in names(64)}
    return {known[peer]: reason for peer, reason in intake.failures().items()}


class Counted:
    """Runs work in place and remembers when."""

    def __init__(self) -> None:
        self.times: list[float] = []

    @property
    def calls(self) -> int:
        """How much work was run."""
        return len(self.times)

    async def __call__(self, work: Callable[[], T]) -> T:
        """Run work now."""
        self.times.append(asyncio.get_running_loop().time())
        return work()


@dataclass
class Crowd:
    """Peers with their buckets, round 0 open; `script` befalls what the leader reads of them.

    `sealed_by` is the digest of the seal that keys answer, `spool` where the leader keeps large payloads.
    """

    peers: tuple[str, ...]
    chain: VirtualChain
    tip: Tip
    script: Script
    behind: MemoryBuckets = field(default_factory=MemoryBuckets)
    judging: Counted = field(default_factory=Counted)
    opening: Counted = field(default_factory=Counted)
    sealed_by: bytes = NO_SEAL
    spool: Path | None = None
    _keys: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)

    @classmethod
    async def begin(
        cls, peers: Sequence[str], script: Script | None = None, expected: Sequence[str] = (), **sections: Any
    ) -> Crowd:
        """Nobody has submitted; `expected` are A_0, sections change the spec."""
        sections.setdefault("data", {"slots": 64, "windows": 650})
        genesis = run_spec().genesis.model_dump() | {"miners": tuple(identity(name).hotkey for name in expected)}
        spec = run_spec(genesis=genesis, **sections)
        chain = VirtualChain(ChainGenesis(seed=SEED, slots=64, stakes={identity(LEADER).hotkey: 1}))
        chain.advance()
        tip = await genesis_tip(SpecHistory.of(spec), chain)
        return cls(tuple(peers), chain, tip, script or Script())

    @property
    def uids(self) -> dict[bytes, int]:
        """Who is registered: every peer, slots counted up."""
        return {public(name): uid for uid, name in enumerate(self.peers)}

    @property
    def order(self) -> tuple[bytes, ...]:
        """An order of seats: as the peers were named."""
        return tuple(public(name) for name in self.peers)

    def bucket(self, name: str) -> Store:
        """A peer's bucket, as its owner has it."""
        return self.behind.bucket(f"mem:{name}")

    def stores(self) -> Mapping[bytes, Store]:
        """The peers' buckets, as the leader sees them."""
        buckets = FaultyBuckets(self.behind, self.script, lambda: self.chain.height, LOOKER)
        return {public(name): buckets.bucket(f"mem:{name}") for name in self.peers}

    async def submit(self, *who: str, uid: int | None = None) -> None:
        """Honest submissions; nobody's key is public yet."""
        facts = self.tip.facts(possession_of(self.tip.opening))
        for name in who or self.peers:
            slot = self.uids[public(name)] if uid is None else uid
            sent = submission(facts, identity(name), slot)
            self._keys[name] = sent.key
            await self.bucket(name).put(self.payload, sent.payload)
            await self.bucket(name).put(self.head_key, sent.head)

    async def show(self, *who: str) -> None:
        """Publish keys that answer the seal."""
        for name in who or self.peers:
            await self.bucket(name).put(self.key, self._keys[name](self.sealed_by))

    @property
    def head_key(self) -> str:
        """Where the round's heads are."""
        return paths.head(self.tip.run_id, self.tip.round)

    @property
    def payload(self) -> str:
        """Where the round's payloads are."""
        return paths.payload(self.tip.run_id, self.tip.round)

    @property
    def key(self) -> str:
        """Where the round's keys are."""
        return paths.key(self.tip.run_id, self.tip.round)

    @asynccontextmanager
    async def intake(self) -> AsyncIterator[Intake]:
        """An intake of the open round, for as long as the block lasts; blocks come by the clock."""
        async with asyncio.TaskGroup() as tasks:
            errands = Errands(tasks, self.chain)
            ticking = tasks.create_task(self._tick())
            facts = self.tip.facts(possession_of(self.tip.opening), self.uids)
            yield Intake(facts, Submissions(self.tip, self.opening, self.spool), errands, self.judging)
            ticking.cancel()
            errands.cancel()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(BLOCK)
            self.chain.advance()

    async def head(self) -> Block:
        """The newest block."""
        return await self.chain.head()

    async def next_block(self) -> None:
        """Wait for the next block."""
        await self.chain.next_block(self.chain.height)

    async def look(self, intake: Intake) -> list[bytes]:
        """Look for heads."""
        return await intake.look(self.stores(), await self.head())

    async def reveal(self, intake: Intake, seats: int = 20) -> frozenset[bytes]:
        """Go on with keys and payloads, in the order that the peers were named."""
        return await intake.reveal(self.stores(), self.order, seats, await self.head())

    async def seal(self, intake: Intake) -> Seal:
        """Seal what is in."""
        listed = tuple((peer, wire.head_digest(taken.head.data)) for peer, taken in sorted(intake.peers.items()))
        tip = self.tip
        seal = Seal(tip.run_id, public(LEADER), tip.round, tip.parent, 0, await self.head(), listed)
        self.sealed_by = wire.digest_of(wire.encode_seal(seal, identity(LEADER)))
        intake.close(seal, self.sealed_by)
        return seal

    async def sealed(self, intake: Intake) -> Seal:
        """Everybody submits, is seen and sealed, and shows its key."""
        await self.submit()
        await self.look(intake)
        seal = await self.seal(intake)
        await self.show()
        return seal


def play(main: Coroutine[Any, Any, T]) -> T:
    """Run a test to its end on the clock that jumps; an hour of its time is enough for any."""
    return clock.run(main, limit=3600.0)
