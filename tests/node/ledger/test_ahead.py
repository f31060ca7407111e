"""Reading ahead: what it overlaps, what it costs, and that nothing which happens ahead decides anything."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
from blake3 import blake3
from builders import hash32
from ledger_world import ME, Life, NewestOnly, Watcher, World, Written, nothing
from test_tentative import Fork

from muster.kernels import SparseUpdate
from muster.lab import clock
from muster.lab.faults import Fault, Kind, Script
from muster.node.ledger import ahead
from muster.node.ledger.ahead import ROUNDS_AHEAD, ReadAhead, decoded_bytes
from muster.node.ledger.participant import open_updates
from muster.node.ledger.reader import genesis_tip
from muster.node.telemetry.events import Refused, Undone
from muster.protocol.errors import ObjectMissing
from muster.protocol.ledger import Applied, Tip
from muster.protocol.types import Anchor
from muster.protocol.wire import Record

KINDS = {"rec": "records.rec", "seal": "seals.seal", "bin": "bundles.bin"}
TAKES = 10.0
"""Seconds of the jumping clock that a part of a round takes here."""


async def behind(*faults: Fault, rounds: int = 4, make: type[NewestOnly] | None = None) -> tuple[World, list[Written]]:
    """A closed run of so many rounds with work in each, which nobody has followed yet."""
    world = await World.begin(*faults, **({"make": make} if make else {}))
    written = [await world.close() for _ in range(rounds)]
    return world, [*written, await world.close(closing=True)]


def asked(world: World) -> list[int]:
    """How often the watcher has asked for records, seals and bundles."""
    return [world.script.asked(ME, "store.get", sort) for sort in KINDS.values()]


class Slow(Watcher):
    """One that takes its time, to decode and to apply, as the clock goes."""

    async def open_ahead(self, tip: Tip, record: Record, bundle: bytes) -> Sequence[SparseUpdate]:
        await asyncio.sleep(TAKES)
        return await super().open_ahead(tip, record, bundle)

    async def before_apply(self, applied: Applied) -> None:
        await asyncio.sleep(TAKES)


class TestOverlap:
    """Reading, decoding and applying go on side by side."""

    @pytest.mark.parametrize("make", [None, NewestOnly])
    def test_a_round_takes_as_long_as_the_slowest_part(self, make: type[NewestOnly] | None) -> None:
        """Whether the chain shows every anchor or the newest only."""
        rounds = 12

        async def follow() -> float:
            world, _ = await behind(Fault("slow", "store.get", "*.bin", seconds=TAKES), rounds=rounds, make=make)
            life = await Life.of(world, Slow)
            await life.session.run()
            assert life.agrees
            return asyncio.get_running_loop().time()

        assert clock.run(follow()) == TAKES + (rounds + 1) * TAKES, "the first bundle is read, then all is applied"

    def test_each_object_is_read_once(self) -> None:
        async def follow() -> None:
            world, written = await behind(rounds=2 * ROUNDS_AHEAD)
            life = await Life.of(world)
            await life.session.run()
            assert life.agrees
            assert asked(world) == [len(written), len(written), len(written) - 1]

        clock.run(follow())

    def test_so_many_rounds_are_read_and_no_more(self) -> None:
        """While the first one is on its way."""

        async def follow() -> None:
            world, _ = await behind(Fault("hang", "store.get", "*00000000-*.rec"), rounds=2 * ROUNDS_AHEAD)
            life = await Life.of(world)
            session = asyncio.create_task(life.session.run())
            await asyncio.sleep(TAKES)
            assert asked(world) == [1 + ROUNDS_AHEAD, ROUNDS_AHEAD, ROUNDS_AHEAD]
            session.cancel()

        clock.run(follow())

    def test_a_live_round_is_read_as_ever(self) -> None:
        """What lies in the bucket and is not anchored is nobody's yet."""

        async def follow() -> None:
            world = await World.begin()
            await world.close()
            second = await world.write()
            await world.put(second)
            life, seen = await Life.of(world), []

            async def show() -> None:
                seen.append((life.rounds, asked(world)))
                await world.anchor(second)
                world.go_on(second)
                await world.close(closing=True)

            await life.live(nothing, nothing, show)
            assert seen == [([0], [1, 1, 1])]
            assert (life.agrees, asked(world)) == (True, [3, 3, 2])

        clock.run(follow())


