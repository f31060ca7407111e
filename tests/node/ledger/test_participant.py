"""What every role has in common: background work with one deadline, joining, and a step that is taken once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from builders import LEADER, checkpoint_of, identity, run_spec, theta
from ledger_world import BLOCK_SECONDS, LEAD, ME, Life, Watcher, World

from muster.lab import clock
from muster.lab.faults import Fault, Kind
from muster.node.ledger.bootstrap import BOOTSTRAP_TRIES, bootstrap, commit_location
from muster.node.ledger.participant import Errands, Participant, judge
from muster.node.ledger.reader import genesis_tip
from muster.node.replica import Replica
from muster.node.telemetry import events
from muster.protocol import paths
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.errors import ChainUnreachable, ConfigError, LedgerError, NotRegistered, StorageError
from muster.protocol.faults import Faults, parse_faults
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import Applied, Tip, tip_info


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


async def drive(world: World) -> None:
    """A block every twelve seconds."""
    while True:
        await asyncio.sleep(BLOCK_SECONDS)
        world.chain.advance()


async def joined(world: World, name: str = ME) -> tuple[Tip, Replica, list[str]]:
    """Join as somebody while blocks come; where it begins, and the journal's events."""
    around = world.around(name)
    async with asyncio.TaskGroup() as tasks:
        driving = tasks.create_task(drive(world))
        tip, replica = await bootstrap(world.tip.history, around)
        driving.cancel()
    return tip, replica, [noted.event.name for noted in around.journal.noted]


async def with_checkpoint(*faults: Fault, rounds: int = 4) -> World:
    """A run with work in its first round, a checkpoint before its second, and more rounds without work."""
    world = await World.begin(*faults)
    await world.close()
    tip, replica = world.tip, world.replica
    files, digest = checkpoint_of(replica, tip.round, tip=tip_info(tip))
    for name, data in files.items():
        await world.bucket.put(paths.checkpoint(tip.run_id, tip.round, name), data)
    await world.close((), checkpoint=digest)
    await world.null_rounds(rounds)
    return world


class TestJoin:
    """Whoever comes, whenever and however often, has a slot, a place, and a θ to begin from."""

    def test_before_the_first_record_it_begins_at_genesis(self) -> None:
        async def come() -> None:
            world = await World.begin(located=False, spec=run_spec(data={"slots": 5}))
            tip, replica, told = await joined(world, "newcomer")
            assert (tip, replica.root()) == (await genesis_tip(world.tip.history, world.chain), world.replica.root())
            assert told == ["joined"]
            peer = (await world.chain.snapshot()).by_hotkey()[identity("newcomer").hotkey]
            assert peer.location == "mem:newcomer"

        clock.run(come())

    def test_on_another_chain_than_the_runs_it_writes_nothing(self) -> None:
        async def come() -> None:
            world = await World.begin()
            stranger = VirtualChain(ChainGenesis(seed=world.tip.history.genesis.genesis.seed + 1))
            with pytest.raises(ConfigError, match="and the run stands on the local chain whose block 0 is"):
                await bootstrap(world.tip.history, replace(world.around("newcomer"), chain=stranger))
            assert (await stranger.snapshot()).peers == ()

        clock.run(come())

    def test_later_it_begins_at_the_newest_checkpoint(self) -> None:
        async def come() -> None:
            world = await with_checkpoint()
            tip, replica, _ = await joined(world)
            assert (tip.round, replica.outer_step, replica.root()) == (1, 1, world.replica.root())

        clock.run(come())

    def test_who_comes_back_commits_nothing(self) -> None:
        """A commitment would take the place of its newest anchor on a chain that keeps one."""

        async def come() -> None:
            world = await World.begin()
            await world.close(())
            await joined(world, LEADER)
            await joined(world, LEADER)
            assert world.script.asked(LEADER, "chain.commit") == 0
            await joined(world)
            await joined(world)
            assert world.script.asked(ME, "chain.commit") == 1

        clock.run(come())

    def test_another_place_is_committed(self) -> None:
        async def come() -> None:
            world = await World.begin()
            await world.chain.commit(identity(ME), "mem:elsewhere")
            await joined(world)
            assert (await world.chain.snapshot()).by_hotkey()[identity(ME).hotkey].location == f"mem:{ME}"

        clock.run(come())

    @pytest.mark.parametrize("kind", ["error", "damaged", "truncated", "hang"])
    @pytest.mark.parametrize("key", ["*00000003-*.rec", "*manifest.json", "*.safetensors"])
    def test_reads_that_fail_are_made_again_at_the_next_blocks(self, kind: Kind, key: str) -> None:
        fault = Fault(kind, "store.get", key, who=ME, count=BOOTSTRAP_TRIES - 1)

        async def come() -> None:
            world = await with_checkpoint(fault)
            tip, replica, _ = await joined(world)
            assert world.script.unfired() == []
            assert (tip.round, replica.root()) == (1, world.replica.root())
            again = (BOOTSTRAP_TRIES - 1) if key.endswith("rec") else 0
            assert world.script.asked(ME, "store.get", "records.rec") == 6 + again, "none is read again for it"

        clock.run(come())

    def test_a_ledger_of_which_every_record_fails_once_or_more_is_read_to_its_end(self) -> None:
        """Failures have a limit for one object: a long ledger is not given up for having many."""
        faults = [Fault("error", "store.get", f"*{n:08}-*.rec", who=ME, count=BOOTSTRAP_TRIES // 2) for n in range(6)]

        async def come() -> None:
            world = await with_checkpoint(*faults)
            tip, _, _ = await joined(world)
            assert world.script.unfired() == []
            assert tip.round == 1

        clock.run(come())

    def test_a_chain_that_fails_on_the_way_is_forgiven_too(self) -> None:
        async def come() -> None:
            world = await with_checkpoint(
                Fault("error", "store.get", "*.rec", who=ME, count=4),
                Fault("error", "chain.next_block", who=ME, count=2),
            )
            assert (await joined(world))[0].round == 1
            assert world.script.unfired() == []

        clock.run(come())

    @pytest.mark.parametrize("key", ["*00000003-*.rec", "*.safetensors"])
    def test_what_fails_for_too_long_is_told(self, key: str) -> None:
        async def come() -> None:
            world = await with_checkpoint(Fault("error", "store.get", key, who=ME))
            with pytest.raises(ExceptionGroup) as caught:
                await joined(world)
            assert caught.value.subgroup(StorageError) is not None
            assert list(world.script.fired.values()) == [BOOTSTRAP_TRIES]

        clock.run(come())

    def test_a_leader_whose_bucket_cannot_be_used_is_no_reason_not_to_begin(self) -> None:
        async def come() -> None:
            world = await with_checkpoint()
            await world.chain.commit(LEAD, "ftp://nowhere")
            tip, replica, _ = await joined(world)
            assert (tip.round, replica.outer_step) == (0, 0)

        clock.run(come())

    async def test_a_chain_that_does_not_show_the_hotkey_yet_says_so(self) -> None:
        world = await World.begin()
        with pytest.raises(NotRegistered, match=identity("stranger").hotkey):
            await commit_location(world.around("stranger"))


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
