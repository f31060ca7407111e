"""A miner sees what validators make of its work, and nothing that they do or fail to do can hold it up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from builders import hash32, identity, run_spec, score_file, score_row
from miner_world import open_tip

from muster.lab import clock
from muster.node.context import Context, in_place
from muster.node.miner.earnings import LOOK_SECONDS, Earnings
from muster.node.telemetry import events
from muster.node.telemetry.journal import Journal
from muster.protocol import paths, wire
from muster.protocol.chain.base import Peer, Snapshot
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.errors import ChainError, StorageError
from muster.protocol.incentive.row import ABSENT, EVALUATED, FAILED
from muster.protocol.ledger import Applied
from muster.protocol.reasons import CLONE, JUDGEMENTS
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage import ForwardingStore
from muster.protocol.storage.base import DEFAULT_DEADLINE
from muster.protocol.storage.locations import MemoryBuckets

ME = "alice"
BIG, SMALL = identity("leader"), identity("other")
SPEC = run_spec().model_copy(
    update={"genesis": run_spec().genesis.model_copy(update={"leaders": (SMALL.hotkey, BIG.hotkey)})}
)
RUN_ID = SPEC.run_id()


@dataclass(frozen=True)
class _Record:
    round: int


@dataclass(frozen=True)
class _Applied:
    """As much of a judged record as is looked at."""

    record: _Record
    digest: bytes
    tip: object


class HangingStore(ForwardingStore):
    """A bucket that answers nothing."""

    async def get(self, key: str, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        await asyncio.sleep(deadline)
        raise StorageError("it was not answered")


class World:
    """A miner that has applied rounds 0 to 4, two validators, and their buckets."""

    def __init__(self) -> None:
        self.chain = VirtualChain(ChainGenesis(seed=1, stakes={BIG.hotkey: 10, SMALL.hotkey: 1}))
        self.buckets = MemoryBuckets()
        self.context = Context(identity(ME), self.chain, self.buckets, "mem:me", Journal(None), in_place)
        self.earnings = Earnings(self.context)
        self.tip = open_tip(5)
        object.__setattr__(self.tip, "history", SpecHistory.of(SPEC))
        for round_ in range(5):
            applied = _Applied(_Record(round_), self.record(round_), self.tip)
            self.earnings.applied(cast(Applied, applied))

    async def register(self) -> None:
        for member in (BIG, SMALL):
            await self.chain.register(member)
            await self.chain.commit(member, f"mem:{member.hotkey}")

    @staticmethod
    def record(round_: int) -> bytes:
        return hash32("record", round_)

    async def publish(self, round_: int, validator: object = BIG, record: bytes | None = None, **row: Any) -> None:
        """A validator's file of the record this miner has applied, with a row of it; `record` is what the file says."""
        signer = BIG if validator is BIG else SMALL
        rows = (
            score_row(ME, **{"outcome": EVALUATED, "rank": 2, "windows": 4, **row}),
            score_row("bob", uid=2, rank=1),
        )
        file = score_file(signer, RUN_ID, round_, *rows, record=record or self.record(round_))
        name = paths.scores(RUN_ID, round_, self.record(round_))
        await self.buckets.bucket(f"mem:{signer.hotkey}").put(name, wire.encode_scores(file, signer))

    def seen(self) -> list[events.Judged]:
        return [noted.event for noted in self.context.journal.noted if isinstance(noted.event, events.Judged)]


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    asyncio.run(made.register())
    yield made


def look(world: World) -> list[events.Judged]:
    asyncio.run(world.earnings.look(world.tip))
    return world.seen()


def test_without_a_file_nothing_is_seen(world: World) -> None:
    assert look(world) == []


def test_each_round_is_seen_once_and_in_order(world: World) -> None:
    asyncio.run(world.publish(2))
    asyncio.run(world.publish(3, gate=1.0, incentive=0.125))
    earlier, seen = look(world)
    assert earlier.round == 2
    assert (seen.round, seen.validator, seen.rank, seen.peers, seen.share) == (3, BIG.hotkey, 2, 2, 0.125)
    assert seen.pay == "rank 2 of 2, share 0.125; It is paid for all its work."
    asyncio.run(world.publish(1))
    assert look(world) == [earlier, seen]


def test_it_is_the_validator_with_the_most_stake_that_is_told_of(world: World) -> None:
    asyncio.run(world.publish(3, SMALL, incentive=0.5))
    asyncio.run(world.publish(3, BIG, incentive=0.25))
    assert [seen.share for seen in look(world)] == [0.25]


def test_where_it_says_nothing_a_smaller_one_does(world: World) -> None:
    asyncio.run(world.publish(2, BIG))
    asyncio.run(world.publish(3, SMALL))
    assert [(seen.round, seen.validator) for seen in look(world)] == [(2, BIG.hotkey), (3, SMALL.hotkey)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"outcome": FAILED, "reason": CLONE, "rank": None}, JUDGEMENTS[CLONE].sentence),
        ({"outcome": ABSENT, "peer_score": 0.0}, "It submitted nothing, and nothing is paid for such a round."),
        ({"gate": 0.5, "tested": 3}, "The own-data test lets 50% of its pay through: μ is 0.050 after 3 tests."),
        ({"peer_score": 0.0, "tested": 1}, "The own-data test lets no pay through yet: μ is 0.050 after 1 test."),
        ({"peer_score": 0.0, "gate": 1.0, "work": -0.5}, "On average its updates do not lower the loss."),
    ],
)
def test_the_reason_is_a_sentence(world: World, row: dict[str, Any], reason: str) -> None:
    asyncio.run(world.publish(3, **row))
    assert [seen.reason for seen in look(world)] == [reason]


def test_a_file_of_another_record_or_of_garbage_is_nothing(world: World) -> None:
    asyncio.run(world.publish(3, record=hash32("another")))
    name = paths.scores(RUN_ID, 4, world.record(4))
    asyncio.run(world.buckets.bucket(f"mem:{BIG.hotkey}").put(name, b"no score file"))
    assert look(world) == []


def test_a_chain_that_fails_is_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail() -> Snapshot:
        raise ChainError("no")

    monkeypatch.setattr(world.chain, "snapshot", fail)
    assert look(world) == []


def test_who_hangs_hides_nobody_and_the_look_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(world.publish(3, SMALL))
    directory, real = world.context.directory, world.context.directory.store

    def store(peer: Peer) -> object:
        found = real(peer)
        return HangingStore(found) if peer.hotkey == BIG.hotkey and found is not None else found

    monkeypatch.setattr(directory, "store", store)

    async def timed() -> float:
        began = asyncio.get_running_loop().time()
        await world.earnings.look(world.tip)
        return asyncio.get_running_loop().time() - began

    assert clock.run(timed()) <= LOOK_SECONDS
    assert [(seen.round, seen.validator) for seen in world.seen()] == [(3, SMALL.hotkey)]
