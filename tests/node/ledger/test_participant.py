"""What every role has in common: background work with one deadline, and a step that is taken once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from builders import theta
from ledger_world import BLOCK_SECONDS, ME, Life, Watcher, World, drive

from muster.lab import clock
from muster.lab.faults import Fault
from muster.node.ledger.participant import Errands, Participant, judge
from muster.node.replica import Replica
from muster.node.telemetry import events
from muster.protocol.errors import ChainUnreachable, LedgerError, StorageError
from muster.protocol.faults import Faults, parse_faults
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import Applied


class Work:
    """Errands that note how they end."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def take(self, name: str, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.ended.append(f"{name} cancelled")
            raise
        self.ended.append(f"{name} done")


class TestErrands:
    """A look has one deadline for all that it asks for: the next block."""

    def test_what_is_done_at_once_costs_no_block(self) -> None:
        async def look() -> None:
            world, work = await World.begin(), Work()
            async with asyncio.TaskGroup() as tasks:
                errands = Errands(tasks, world.around().chain)
                for _ in range(100):
                    await errands.wait({errands.start(work.take("now", 0))}, await world.chain.head())
            assert work.ended == ["now done"] * 100
            assert asyncio.get_running_loop().time() == 0

        clock.run(look())

    def test_what_takes_less_than_a_block_is_waited_for_and_no_longer(self) -> None:
        async def look() -> None:
            world, work = await World.begin(), Work()
            async with asyncio.TaskGroup() as tasks:
                errands = Errands(tasks, world.chain)
                started = {errands.start(work.take(f"{n} s", float(n))) for n in range(5)}
                await errands.wait(started, await world.chain.head())
            assert len(work.ended) == 5
            assert asyncio.get_running_loop().time() == 4.0
            assert world.chain.height == 0

        clock.run(look())

    def test_who_hangs_costs_a_look_one_block_and_goes_on(self) -> None:
        """However many they are; what ends later has not been lost."""

        async def look() -> None:
            world, work = await World.begin(), Work()
            async with asyncio.TaskGroup() as tasks:
                driving = tasks.create_task(drive(world))
                errands = Errands(tasks, world.chain)
                started = {errands.start(work.take("slow", 3 * BLOCK_SECONDS)) for _ in range(253)}
                for looks in range(1, 4):
                    await errands.wait(started, await world.chain.head())
                    assert world.chain.height == looks
                await errands.wait(started, await world.chain.head())
                assert work.ended == ["slow done"] * 253
                driving.cancel()

        clock.run(look())

    @pytest.mark.parametrize("height", [1, 5])
    def test_a_look_of_a_block_that_is_over_waits_for_nobody(self, height: int) -> None:
        async def look() -> None:
            world, work = await World.begin(), Work()
            old = await world.chain.head()
            await world.reach(height)
            async with asyncio.TaskGroup() as tasks:
                errands = Errands(tasks, world.chain)
                await errands.wait({errands.start(work.take("slow", 5.0))}, old)
                assert asyncio.get_running_loop().time() == 0
            assert work.ended == ["slow done"]

        clock.run(look())

    def test_a_chain_that_does_not_say_ends_the_look_and_not_the_errand(self) -> None:
        async def look() -> None:
            world, work = await World.begin(Fault("error", "chain.next_block", who=ME, count=1)), Work()
            async with asyncio.TaskGroup() as tasks:
                errands = Errands(tasks, world.around().chain)
                started = {errands.start(work.take("slow", 5.0))}
                with pytest.raises(ChainUnreachable):
                    await errands.wait(started, await world.chain.head())
                await errands.wait(started, await world.chain.head())
            assert work.ended == ["slow done"]

        clock.run(look())

    def test_a_look_leaves_no_task_of_its_own_behind(self) -> None:
        async def look() -> None:
            world, work = await World.begin(), Work()
            async with asyncio.TaskGroup() as tasks:
                errands = Errands(tasks, world.chain)
                waiting = tasks.create_task(
                    errands.wait({errands.start(work.take("slow", 50.0))}, await world.chain.head())
                )
                await asyncio.sleep(1.0)
                waiting.cancel()
                errands.cancel()
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert work.ended == ["slow cancelled"]

        clock.run(look())

    def test_the_end_of_the_round_ends_them_all(self) -> None:
        async def look() -> None:
            world, work = await World.begin(), Work()
            async with asyncio.TaskGroup() as tasks:
                errands = Errands(tasks, world.chain)
                for name in "abc":
                    errands.start(work.take(name, 600.0))
                await asyncio.sleep(1.0)
                errands.cancel()
            assert sorted(work.ended) == ["a cancelled", "b cancelled", "c cancelled"]
            assert asyncio.get_running_loop().time() == 1.0

        clock.run(look())

    def test_what_one_raises_is_not_lost(self) -> None:
        async def broken() -> None:
            raise LedgerError("a fault")

        async def look() -> None:
            world, work = await World.begin(), Work()
            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as tasks:
                    errands = Errands(tasks, world.chain)
                    errands.start(work.take("other", 600.0))
                    errands.start(broken())
            assert caught.value.subgroup(LedgerError) is not None
            assert work.ended == ["other cancelled"]

        clock.run(look())


