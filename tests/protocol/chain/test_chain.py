"""What every local chain does (one class over both backends), and what only the file does."""

import asyncio
import math
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from muster.protocol.chain.base import Chain, Peer
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.sqlite import NEWS_PER_BLOCK, SqliteChain
from muster.protocol.chain.sqlite_reader import SqliteChainReader
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.chain.wall import Clock
from muster.protocol.errors import ChainError
from muster.protocol.identity import Identity
from muster.protocol.types import MAX_LOCATION, WEIGHT_MAX, Anchor, Block, Origin

ALICE, BOB, CAROL, DAVE, ERIN = (Identity.derive(1, name) for name in ("a", "b", "c", "d", "e"))
STAKES = {ALICE.hotkey: 60, BOB.hotkey: 40}
GENESIS = ChainGenesis(seed=7, stakes=STAKES, slots=4, tempo=10, immunity=5, weights_rate_limit=3, epoch_emission=1_000)
BLOCK_SECONDS = 0.5


class FakeClock:
    """Wall time that moves when told; who sleeps on it wakes when it has moved far enough."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.sleeping = asyncio.Event()
        self._moved = asyncio.Event()

    def __call__(self) -> float:
        return self.now

    def set(self, now: float) -> None:
        self.now = now
        self._moved.set()

    async def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self._moved.clear()
            self.sleeping.set()
            await self._moved.wait()


class World(Protocol):
    """A chain under test and its time."""

    @property
    def chain(self) -> Chain: ...

    def advance(self, blocks: int) -> None: ...
    async def parked(self) -> None: ...


class SqliteWorld:
    def __init__(self, path: Path, genesis: ChainGenesis) -> None:
        self.clock = FakeClock()
        self.chain = SqliteChain.create(
            path, genesis, block_seconds=BLOCK_SECONDS, clock=self.clock, sleep=self.clock.sleep
        )

    def advance(self, blocks: int) -> None:
        self.clock.set(self.clock.now + blocks * BLOCK_SECONDS)

    async def parked(self) -> None:
        await self.clock.sleeping.wait()
        self.clock.sleeping.clear()


class VirtualWorld:
    def __init__(self, genesis: ChainGenesis) -> None:
        self.chain = VirtualChain(genesis)

    def advance(self, blocks: int) -> None:
        self.chain.advance(blocks)

    async def parked(self) -> None:
        await asyncio.sleep(0)


@pytest.fixture(params=["sqlite", "virtual"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    on_file = request.param == "sqlite"
    world: World = SqliteWorld(tmp_path / "chain", GENESIS) if on_file else VirtualWorld(GENESIS)
    yield world
    await world.chain.close()


async def peer(chain: Chain, identity: Identity) -> Peer:
    return (await chain.snapshot()).by_hotkey()[identity.hotkey]


async def register_all(chain: Chain, *identities: Identity) -> list[int]:
    return [await chain.register(identity) for identity in identities]


class TestChain:
    async def test_blocks_follow_time_and_hashes_the_seed(self, world: World) -> None:
        assert (await world.chain.head()).number == 0
        world.advance(3)
        head = await world.chain.head()
        assert head.number == 3
        assert head.hash.hex() == "e514f5979dba3668182ad0fc6aad6a362f5cca2902a3195fa4c8a692c8ae428a"
        assert await world.chain.block(3) == head
        assert (await world.chain.block(2)).hash != head.hash

    @pytest.mark.parametrize("number", [-1, 1])
    async def test_a_block_outside_the_chain_is_refused(self, world: World, number: int) -> None:
        with pytest.raises(ChainError, match="there is no block"):
            await world.chain.block(number)

    async def test_beacons_depend_on_seed_purpose_and_round_only(self, world: World) -> None:
        first = await world.chain.beacon("assign", 5, 0)
        assert first.hex() == "f9a3d265690b00887271c0123c8356ba1274391d15e43490318eacb8fd263711"
        world.advance(9)
        assert await world.chain.beacon("assign", 5, 9) == first
        assert len({first, *[await world.chain.beacon(*of, 0) for of in (("assign", 6), ("evaluate", 5))]}) == 3

    async def test_a_beacon_is_not_known_before_its_block(self, world: World) -> None:
        with pytest.raises(ChainError, match="wait with next_block"):
            await world.chain.beacon("assign", 0, 1)
        with pytest.raises(ChainError, match="no beacon for round -1"):
            await world.chain.beacon("assign", -1, 0)

    async def test_next_block_returns_at_once_when_the_head_is_beyond(self, world: World) -> None:
        world.advance(4)
        assert (await world.chain.next_block(3)).number == 4

    async def test_next_block_waits_until_the_head_is_beyond(self, world: World) -> None:
        waiting = asyncio.create_task(world.chain.next_block(1))
        await world.parked()
        world.advance(1)
        await world.parked()
        assert not waiting.done()
        world.advance(1)
        assert await asyncio.wait_for(waiting, 10) == await world.chain.block(2)

    async def test_news_come_at_the_latest_with_the_next_block(self, world: World) -> None:
        waiting = asyncio.create_task(world.chain.news(0))
        await world.parked()
        assert not waiting.done()
        world.advance(1)
        assert await asyncio.wait_for(waiting, 10) == await world.chain.block(1)
        assert await world.chain.news(0) == await world.chain.head()

    async def test_registration_hands_out_uids_in_order_and_is_idempotent(self, world: World) -> None:
        assert await register_all(world.chain, CAROL, ALICE, CAROL) == [0, 1, 0]
        peers = (await world.chain.snapshot()).peers
        assert [(p.uid, p.hotkey, p.stake, p.permit, p.location) for p in peers] == [
            (0, CAROL.hotkey, 0, False, None),
            (1, ALICE.hotkey, 60, True, None),
        ]

    async def test_full_slots_are_refused_while_all_are_immune(self, world: World) -> None:
        await register_all(world.chain, ALICE, BOB, CAROL, DAVE)
        world.advance(GENESIS.immunity - 1)
        with pytest.raises(ChainError, match="all 4 slots are taken"):
            await world.chain.register(ERIN)
        world.advance(1)
        assert await world.chain.register(ERIN) == 2, "validators stay; of the miners the lowest uid goes"
        assert CAROL.hotkey not in (await world.chain.snapshot()).by_hotkey()

    async def test_the_least_rewarded_goes_and_its_weights_do_not_pay_its_successor(self, world: World) -> None:
        await register_all(world.chain, ALICE, BOB, CAROL, DAVE)
        await world.chain.set_weights(ALICE, {2: 3, 3: 1})
        world.advance(GENESIS.tempo)
        assert await world.chain.register(ERIN) == 3
        world.advance(GENESIS.tempo)
        assert (await peer(world.chain, ERIN)).incentive == 0
        assert (await peer(world.chain, CAROL)).incentive == 1

    async def test_a_commitment_replaces_the_location(self, world: World) -> None:
        await world.chain.register(CAROL)
        await world.chain.commit(CAROL, "file:///a")
        await world.chain.commit(CAROL, "ü" * (MAX_LOCATION // 2))
        assert (await peer(world.chain, CAROL)).location == "ü" * 256

    @pytest.mark.parametrize(
        ("location", "anchor", "says"),
        [
            ("x" * (MAX_LOCATION + 1), None, "over 512"),
            ("\ud800", None, "not valid Unicode"),
            ("x", Anchor(0, b"short"), "32-byte digest"),
            ("x", Anchor(-1, bytes(32)), "32-byte digest"),
            ("x", Anchor(0, bytes(32), bytes(31)), "32-byte digest"),
        ],
    )
    async def test_a_bad_commitment_changes_nothing(
        self, world: World, location: str, anchor: Anchor | None, says: str
    ) -> None:
        await world.chain.register(CAROL)
        with pytest.raises(ChainError, match=says):
            await world.chain.commit(CAROL, location, anchor)
        assert (await peer(world.chain, CAROL)).location is None

    async def test_only_the_registered_may_commit_and_weigh(self, world: World) -> None:
        with pytest.raises(ChainError, match="not registered"):
            await world.chain.commit(CAROL, "x")
        with pytest.raises(ChainError, match="not registered"):
            await world.chain.set_weights(ALICE, {})

    async def test_it_says_which_chain_it_is(self, world: World) -> None:
        assert await world.chain.origin() == Origin("local", (await world.chain.block(0)).hash, 0, 0)
        assert await world.chain.commit_space() is None

    async def test_an_anchor_may_name_a_seal_too(self, world: World) -> None:
        await world.chain.register(BOB)
        made = [Anchor(1, bytes([1]) * 32, bytes([2]) * 32), Anchor(2, bytes([3]) * 32)]
        for anchor in made:
            await world.chain.commit(BOB, "b", anchor)
        assert [seen.anchor for seen in await world.chain.anchors(0)] == made

    async def test_anchors_of_a_round_and_later_ones_are_shown_in_chain_order(self, world: World) -> None:
        await register_all(world.chain, ALICE, BOB)
        digests = [bytes([i]) * 32 for i in range(4)]
        await world.chain.commit(BOB, "b", Anchor(1, digests[0]))
        await world.chain.commit(ALICE, "a", Anchor(1, digests[1]))
        await world.chain.commit(ALICE, "a", Anchor(2, digests[2]))
        world.advance(1)
        await world.chain.commit(BOB, "b", Anchor(1, digests[3]))
        seen = await world.chain.anchors(1)
        assert [(s.hotkey, s.anchor.digest, s.block, s.index) for s in seen] == [
            (BOB.hotkey, digests[0], 0, 2),
            (ALICE.hotkey, digests[1], 0, 3),
            (ALICE.hotkey, digests[2], 0, 4),
            (BOB.hotkey, digests[3], 1, 0),
        ]
        assert [s.anchor for s in await world.chain.anchors(2)] == [Anchor(2, digests[2])]
        assert await world.chain.anchors(-1) == await world.chain.anchors(0) == seen
        assert await world.chain.anchors(3) == await world.chain.anchors(2**70) == ()

    @pytest.mark.parametrize(
        ("weights", "says"),
        [
            ({9: 1}, "unknown uid"),
            ({-1: 1}, "unknown uid"),
            ({1: WEIGHT_MAX + 1}, "not from 0 to 65535"),
            ({1: -1}, "not from 0 to 65535"),
        ],
    )
    async def test_bad_weights_are_refused(self, world: World, weights: dict[int, int], says: str) -> None:
        await register_all(world.chain, ALICE, CAROL)
        with pytest.raises(ChainError, match=says):
            await world.chain.set_weights(ALICE, weights)
        await world.chain.set_weights(ALICE, {1: 1})

    async def test_weights_need_a_permit(self, world: World) -> None:
        await world.chain.register(CAROL)
        with pytest.raises(ChainError, match="no validator permit"):
            await world.chain.set_weights(CAROL, {0: 1})

    async def test_weights_are_rate_limited(self, world: World) -> None:
        await world.chain.register(ALICE)
        await world.chain.set_weights(ALICE, {})
        world.advance(2)
        with pytest.raises(ChainError, match="again in block 3"):
            await world.chain.set_weights(ALICE, {})
        world.advance(1)
        await world.chain.set_weights(ALICE, {})

    async def test_an_epoch_pays_by_consensus(self, world: World) -> None:
        await register_all(world.chain, ALICE, BOB, CAROL, DAVE)
        assert await world.chain.weights(ALICE.hotkey) == {}
        await world.chain.set_weights(ALICE, {2: 300, 3: 100, 0: 50_000})
        assert await world.chain.weights(ALICE.hotkey) == {0: 50_000, 2: 300, 3: 100}
        assert await world.chain.weights("5Nobody") == {}
        await world.chain.set_weights(BOB, {3: 1})
        world.advance(GENESIS.tempo - 1)
        assert [p.incentive for p in (await world.chain.snapshot()).peers] == [0.0] * 4
        world.advance(1)
        peers = (await world.chain.snapshot()).peers
        # ALICE (60 %) rules: 3/4 and 1/4, her weight on herself aside; BOB's 1 on uid 3 is clipped to 1/4.
        carol, dave = 60 * 3 / 4, 100 * 1 / 4
        assert [p.incentive for p in peers] == pytest.approx([0, 0, carol / (carol + dave), dave / (carol + dave)])
        assert [p.emission for p in peers] == [0, 0, 643, 357]

    async def test_overdue_epochs_are_paid_once_each(self, world: World) -> None:
        await register_all(world.chain, ALICE, CAROL)
        await world.chain.set_weights(ALICE, {1: 1})
        world.advance(3 * GENESIS.tempo + 1)
        assert (await peer(world.chain, CAROL)).emission == 3_000
        await world.chain.set_weights(ALICE, {})
        world.advance(GENESIS.tempo)
        assert (await peer(world.chain, CAROL)).emission == 3_000
        assert math.fsum(p.incentive for p in (await world.chain.snapshot()).peers) == 0


async def test_both_backends_show_the_same_after_the_same_calls(tmp_path: Path) -> None:
    shown = []
    for world in (SqliteWorld(tmp_path / "chain", GENESIS), VirtualWorld(GENESIS)):
        await register_all(world.chain, ALICE, BOB, CAROL, DAVE)
        await world.chain.set_weights(BOB, {2: 7, 3: 5})
        await world.chain.set_weights(ALICE, {2: 1, 3: 9})
        world.advance(12)
        await world.chain.commit(CAROL, "c", Anchor(0, bytes(32)))
        await world.chain.register(ERIN)
        world.advance(9)
        shown.append((await world.chain.snapshot(), await world.chain.anchors(0)))
        await world.chain.close()
    assert shown[0] == shown[1]


class TestNews:
    """What is announced in one client is heard in another, within the block and as often as is allowed."""

    async def listening(self, world: SqliteWorld, after: int = 0) -> "asyncio.Task[Block]":
        waiting = asyncio.create_task(world.chain.news(after))
        await world.parked()
        return waiting

    async def test_what_another_announces_is_heard_before_the_next_block(self, tmp_path: Path) -> None:
        world, other = SqliteWorld(tmp_path / "chain", GENESIS), SqliteChain(tmp_path / "chain")
        waiting = await self.listening(world)
        await other.announce()
        assert (await asyncio.wait_for(waiting, 10)).number == 0
        await world.chain.close()
        await other.close()

    async def test_nothing_is_missed_between_two_waits_and_nothing_heard_twice(self, tmp_path: Path) -> None:
        world = SqliteWorld(tmp_path / "chain", GENESIS)
        waiting = await self.listening(world)
        await world.chain.announce()
        await asyncio.wait_for(waiting, 10)
        await world.chain.announce()  # while nobody waits
        world.clock.set(world.clock.now + BLOCK_SECONDS * 0.8)
        assert (await asyncio.wait_for(world.chain.news(0), 10)).number == 0
        waiting = await self.listening(world)
        world.clock.set(world.clock.now + BLOCK_SECONDS * 0.1)
        assert not waiting.done()
        world.advance(1)
        assert (await asyncio.wait_for(waiting, 10)).number == 1
        await world.chain.close()

    async def test_who_rings_without_end_is_heard_a_few_times_a_block(self, tmp_path: Path) -> None:
        world, heard = SqliteWorld(tmp_path / "chain", GENESIS), 0
        while (await world.chain.head()).number == 0:
            waiting = await self.listening(world)
            while not waiting.done():
                await world.chain.announce()
                world.clock.set(world.clock.now + BLOCK_SECONDS / (4 * NEWS_PER_BLOCK))
                await asyncio.sleep(0)
            heard += 1
        assert 1 < heard <= NEWS_PER_BLOCK + 1
        await world.chain.close()

    async def test_a_chain_without_a_bell_and_one_that_is_only_read_have_their_blocks(self, tmp_path: Path) -> None:
        world, reader = SqliteWorld(tmp_path / "chain", GENESIS), SqliteChainReader(tmp_path / "chain")
        bell = tmp_path / "chain-bell"
        before = bell.stat().st_mtime_ns
        await reader.announce()
        assert bell.stat().st_mtime_ns == before
        bell.unlink()
        waiting = await self.listening(world)
        await world.chain.announce()
        assert not bell.exists()
        world.advance(1)
        assert (await asyncio.wait_for(waiting, 10)).number == 1
        await reader.close()
        await world.chain.close()


class TestSqlite:
    async def test_a_clock_that_jumps_back_stalls_nothing_and_repeats_no_height(self, tmp_path: Path) -> None:
        world = SqliteWorld(tmp_path / "chain", GENESIS)
        world.advance(100)
        assert (await world.chain.head()).number == 100
        world.clock.set(world.clock.now - 3_600)
        other = SqliteChain(tmp_path / "chain", clock=world.clock, sleep=world.clock.sleep)
        assert (await other.head()).number == 100
        world.advance(1)
        assert (await world.chain.head()).number == (await other.head()).number == 101
        await world.chain.close()
        await other.close()

    async def test_time_goes_on_between_clients(self, tmp_path: Path) -> None:
        world = SqliteWorld(tmp_path / "chain", GENESIS)
        await register_all(world.chain, ALICE)
        await world.chain.close()
        with pytest.raises(ChainError, match="is closed"):
            await world.chain.head()
        world.advance(5)
        again = SqliteChain(tmp_path / "chain", clock=world.clock)
        assert (await again.snapshot()).block.number == 5
        assert await again.register(ALICE) == 0
        await again.close()

    def test_a_wait_is_neither_nothing_nor_longer_than_a_block(self) -> None:
        clock = Clock(block_seconds=2.0, origin=100.0, height=0)
        assert [clock.wait(1, now) for now in (101.5, 101.9999, 103.0, 50.0)] == [0.5, 0.001, 0.001, 2.0]

    def test_a_chain_is_not_created_over_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "chain").write_text("precious")
        with pytest.raises(ChainError, match="File exists"):
            SqliteWorld(tmp_path / "chain", GENESIS)
        assert (tmp_path / "chain").read_text() == "precious"

    @pytest.mark.parametrize("block_seconds", [0, -1, math.nan, math.inf])
    def test_a_block_must_last(self, tmp_path: Path, block_seconds: float) -> None:
        with pytest.raises(ChainError, match="must last"):
            SqliteChain.create(tmp_path / "chain", GENESIS, block_seconds=block_seconds)
        assert not (tmp_path / "chain").exists()

    @pytest.mark.parametrize("content", [None, b"", b"not a database, but long enough" * 100])
    async def test_a_file_that_is_no_chain_is_refused(self, tmp_path: Path, content: bytes | None) -> None:
        path = tmp_path / "chain"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ChainError, match="chain"):
            await SqliteChain(path).head()
        assert path.exists() == (content is not None)

    @pytest.mark.parametrize(
        ("damage", "says"),
        [
            ("PRAGMA user_version = 1", "has version 1"),
            ("DELETE FROM genesis", "damaged"),
            ("UPDATE genesis SET tempo = 0", "tempo must be"),
            ("UPDATE members SET uid = 5", "damaged"),
            ("DROP TABLE members", "cannot be used"),
        ],
    )
    async def test_a_damaged_chain_is_refused(self, tmp_path: Path, damage: str, says: str) -> None:
        world = SqliteWorld(tmp_path / "chain", GENESIS)
        await world.chain.register(ALICE)
        await world.chain.close()
        with sqlite3.connect(tmp_path / "chain") as raw:
            raw.execute(damage)
        raw.close()
        broken = SqliteChain(tmp_path / "chain", clock=world.clock)
        with pytest.raises(ChainError, match=says):
            await broken.snapshot()
        await broken.close()
