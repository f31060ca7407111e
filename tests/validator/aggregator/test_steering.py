"""The scores that steer a round: whose, which, and how long anybody is waited for."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from builders import hash32, identity
from closed_rounds import close, open_tip, taken_in
from steering_world import (
    BLOCK_SECONDS,
    LAG,
    RUN,
    SIBLING,
    SPEC,
    VALIDATORS,
    World,
    drive,
    made,
    scores_file,
    tip_at,
)

from muster.lab import clock
from muster.lab.faults import Fault, Kind
from muster.node.ledger.participant import Errands
from muster.protocol import paths
from muster.protocol.errors import ChainError
from muster.protocol.ledger import SCORES_AGE
from muster.protocol.wire import max_scores_bytes


class TestWhich:
    """Each validator's newest file that may steer, and of it what concerns possible peers."""

    async def test_the_newest_of_each(self) -> None:
        world = await World.begin()
        for name in VALIDATORS:
            for round_ in (7, 8, 9):
                await world.publish(name, round_)
        assert await world.look(9)
        assert await world.used(9) == dict.fromkeys(VALIDATORS, 9 - LAG)
        files = await world.files(9)
        assert [file.validator for file in files] == sorted(identity(name).public for name in VALIDATORS)
        assert {file.stake for file in files} == {10, 11, 12}

    async def test_before_there_can_be_any_none_are_waited_for(self) -> None:
        world = await World.begin()
        assert await world.look(0)
        assert world.script.asked("*", "store.*") == 0
        assert await world.files(0) == ()

    async def test_where_the_newest_is_not_there_an_older_one_steers(self) -> None:
        world = await World.begin()
        await world.publish("first", 5)
        await world.publish("second", 8)
        assert not await world.look(9)
        assert await world.used(9) == {"first": 5, "second": 8}

    async def test_one_that_is_too_old_does_not(self) -> None:
        world = await World.begin()
        newest = 30 - LAG
        await world.publish("first", newest - SCORES_AGE)
        await world.publish("second", newest - SCORES_AGE - 1)
        await world.look(30)
        assert await world.used(30) == {"first": newest - SCORES_AGE}
        assert await world.used(31) == {}

    async def test_who_is_late_by_one_round_in_every_round_goes_on_steering(self) -> None:
        """Its file of the round before is there each time; it was not when it was first looked for."""
        world, late = await World.begin(), "first"
        for round_ in range(2, 2 * SCORES_AGE):
            await world.look(round_)
            await world.publish(late, round_ - LAG)
            if round_ > 3:
                assert await world.used(round_) == {late: round_ - LAG - 1}

    async def test_rows_of_peers_that_cannot_be_are_dropped(self) -> None:
        """Registered now, or with an entry in the records remembered."""
        world = await World.begin()
        await world.publish("first", 0, "alice", "nobody", "gone", "bob")
        tip, closed = tip_at(1), close(open_tip(), [taken_in(open_tip(), "alice", 0), taken_in(open_tip(), "bob", 1)])
        assert closed.record.entries
        await world.look(1)
        (file,) = world.steering.used(tip, await world.chain.snapshot())
        assert [row.public for row in file.rows] == sorted(identity(name).public for name in ("alice", "bob"))
        past = (replace(tip.past[-1], present=tip.past[-1].present | {identity("gone").public}),)
        (file,) = world.steering.used(replace(tip, past=past), await world.chain.snapshot())
        assert len(file.rows) == 3


class TestWhose:
    """Validators of the spec, with a permit and a bucket; of nobody else a file is read or waited for."""

    async def test_without_a_permit_one_does_not_count(self) -> None:
        world = await World.begin(permits=1)
        for name in VALIDATORS:
            await world.publish(name, 0)
        assert await world.look(1)
        assert await world.used(1) == {"third": 0}
        assert world.script.asked("*", "store.get") == 1

    @pytest.mark.parametrize("location", ["ftp://nowhere", "dir:elsewhere"])
    async def test_without_a_bucket_one_does_not_count(self, location: str) -> None:
        world = await World.begin()
        for name in VALIDATORS[1:]:
            await world.publish(name, 0)
        await world.chain.commit(identity("first"), location)
        assert await world.look(1)
        assert set(await world.used(1)) == set(VALIDATORS[1:])

    async def test_somebody_with_stake_who_is_not_of_the_spec_does_not_count(self) -> None:
        world = await World.begin()
        await world.chain.commit(identity("alice"), "mem:alice")
        await world.publish("alice", 0, "bob")
        await world.look(1)
        assert await world.used(1) == {}