class Late(Watcher):
    """A follower whose hooks fail as told."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.before: list[Exception] = []
        self.after: list[Exception] = []
        self.called: list[str] = []

    async def before_apply(self, applied: Applied) -> None:
        self.called.append("before")
        if self.before:
            raise self.before.pop()

    async def after_apply(self, applied: Applied) -> None:
        self.called.append("after")
        if self.after:
            raise self.after.pop()


class TestApply:
    """θ moves once for a record, whatever fails before and after, and however often it is asked to."""

    async def late(self, faults: str = "") -> tuple[World, Late, Applied, bytes]:
        """A follower before the first record, the record judged, and the root before it."""
        world = await World.begin()
        written = await world.write()
        tip = world.tip
        around = world.around(faults=Faults(parse_faults(faults)))
        me = Late(around, tip, Replica.genesis(tip.history.genesis, tip.run_id))
        applied = await me.judge(written.fetched)
        root = me.replica.root()
        world.go_on(written)
        return world, me, applied, root

    async def test_the_step_is_taken_and_told(self) -> None:
        world, me, applied, _ = await self.late()
        await me.apply(applied, None)
        assert (me.tip, me.replica.root()) == (world.tip, world.replica.root())
        (told,) = (noted.event for noted in me.context.journal.noted)
        assert isinstance(told, events.Applied)
        assert (told.round, told.kind, told.root) == (0, "round", world.replica.root().hex())
        assert told.accepted == tuple(hotkey_of(entry.public) for entry in applied.record.accepted)

    async def test_what_fails_before_it_leaves_theta_where_it_was(self) -> None:
        world, me, applied, root = await self.late("apply.before:error")
        me.before = [StorageError("full"), StorageError("full")]
        for _ in range(3):
            with pytest.raises(StorageError):
                await me.apply(applied, None)
            assert (me.replica.root(), me.tip.round, me.context.journal.noted) == (root, 0, [])
        await me.apply(applied, None)
        assert (me.tip, me.replica.root()) == (world.tip, world.replica.root())

    async def test_what_fails_after_it_is_made_again_and_the_step_is_not(self) -> None:
        world, me, applied, _ = await self.late()
        me.after = [StorageError("full"), StorageError("full")]
        for _ in range(2):
            with pytest.raises(StorageError):
                await me.apply(applied, None)
        await me.apply(applied, None)
        assert (me.tip, me.replica.root()) == (world.tip, world.replica.root())
        assert me.called == ["before", "after", "after", "after"]
        assert len(me.context.journal.noted) == 1

    async def test_in_a_session_too(self) -> None:
        """There an instruction that failed is given again."""
        world = await World.begin()
        await world.close()
        await world.close(closing=True)
        life = await Life.of(world, Late)
        assert isinstance(life.participant, Late)
        life.participant.after = [StorageError("full")] * 2
        await asyncio.to_thread(clock.run, life.live())
        assert (life.rounds, life.agrees) == ([0, 1], True)


class TestJudge:
    """A follower judges by its own θ and by nothing else."""

    async def test_another_theta_does_not_take_the_record(self) -> None:
        world = await World.begin()
        written = await world.write()
        tip = world.tip
        wrong = Replica(tip.spec.model, tip.run_id, [tensor + 1 for tensor in theta()], 0)
        with pytest.raises(LedgerError, match="not the root of this θ"):
            judge(written.fetched, tip, wrong)
        assert judge(written.fetched, tip, world.replica).tip.round == 1


async def test_a_participant_alone_does_nothing() -> None:
    """What a role does not say it leaves to those who follow: it closes nothing, knows nothing, and sees nobody."""
    me = Participant()
    assert (me.closing, me.known(bytes(32))) == (False, None)
    for call in (me.duty, lambda: me.tip):
        with pytest.raises(NotImplementedError):
            call()
