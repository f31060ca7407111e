"""Which record a validator's file must judge to steer a round: the ledger's own, wherever the leader began."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from builders import identity
from hypothesis import given, settings
from hypothesis import strategies as st
from steering_world import LAG, LEADER, RUN, SIBLING, VALIDATORS, World, drive, tip_at

from muster.lab import clock
from muster.lab.faults import Fault, Kind, Script
from muster.protocol import paths, wire
from muster.protocol.ledger import SCORES_AGE
from muster.protocol.wire import Type
from muster.protocol.wire.envelope import write_object


class TestRecords:
    """The file of the ledger's own record, whatever else a validator has judged and wherever the leader began."""

    async def test_siblings_stand_beside_each_other_and_each_ledger_takes_its_own(self) -> None:
        world = await World.begin()
        for name in VALIDATORS:
            await world.publish(name, 8, "alice")
            await world.publish(name, 8, "bob", record=SIBLING)
        assert await world.look(9)
        assert {row.public for file in await world.files(9) for row in file.rows} == {identity("alice").public}
        other = World(Script(), world.chain, world.buckets, followed=9)
        assert await other.look(9, tip=replace(tip_at(9), parent=SIBLING))
        assert {row.public for file in await other.files(9) for row in file.rows} == {identity("bob").public}

    async def test_who_judged_only_a_sibling_is_waited_for_and_its_older_file_steers(self) -> None:
        world = await World.begin()
        for name in VALIDATORS:
            await world.publish(name, 7)
            await world.publish(name, 8, record=SIBLING if name == "first" else None)
        assert not await world.look(9)
        assert await world.used(9) == {"first": 7, "second": 8, "third": 8}

    async def test_what_has_been_applied_is_not_read_and_not_kept_for_ever(self) -> None:
        world = await World.begin()
        await world.publish("first", 90 - LAG - SCORES_AGE)
        await world.look(90)
        assert await world.used(90) == {"first": 90 - LAG - SCORES_AGE}
        assert world.records_read() == 0
        assert len(world.steering._lineage._parents) == LAG + SCORES_AGE - 1

    @settings(max_examples=30)
    @given(
        files=st.dictionaries(st.tuples(st.sampled_from(VALIDATORS), st.integers(0, 24)), st.booleans(), max_size=40),
        begun=st.integers(1, 25),
    )
    def test_a_leader_that_began_at_a_checkpoint_is_steered_by_the_same_files(
        self, files: dict[tuple[str, int], bool], begun: int
    ) -> None:
        """The values say whether it is of the ledger's record or of a sibling."""

        async def lead() -> None:
            world = await World.begin()
            for (name, round_), ours in files.items():
                await world.publish(name, round_, record=None if ours else SIBLING)
            await world.keep(range(25))
            restarted = World(Script(), world.chain, world.buckets, followed=begun)
            assert await restarted.look(25) == await world.look(25)
            assert await restarted.files(25) == await world.files(25)
            assert restarted.records_read() <= max(0, begun - (25 - LAG - SCORES_AGE) - 1)

        asyncio.run(lead())

    async def test_it_reads_no_record_back_where_nothing_so_old_is_looked_for(self) -> None:
        world = await World.begin()
        world.followed = 40
        for name in VALIDATORS:
            await world.publish(name, 39)
        assert await world.look(40)
        assert world.records_read() == 0

    def test_it_reads_every_record_back_once_whoever_it_looks_for(self) -> None:
        async def lead() -> None:
            world = await World.begin(Fault("slow", "store.get", "*.rec", owner=LEADER, seconds=0.1))
            world.followed = 40
            await world.keep(range(40))
            for round_ in (40, 40, 41, 42):
                assert not await world.look(round_)
                assert world.records_read() == SCORES_AGE

        clock.run(lead())

    def test_to_read_back_for_one_validator_holds_up_nobody_whose_newest_file_is_there(self) -> None:
        async def lead() -> None:
            world = await World.begin(Fault("hang", "store.get", "*.rec", owner=LEADER))
            world.followed = 40
            await world.publish("second", 39)
            await world.publish("third", 39)
            async with asyncio.TaskGroup() as tasks:
                driving = tasks.create_task(drive(world.chain))
                assert not await world.look(40)
                driving.cancel()
            assert world.records_read() == 1
            assert await world.used(40) == {"second": 39, "third": 39}

        clock.run(lead())

    @pytest.mark.parametrize("kind", ["missing", "damaged", "error"])
    async def test_a_record_that_cannot_be_read_back_costs_older_files_that_look(self, kind: Kind) -> None:
        world = await World.begin(Fault(kind, "store.get", "*/records/00000038-*", owner=LEADER, count=1))
        world.followed = 40
        await world.keep(range(40))
        await world.publish("first", 39)
        await world.publish("second", 38)
        await world.publish("third", 37)
        assert not await world.look(40)
        assert await world.used(40) == {"first": 39, "second": 38}
        assert not await world.look(40)
        assert await world.used(40) == {"first": 39, "second": 38, "third": 37}

    async def test_a_parent_that_is_no_record_costs_older_files(self) -> None:
        """Nobody has checked again what lies before the checkpoint that a leader began at."""
        world = await World.begin()
        world.followed = 40
        data = write_object(Type.RECORD, identity(LEADER), RUN, 39, {})
        parent = wire.body_digest(data, Type.RECORD)
        assert parent is not None
        await world.bucket(LEADER).put(paths.record(RUN, 39, parent), data)
        await world.publish("first", 39, record=parent)
        assert not await world.look(40, tip=replace(tip_at(40), parent=parent))
        assert await world.used(40) == {"first": 39}