class TestUnusable:
    """A file that cannot be used is looked at again: it may have been damaged on the way here."""

    @pytest.mark.parametrize("kind", ["damaged", "truncated", "missing", "error"])
    async def test_a_read_that_fails_once(self, kind: Kind) -> None:
        world = await World.begin(Fault(kind, "store.get", "*00000008-*.sco", owner="first", count=1))
        for name in VALIDATORS:
            await world.publish(name, 8)
        assert not await world.look(9)
        assert await world.used(9) == {"second": 8, "third": 8}
        assert await world.look(9)
        assert await world.used(9) == dict.fromkeys(VALIDATORS, 8)
        assert world.script.unfired() == []

    @pytest.mark.parametrize(
        "how", ["another's", "another round's", "another record's", "another run's", "no file", "too large"]
    )
    async def test_what_is_not_a_validators_own_file_of_the_round(self, how: str) -> None:
        world, first = await World.begin(), identity("first")
        data = {
            "another's": scores_file(identity("second"), 0, "alice"),
            "another round's": scores_file(first, 1, "alice"),
            "another record's": scores_file(first, 0, "alice", record=SIBLING),
            "another run's": scores_file(first, 0, "alice", run_id=hash32("another")),
            "no file": b"{}",
            "too large": b" " * (max_scores_bytes(SPEC.data.slots) + 1),
        }[how]
        await world.bucket("first").put(paths.scores(RUN, 0, made(0).digest), data)
        for name in VALIDATORS[1:]:
            await world.publish(name, 0)
        assert not await world.look(1), "it is waited for"
        assert await world.used(1) == {"second": 0, "third": 0}
        await world.publish("first", 0)
        assert await world.look(1)


class TestWaiting:
    """Nobody holds a look up beyond its block, or a round beyond its time."""

    @pytest.mark.parametrize("kind", ["hang", "slow"])
    def test_who_hangs_costs_a_look_its_block_and_is_asked_once_at_a_time(self, kind: Kind) -> None:
        fault = Fault(kind, "store.get", owner="first", seconds=25.0 if kind == "slow" else 0.0, count=1)

        async def lead() -> None:
            world = await World.begin(fault)
            for name in VALIDATORS:
                await world.publish(name, 0)
            async with asyncio.TaskGroup() as tasks:
                driving = tasks.create_task(drive(world.chain))
                errands, loop = Errands(tasks, world.seen), asyncio.get_running_loop()
                assert not await world.look(1, errands)
                assert loop.time() == BLOCK_SECONDS
                assert await world.used(1) == {"second": 0, "third": 0}
                while not await world.look(1, errands):
                    assert world.script.asked("*", "store.get") <= 3 + 1
                    await world.chain.next_block((await world.chain.head()).number)
                assert await world.used(1) == dict.fromkeys(VALIDATORS, 0)
                assert world.script.asked("*", "store.get") == (3 if kind == "slow" else 4)
                driving.cancel()

        clock.run(lead())

    def test_the_end_of_a_round_ends_its_reads_and_the_next_round_makes_them_again(self) -> None:
        async def lead() -> None:
            world = await World.begin(Fault("hang", "store.get", owner="first", count=1))
            for name in VALIDATORS:
                await world.publish(name, 0)
                await world.publish(name, 1)
            async with asyncio.TaskGroup() as tasks:
                driving = tasks.create_task(drive(world.chain))
                assert not await world.look(1)
                assert await world.look(2)
                driving.cancel()
            assert await world.used(2) == dict.fromkeys(VALIDATORS, 1)

        clock.run(lead())

    async def test_who_came_too_late_for_the_last_record_is_not_waited_for_until_it_is_in_time(self) -> None:
        world = await World.begin()
        await world.publish("first", 4)
        assert not await world.look(5)
        world.apply(5, await world.files(5))
        await world.publish("first", 5)
        assert await world.look(6), "the two others are not waited for any more"
        await world.publish("second", 5)
        assert await world.look(6)
        assert await world.used(6) == {"first": 5, "second": 5}
        world.apply(6, await world.files(6))
        await world.publish("first", 6)
        assert not await world.look(7), "the second is again"

    async def test_a_silent_one_costs_a_request_a_look_and_a_search_a_round(self) -> None:
        world = await World.begin(permits=1)
        for look in range(5):
            assert not await world.look(40)
            assert world.script.asked("*", "store.get") == SCORES_AGE + 1 + look
        assert not await world.look(41)
        assert world.script.asked("*", "store.get") == 2 * (SCORES_AGE + 1) + 4

    async def test_what_is_known_is_not_read_again(self) -> None:
        world = await World.begin()
        for name in VALIDATORS:
            await world.publish(name, 0)
        for _ in range(5):
            assert await world.look(1)
        assert world.script.asked("*", "store.get") == len(VALIDATORS)

    async def test_a_chain_that_does_not_say_fails_the_look(self) -> None:
        world = await World.begin(
            Fault("hang", "store.get", owner="first"), Fault("error", "chain.next_block", count=1)
        )
        async with asyncio.TaskGroup() as tasks:
            errands = Errands(tasks, world.seen)
            with pytest.raises(ChainError):
                await world.look(1, errands)
            errands.cancel()
