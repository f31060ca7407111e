"""Validators that have stake, buckets and files, a ledger of any length, and a leader that looks for what steers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache

from builders import MINERS, SEED, hash32, identity, run_spec, score_file, score_row
from closed_rounds import good, open_tip

from muster.lab.faults import Fault, Script
from muster.lab.faulty import FaultyBuckets, FaultyChain
from muster.node.context import Context, in_place
from muster.node.ledger.participant import Errands
from muster.node.telemetry.journal import Journal
from muster.protocol import paths, wire
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.identity import Identity
from muster.protocol.ledger import Tip
from muster.protocol.storage import Store
from muster.protocol.storage.locations import MemoryBuckets
from muster.protocol.wire import Record, ScoresUsed, encode_scores
from muster.validator.aggregator.steering import Steering

VALIDATORS = ("first", "second", "third")
BLOCK_SECONDS = 12.0
SPEC = run_spec()
SPEC = SPEC.model_copy(
    update={"genesis": SPEC.genesis.model_copy(update={"leaders": tuple(identity(name).hotkey for name in VALIDATORS)})}
)
LAG = SPEC.gauntlet.lag
RUN = open_tip().run_id
LEADER = "leader"
SIBLING = hash32("another record of some round")


@dataclass(frozen=True)
class Made:
    """A record of the ledger, for which every validator was in time."""

    record: Record
    data: bytes
    digest: bytes


@cache
def made(round_: int) -> Made:
    """The record of a round; each names the one before it."""
    opening, judged = good().record.opening, round_ - LAG
    assert opening is not None
    in_time = [ScoresUsed(identity(name).public, 0, judged, bytes(32), ()) for name in VALIDATORS]
    record = replace(
        good().record,
        round=round_,
        parent=made(round_ - 1).digest if round_ else RUN,
        scores=tuple(in_time) if judged >= 0 else (),
        opening=replace(opening, round=round_ + 1),
    )
    data = wire.encode_record(record, identity(LEADER))
    return Made(record, data, wire.digest_of(data))


def tip_at(round_: int) -> Tip:
    """The ledger with that round open."""
    tip = open_tip()
    history = replace(tip.history, genesis=SPEC, specs=(SPEC,))
    parent = made(round_ - 1).digest if round_ else RUN
    return replace(tip, history=history, opening=replace(tip.opening, round=round_), parent=parent)


def scores_file(
    validator: Identity, round_: int, *judged: str, run_id: bytes = RUN, record: bytes | None = None
) -> bytes:
    """A signed file that judges these peers, by the ledger's record of the round or by another one."""
    rows = (score_row(name, uid=uid, peer_score=1.0 + uid) for uid, name in enumerate(judged))
    record = record or made(round_).digest
    return encode_scores(score_file(validator, run_id, round_, *rows, record=record), validator)


@dataclass
class World:
    """Three validators with stake and buckets, and a leader that looks at them.

    `followed` is the first round whose record the leader has not applied.
    """

    script: Script
    chain: VirtualChain
    buckets: MemoryBuckets = field(default_factory=MemoryBuckets)
    followed: int = 0
    steering: Steering = field(init=False)

    def __post_init__(self) -> None:
        height = lambda: self.chain.height  # noqa: E731
        self.seen = FaultyChain(self.chain, self.script, height, LEADER)
        buckets = FaultyBuckets(self.buckets, self.script, height, LEADER)
        self.steering = Steering(
            Context(identity(LEADER), self.seen, buckets, f"mem:{LEADER}", Journal(None), in_place)
        )

    @classmethod
    async def begin(cls, *faults: Fault, permits: int = 64) -> World:
        """`permits` is how many of them may validate, the last ones having most stake."""
        stakes = {identity(name).hotkey: 10 + i for i, name in enumerate(VALIDATORS)}
        chain = VirtualChain(ChainGenesis(seed=SEED, stakes=stakes, max_validators=permits))
        for name in VALIDATORS:
            await chain.register(identity(name))
            await chain.commit(identity(name), f"mem:{name}")
        for name in ("alice", "bob"):
            await chain.register(identity(name))
        return cls(Script(faults), chain)

    def bucket(self, name: str) -> Store:
        """A validator's bucket."""
        return self.buckets.bucket(f"mem:{name}")

    async def publish(self, name: str, round_: int, *judged: str, record: bytes | None = None) -> None:
        """A validator's file of a round, by the ledger's record or by another one."""
        data = scores_file(identity(name), round_, *(judged or MINERS), record=record)
        await self.bucket(name).put(paths.scores(RUN, round_, record or made(round_).digest), data)

    async def keep(self, rounds: Iterable[int]) -> None:
        """Records in the leader's own bucket."""
        for round_ in rounds:
            await self.bucket(LEADER).put(paths.record(RUN, round_, made(round_).digest), made(round_).data)

    def apply(self, round_: int, scores: tuple[ScoresUsed, ...]) -> None:
        """The leader applies the record of a round, which these scores steered."""
        self.steering.recorded(tip_at(round_), replace(made(round_).record, scores=scores), made(round_).digest)
        self.followed = round_ + 1

    def records_read(self) -> int:
        """How many records the leader has read back."""
        return self.script.asked(LEADER, "store.get", "records.rec")

    async def look(self, round_: int, errands: Errands | None = None, tip: Tip | None = None) -> bool:
        """One look of the leader's while that round is open, by its own tip or another one."""
        tip = tip or tip_at(round_)
        for before in range(self.followed, round_):
            self.apply(before, made(before).record.scores)
        if errands is not None:
            head, snapshot = await self.chain.head(), await self.chain.snapshot()
            return await self.steering.look(tip, tip.score_rounds, snapshot, errands, head)
        async with asyncio.TaskGroup() as tasks:
            errands = Errands(tasks, self.seen)
            found = await self.look(round_, errands, tip)
            errands.cancel()
        return found

    async def used(self, round_: int) -> dict[str, int]:
        """By validator, the round whose scores steer that round."""
        names = {identity(name).public: name for name in VALIDATORS}
        return {names[scores.validator]: scores.round for scores in await self.files(round_)}

    async def files(self, round_: int) -> tuple[ScoresUsed, ...]:
        """The scores that steer that round."""
        return self.steering.used(tip_at(round_), await self.chain.snapshot())


async def drive(chain: VirtualChain) -> None:
    """A block every twelve seconds."""
    while True:
        await asyncio.sleep(BLOCK_SECONDS)
        chain.advance()