class TestFaults:
    """What fails ahead is read again in its turn, once, and costs nothing else."""

    @pytest.mark.parametrize("kind", ["error", "damaged", "truncated", "missing", "slow", "hang"])
    @pytest.mark.parametrize("object_", KINDS)
    def test_of_the_store(self, kind: Kind, object_: str) -> None:
        seconds = 1000.0 if kind == "slow" else 0.0
        fault = Fault(kind, "store.get", f"*00000002-*.{object_}", who=ME, count=1, seconds=seconds)

        async def follow() -> None:
            world, _ = await behind(fault)
            life = await Life.of(world)
            await life.live()
            assert world.script.unfired() == []
            assert (life.rounds, life.events(Refused), life.agrees) == ([0, 1, 2, 3, 4], [], True)
            again = {kind: kind == object_ for kind in KINDS}
            if object_ == "rec":  # what it names was not known ahead
                again |= {"seal": False, "bin": False}
            assert asked(world) == [5 + again["rec"], 5 + again["seal"], 4 + again["bin"]]

        clock.run(follow())

    @pytest.mark.parametrize("object_", KINDS)
    def test_missing_bytes_hold_up_their_own_round(self, object_: str) -> None:
        """Those before it are applied, those after it are read and wait; nothing is read twice but what is missing."""

        async def follow() -> None:
            world, written = await behind()
            key, whole = written[1].object(object_)
            await world.bucket.delete(key)
            life, seen = await Life.of(world), []

            async def restore() -> None:
                seen.append((life.rounds, asked(world)))
                await world.bucket.put(key, whole)

            await life.live(nothing, nothing, restore)
            assert [rounds for rounds, _ in seen] == [[0]]
            once, before = dict(zip(KINDS, [5, 5, 4], strict=True)), dict(zip(KINDS, seen[0][1], strict=True))
            waited = {"rec": (), "seal": ("rec",), "bin": ("rec", "seal")}[object_]
            assert all(before[kind] >= once[kind] for kind in waited)
            assert (life.events(Refused), life.agrees) == ([], True)

        clock.run(follow())

    def test_one_that_is_refused_gives_way_to_the_valid_one(self) -> None:
        """The leader has anchored both of them, the bad one first, and gone on from the other."""

        async def follow() -> None:
            world = await World.begin()
            await world.close()
            valid = await world.write()
            objects = valid.object("seal")[1], valid.object("bin")[1]
            bad = world.sign(replace(valid.record, weights=valid.record.weights * 2), valid.seal, *objects)
            for one in (bad, valid):
                await world.put(one)
                await world.anchor(one)
                world.chain.advance(1)  # of two anchors of one block only the later one counts
            world.go_on(valid)
            await world.close()
            await world.close(closing=True)
            life = await Life.of(world)
            await life.live()
            assert [event.record for event in life.events(Refused)] == [bad.digest.hex()]
            assert (life.rounds, life.agrees) == ([0, 1, 2, 3], True)

        clock.run(follow())

    def test_a_record_that_is_anchored_for_two_rounds_is_read_for_its_own(self) -> None:
        async def follow() -> None:
            world = await World.begin()
            first = await world.close()
            await world.anchor(first)
            world.chain.advance(1)
            await world.close()
            await world.close(closing=True)
            life = await Life.of(world)
            await life.live(blocks=3)
            assert (life.rounds, life.agrees) == ([0, 1, 2], True)
            assert [(event.round, event.record) for event in life.events(Refused)] == [(1, first.digest.hex())]

        clock.run(follow())

    def test_a_branch_that_is_overtaken_is_dropped_with_what_was_ahead_on_it(self) -> None:
        """Five rounds of it are anchored, and the bundle of the fourth is nowhere."""

        async def follow() -> None:
            fork = await Fork.begin(rounds=5)
            missing = Fault("missing", "store.get", "*00000003-*.bin", who=ME)
            beyond = Fault("slow", "store.get", "*00000004-*.bin", who=ME, seconds=1.0)
            fork.world.script = Script([missing, beyond])
            life, seen = await Life.of(fork.world), []

            async def show() -> None:
                seen.append((life.rounds, fork.world.script.fired[beyond]))
                await fork.show()

            await life.live(nothing, nothing, show, nothing, nothing, fork.end)
            assert seen == [([0, 1, 2], 1)], "what comes after it had been read"
            assert [event.round for event in life.events(Undone)] == [2, 1, 0]
            assert (life.rounds, life.agrees) == ([0, 1, 2, 0, 1], True)

        clock.run(follow())

    def test_a_payload_that_does_not_open_is_for_the_judge_to_say(self) -> None:
        async def follow() -> None:
            world = await World.begin()
            await world.close()
            bad = with_spoiled_payload(world, await world.write())
            await world.put(bad)
            await world.anchor(bad)
            valid = await world.write(("alice",))
            await world.put(valid)
            await world.anchor(valid)
            world.go_on(valid)
            await world.close(closing=True)
            life = await Life.of(world)
            await life.live()
            (refused,) = life.events(Refused)
            assert (refused.record, "ciphertext_digest" in refused.problem) == (bad.digest.hex(), True)
            assert (life.rounds, life.agrees) == ([0, 1, 2], True)

        clock.run(follow())

    @pytest.mark.parametrize("slow", ["*.rec", "*.seal", "*.bin", "decode"])
    def test_a_session_that_is_cancelled_leaves_nothing_behind(self, slow: str) -> None:
        async def follow() -> None:
            hang = () if slow == "decode" else (Fault("hang", "store.get", slow),)
            world, _ = await behind(*hang)
            life = await Life.of(world, Slow)
            session = asyncio.create_task(life.session.run())
            await asyncio.sleep(TAKES / 2)
            session.cancel()
            with pytest.raises(asyncio.CancelledError):
                await session
            assert asyncio.all_tasks() == {asyncio.current_task()}

        clock.run(follow())


