"""Each role in its session: training beside it, deeds that fail, what a leader seals, and what is told of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from builders import LEADER, MINERS, hash32, identity
from ledger_world import LEAD, ME, Life, Watcher, World, Written, nothing

from muster.lab import clock
from muster.lab.faults import Fault, Kind
from muster.node.ledger.seals import FoundSeal
from muster.node.ledger.session import Session
from muster.node.telemetry import events
from muster.node.telemetry.events import Transition
from muster.protocol import paths, wire
from muster.protocol.errors import ChainError, StorageError
from muster.protocol.ledger import Applied
from muster.protocol.ledger.round import Duty, Instruction, Phase
from muster.validator.aggregator.aggregator import Aggregator


class Trainee(Watcher):
    """A miner whose training takes as long as the test likes, and whose deeds fail as told."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.gate = asyncio.Event()
        self.trained: list[str] = []
        self.keys: list[int] = []
        self.problems: dict[str, list[Exception]] = {}

    def duty(self) -> Duty:
        return Duty.MINE

    @property
    def awaits_seal(self) -> bool:
        return f"{self.tip.round} done" in self.trained

    def fails(self, what: str) -> None:
        """Raise what this deed has to raise next."""
        if self.problems.get(what):
            raise self.problems[what].pop(0)

    async def train(self) -> None:
        self.fails("train")
        round_ = self.tip.round
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.trained.append(f"{round_} cancelled")
            raise
        self.trained.append(f"{round_} done")

    async def publish_key(self, found: FoundSeal) -> None:
        self.fails("key")
        self.keys.append(found.seal.round)

    async def before_apply(self, applied: Applied) -> None:
        self.fails("apply")


def trainee(life: Life) -> Trainee:
    """The participant of a life that trains."""
    assert isinstance(life.participant, Trainee)
    return life.participant


class TestMiner:
    """Training runs beside the session; the seal is looked for by who has something in it."""

    def test_the_seal_is_looked_for_only_once_the_submission_is_up(self) -> None:
        async def follow() -> None:
            world = await World.begin()
            life, asked = await Life.of(world, Trainee), []
            written = await world.write(())
            listed = sealed_with(world, written, ME)

            async def count() -> None:
                asked.append(world.script.asked(ME, "store.list", "seals"))

            async def submitted() -> None:
                await count()
                trainee(life).gate.set()
                await world.bucket.put(paths.seal(world.tip.run_id, 0, wire.digest_of(listed)), listed)

            async def end() -> None:
                await count()
                for step in (world.put(written), world.anchor(written)):
                    await step
                world.go_on(written)
                await world.close(closing=True)

            await life.live(nothing, count, submitted, nothing, end)
            assert asked[:2] == [1, 1], "once at first, in case an earlier life has submitted"
            assert asked[2] == 2
            assert (trainee(life).keys, trainee(life).trained[0]) == ([0], "0 done")
            assert life.agrees

        clock.run(follow())

    def test_training_is_cancelled_with_the_round_and_begun_anew_in_the_next(self) -> None:
        async def follow() -> None:
            world = await World.begin()
            life = await Life.of(world, Trainee)
            await life.live(nothing, world.close, nothing, world.close, nothing, lambda: world.close(closing=True))
            assert trainee(life).trained == ["0 cancelled", "1 cancelled", "2 cancelled"]
            assert life.agrees

        clock.run(follow())

    @pytest.mark.parametrize("error", [StorageError("full"), ChainError("silent")])
    def test_a_deed_that_fails_is_given_again_at_every_block(self, error: Exception) -> None:
        async def follow() -> None:
            world = await World.begin()
            life = await Life.of(world, Trainee)
            me = trainee(life)
            me.problems = {what: [error] * 3 for what in ("train", "key", "apply")}
            me.gate.set()
            written = await world.write(())
            listed = sealed_with(world, written, ME)

            async def seal() -> None:
                await world.bucket.put(paths.seal(world.tip.run_id, 0, wire.digest_of(listed)), listed)

            async def record() -> None:
                await world.put(written)
                await world.anchor(written)
                world.go_on(written)

            wait = [nothing] * 5
            await life.live(*wait, seal, *wait, record, *wait, lambda: world.close(closing=True))
            assert (me.keys, me.problems, life.agrees) == ([0], {"train": [], "key": [], "apply": []}, True)
            story = [event for event in life.events(Transition) if event.round == 0]
            for what in (Instruction.TRAIN, Instruction.PUBLISH_KEY, Instruction.APPLY):
                failed = [event for event in story if event.what == "Failed" and event.instruction is what]
                blocks = [event.block for event in failed]
                assert len(blocks) == len(set(blocks)) == 3, f"{what} is given once a block"
                assert {event.problem for event in failed} == {str(error)}

        clock.run(follow())

    def test_a_cancelled_session_leaves_nothing_running(self) -> None:
        async def follow() -> None:
            world = await World.begin()
            life = await Life.of(world, Trainee)
            running = asyncio.create_task(life.session.run())
            for _ in range(3):
                await asyncio.sleep(12.0)
                world.chain.advance()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert trainee(life).trained == ["0 cancelled"]
            assert asyncio.all_tasks() == {asyncio.current_task()}

        clock.run(follow())

    def test_the_story_of_a_round_is_told(self) -> None:
        """What happened, in order, with what came of it; and nothing else."""

        async def follow() -> None:
            world = await World.begin()
            life = await Life.of(world, Trainee)
            trainee(life).gate.set()
            written = await world.write(())
            listed = sealed_with(world, written, ME)

            async def seal() -> None:
                await world.bucket.put(paths.seal(world.tip.run_id, 0, wire.digest_of(listed)), listed)

            async def record() -> None:
                await world.put(written)
                await world.anchor(written)
                world.go_on(written)
                await world.close(closing=True)

            await life.live(nothing, seal, nothing, record)
            story = [event for event in life.events(Transition) if event.round == 0]
            told = [(event.what, event.phase, event.given) for event in story]
            assert told == [
                ("Opened", Phase.SUBMIT, (Instruction.TRAIN,)),
                ("Done", Phase.SUBMIT, ()),
                ("SealSeen", Phase.REVEAL, (Instruction.PUBLISH_KEY,)),
                ("Done", Phase.REVEAL, ()),
                ("RecordSeen", Phase.APPLY, (Instruction.APPLY,)),
                ("Done", Phase.APPLIED, ()),
                ("RecordFinal", Phase.FINAL, (Instruction.FINAL,)),
                ("Done", Phase.CLOSED, ()),
            ]
            assert [event.instruction for event in story if event.what == "Done"] == [
                Instruction.TRAIN,
                Instruction.PUBLISH_KEY,
                Instruction.APPLY,
                Instruction.FINAL,
            ]
            assert story[2].peers == (identity(ME).hotkey,)
            assert story[2].sealed_block == written.seal.block.number
            assert story[4].record == written.digest.hex()
            assert [event.block for event in story] == sorted(event.block for event in story)

        clock.run(follow())


def sealed_with(world: World, written: Written, name: str) -> bytes:
    """The round's seal with another peer in it; its record does not name this one."""
    return wire.encode_seal(replace(written.seal, headers=((identity(name).public, hash32("a head")),)), LEAD)


class TestFollower:
    """Who acts on no seal reads none of it but the one a record names."""

    def test_it_never_looks_for_the_seal(self) -> None:
        async def follow() -> None:
            world = await World.begin()
            written = await world.write()
            await world.put(written)
            life = await Life.of(world)

            async def record() -> None:
                assert world.script.asked(ME, "store.*") == 0, "without an anchor there is nothing to read"
                await world.anchor(written)
                world.go_on(written)
                await world.close(closing=True)

            await life.live(nothing, nothing, record)
            assert life.agrees
            assert world.script.asked(ME, "store.*") == 2 + 2 + 1, "two records, two seals, one bundle"
            told = ["RecordSeen", "Done", "RecordFinal", "Done"]
            assert [event.what for event in life.events(Transition)] == told * 2

        clock.run(follow())


class TestLeader:
    """The leader's part of the shell, on the real one."""

    def test_a_look_that_fails_does_not_seal_the_round_empty(self) -> None:
        """It cannot ask the chain who is there until after the deadline; everybody has delivered."""

        async def lead() -> None:
            world = await World.begin()
            height = world.tip.opening.deadline + 2
            world.script.faults += (Fault("error", "chain.snapshot", who=LEADER, until_block=height),)
            for name in MINERS:
                await world.submit(name)
            around = world.around(LEADER)
            leader = Aggregator(around, world.tip, world.replica, rounds=1)
            await leading(world, leader)
            assert world.script.unfired() == []
            (info,) = await world.bucket.list(paths.seals(world.tip.run_id, 0))
            seal = await world.bucket.get(info.key, max_bytes=2**20)
            listed = [public for public, _ in wire.decode_seal(seal, world.tip.run_id)[0].headers]
            assert listed == sorted(identity(name).public for name in MINERS)

        clock.run(lead())

    def test_its_own_record_is_not_fetched(self) -> None:
        async def lead() -> None:
            world = await World.begin()
            for name in MINERS:
                await world.submit(name)
            leader = Aggregator(world.around(LEADER), world.tip, world.replica, rounds=1)
            await leading(world, leader)
            assert world.script.asked(LEADER, "store.get", "bundles.bin") == 0
            applied = [n.event for n in leader.context.journal.noted if isinstance(n.event, events.Applied)]
            assert [len(event.accepted) for event in applied] == [2, 0]

        clock.run(lead())

    @pytest.mark.parametrize("kind", ["error", "lost"])
    @pytest.mark.parametrize(
        ("operation", "key"),
        [
            ("store.put_if_absent", "*/00000000.*.heads"),
            ("store.put", "*/00000000-*.seal"),
            ("store.put", "*.bin"),
            ("store.put", "*/00000000-*.rec"),
            ("chain.commit", "anchor/0"),
        ],
    )
    def test_every_write_may_fail_three_times(self, operation: str, key: str, kind: Kind) -> None:
        async def lead() -> None:
            world = await World.begin(Fault(kind, operation, key, who=LEADER, count=3))
            for name in MINERS:
                await world.submit(name)
            leader = Aggregator(world.around(LEADER), world.tip, world.replica, rounds=1)
            await leading(world, leader)
            applied = [n.event for n in leader.context.journal.noted if isinstance(n.event, events.Applied)]
            assert [len(event.accepted) for event in applied] == [2, 0]
            # what happened although its answer was lost is found done, and not done again
            once = kind == "lost" and operation in ("store.put_if_absent", "chain.commit")
            assert list(world.script.fired.values()) == [1 if once else 3]

        clock.run(lead())


async def leading(world: World, leader: Aggregator, blocks: int = 60) -> None:
    """The leader's session, to the closing record; the miners of round 0 answer its seal."""
    session = Session(leader, leader.context.chain, leader.context.directory)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(session.run())
        for _ in range(blocks):
            await asyncio.sleep(12.0)
            if running.done():
                break
            for info in await world.bucket.list(paths.seals(world.tip.run_id, 0)):
                seal = wire.digest_of(await world.bucket.get(info.key, max_bytes=2**20))
                for name in MINERS:
                    await world.show(name, seal)
            world.chain.advance()
        assert running.done(), f"the leader stands in round {leader.tip.round}"