def with_spoiled_payload(world: World, valid: Written) -> Written:
    """A record whose bundle is the one that it names, and holds a payload that no head commits to."""
    bundle = valid.object("bin")[1]
    bundle = bundle[:-1] + bytes((bundle[-1] ^ 1,))
    record = replace(valid.record, bundle=blake3(bundle).digest())
    return world.sign(record, valid.seal, valid.object("seal")[1], bundle)


class TestBounds:
    """How much is read ahead is known before it is read."""

    @pytest.mark.parametrize("room", [0, 1, 2, 3])
    def test_bundles_wait_for_room_in_the_order_of_their_rounds(
        self, room: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With room for none each is read in its turn; whatever the room, each is read once and the run followed."""

        async def follow() -> None:
            world, written = await behind(Fault("hang", "store.get", "*00000000-*.bin", count=1))
            monkeypatch.setattr(ahead, "BYTES_AHEAD", room * cost(world, written[1]))
            life = await Life.of(world)
            session = asyncio.create_task(life.session.run())
            await asyncio.sleep(TAKES)
            assert world.script.asked(ME, "store.get", "bundles.bin") == 1 + room
            session.cancel()
            again = await Life.of(world)
            await again.live()
            assert again.agrees
            assert world.script.asked(ME, "store.get", "bundles.bin") == 1 + room + len(written) - 1

        clock.run(follow())

    def test_an_object_that_is_large_waits_for_its_turn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ahead, "OBJECT_AHEAD", 16)

        async def follow() -> None:
            world, _ = await behind()
            life = await Life.of(world)
            await life.live()
            assert (life.rounds, life.agrees) == ([0, 1, 2, 3, 4], True)
            assert asked(world) == [5 + 4, 5, 4], "the records are asked for, and then waited for"

        clock.run(follow())


def cost(world: World, written: Written) -> int:
    """What a round takes while it is ahead."""
    return len(written.object("bin")[1]) + len(written.record.accepted) * decoded_bytes(world.tip.codec)


class TestReadAhead:
    """The parts of rounds by themselves."""

    @staticmethod
    async def wanting(parts: ReadAhead, world: World, tip: Tip, rounds: Sequence[Written]) -> None:
        """Have these rounds read, by the watcher."""
        store = world.around().buckets.bucket("mem:leader")
        at = [Anchor(one.record.round, one.digest) for one in rounds]
        parts.want(store, tip, at, (), decode)

    async def test_gives_the_very_objects_and_what_is_in_them(self) -> None:
        world, written = await behind()
        tip = await genesis_tip(world.tip.history, world.chain)
        async with ReadAhead() as parts:
            await self.wanting(parts, world, tip, written[1:3])
            for one in written[1:3]:
                record, seal = await parts.record(one.digest), await parts.seal(one.digest)
                bundle, updates = await parts.bundle(one.digest), await parts.updates(one.digest)
                assert record is not None and seal is not None and updates is not None
                assert (record[1], seal[1], bundle) == tuple(one.object(kind)[1] for kind in KINDS)
                expected = open_updates(tip, one.record, one.object("bin")[1])
                assert [same(*pair) for pair in zip(updates, expected, strict=True)] == [True, True]

    async def test_knows_nothing_of_what_nobody_wanted_or_wants_any_more(self) -> None:
        world, written = await behind()
        tip = await genesis_tip(world.tip.history, world.chain)
        async with ReadAhead() as parts:
            await self.wanting(parts, world, tip, written[1:3])
            assert await parts.record(written[1].digest) is not None
            await self.wanting(parts, world, tip, written[2:4])
            for one in (written[0], written[1]):
                asks = (parts.record, parts.seal, parts.bundle, parts.updates)
                assert [await ask(one.digest) for ask in asks] == [None] * 4
            assert await parts.bundle(written[2].digest) is not None
        assert await parts.record(written[2].digest) is None

    async def test_a_bundle_of_another_spec_waits_until_that_is_in_force(self) -> None:
        """How many bytes it may have, and how it is decoded, is not known yet."""
        world, written = await behind()
        tip = await genesis_tip(world.tip.history, world.chain)
        tip = replace(tip, opening=replace(tip.opening, spec_digest=hash32("another spec")))
        async with ReadAhead() as parts:
            await self.wanting(parts, world, tip, written[1:2])
            assert await parts.seal(written[1].digest) is not None
            assert (await parts.bundle(written[1].digest), await parts.updates(written[1].digest)) == (None, None)
        assert world.script.asked(sort="bundles.bin") == 0

    async def test_an_earlier_round_behind_later_ones_does_not_wait_for_their_room(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Once another record of a round is the one to stand on, it comes last, and is wanted first."""
        world, written = await behind()
        monkeypatch.setattr(ahead, "BYTES_AHEAD", cost(world, written[2]))
        tip = await genesis_tip(world.tip.history, world.chain)
        async with ReadAhead() as parts:
            await self.wanting(parts, world, tip, written[2:3])
            assert await parts.seal(written[2].digest) is not None
            assert await parts.bundle(written[2].digest) is not None
            await self.wanting(parts, world, tip, written[1:3])
            assert await parts.seal(written[1].digest) is not None
            assert (await parts.bundle(written[1].digest), await parts.updates(written[1].digest)) == (None, None)

    async def test_an_error_is_told_to_who_waits_for_it_and_forgotten_before_its_turn(self) -> None:
        world, written = await behind()
        tip = await genesis_tip(world.tip.history, world.chain)
        await world.bucket.delete(written[1].object("rec")[0])
        async with ReadAhead() as parts:
            await self.wanting(parts, world, tip, written[1:2])
            with pytest.raises(ObjectMissing) as caught:
                await parts.record(written[1].digest)
            assert caught.value.subject == written[1].object("rec")[0]
            assert await parts.record(written[1].digest) is None


async def decode(tip: Tip, record: Record, bundle: bytes) -> Sequence[SparseUpdate]:
    """On the loop."""
    return open_updates(tip, record, bundle)


def same(one: SparseUpdate, other: SparseUpdate) -> bool:
    """Equal to the bit."""
    parts = partial(getattr, one), partial(getattr, other)
    return all(parts[0](name).equal(parts[1](name)) for name in ("indices", "codes", "scales"))
