"""The one shell: whatever a look or a deed meets, it goes on, at the cost of time; and it tells what happened."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from builders import LEADER, MINERS, body_of, framed, hash32, identity
from ledger_world import LEAD, ME, Life, NewestOnly, Watcher, World, Written

from muster.lab import clock
from muster.lab.faults import CHAIN_READS, Fault, Kind
from muster.node.ledger.participant import Errands
from muster.node.ledger.session import Session
from muster.protocol import paths, wire
from muster.protocol.chain.base import Anchor
from muster.protocol.errors import ChainError, LedgerError, StorageError
from muster.protocol.ledger import Applied
from muster.protocol.round import Role, RoundState
from muster.protocol.wire import Seal
from muster.validator.aggregator.aggregator import Aggregator

KINDS = ("rec", "seal", "bin")
SORTS = {"rec": "records.rec", "seal": "seals.seal", "bin": "bundles.bin"}
Step = Callable[[], Awaitable[object]]


async def nothing() -> None:
    """A block in which the test does nothing."""


async def run_with(*faults: Fault, ended: bool = True, **how: Any) -> World:
    """Two rounds, one of them with work in it, and the end of the run."""
    world = await World.begin(*faults, **how)
    await world.close()
    await world.close(())
    if ended:
        await world.close(closing=True)
    return world


class TestFaultsOnce:
    """One failed look, of whatever kind, costs blocks and nothing else."""

    @pytest.mark.parametrize("kind", ["error", "damaged", "truncated", "missing", "slow", "hang"])
    @pytest.mark.parametrize("object_", KINDS)
    def test_of_the_store(self, kind: Kind, object_: str) -> None:
        seconds = 1000.0 if kind == "slow" else 0.0
        fault = Fault(kind, "store.get", f"*00000000.{object_}", who=ME, count=1, seconds=seconds)

        async def follow() -> None:
            world = await run_with(fault)
            life = await Life.of(world)
            await life.live()
            assert world.script.unfired() == []
            assert (life.rounds, life.events("refused"), life.agrees) == ([0, 1, 2], [], True)
            assert world.script.asked(sort=SORTS[object_]) == (2 if object_ == "bin" else 4)

        clock.run(follow())

    @pytest.mark.parametrize("kind", ["error", "slow"])
    @pytest.mark.parametrize("operation", CHAIN_READS)
    @pytest.mark.parametrize("make", [None, NewestOnly])
    def test_of_the_chain(self, kind: Kind, operation: str, make: type[NewestOnly] | None) -> None:
        fault = Fault(kind, operation, who=ME, count=2, seconds=30.0 if kind == "slow" else 0.0)

        async def follow() -> None:
            world = await run_with(fault, ended=False, **({"make": make} if make else {}))
            life = await Life.of(world)
            await life.live(*[nothing] * 5, lambda: world.close(closing=True))
            assert world.script.fired[fault] == 2
            assert (life.rounds, life.events("refused"), life.agrees) == ([0, 1, 2], [], True)

        clock.run(follow())

    @pytest.mark.parametrize("at", [0, 4, 5, 8, 12, 30, -1])
    @pytest.mark.parametrize("object_", KINDS)
    def test_of_any_part_of_an_object(self, object_: str, at: int) -> None:
        """Prefix, body or signature: the same bytes are there for blocks, and then the right ones."""

        async def follow() -> None:
            world = await World.begin()
            first = await world.close()
            await world.close(closing=True)
            key, whole = first.object(object_)
            place = at % len(whole)
            bad = whole[:place] + bytes((whole[place] ^ 0x40,)) + whole[place + 1 :]
            await world.bucket.put(key, bad)
            life, applied = await Life.of(world), []

            async def restore() -> None:
                applied.extend(life.rounds)
                await world.bucket.put(key, whole)

            await life.live(nothing, nothing, restore)
            assert applied == []
            assert (life.rounds, life.events("refused"), life.agrees) == ([0, 1], [], True)

        clock.run(follow())


class TestUnknown:
    """What cannot be seen now is looked for again; nothing is concluded from it."""

    @pytest.mark.parametrize("object_", KINDS)
    def test_missing_bytes_are_not_an_invalid_record(self, object_: str) -> None:
        async def follow() -> None:
            world = await World.begin()
            first = await world.close()
            await world.close(closing=True)
            key, whole = first.object(object_)
            await world.bucket.delete(key)
            life = await Life.of(world)
            await life.live(nothing, nothing, lambda: world.bucket.put(key, whole))
            assert (life.rounds, life.events("refused"), life.agrees) == ([0, 1], [], True)
            assert world.script.asked(sort=SORTS[object_]) >= 4, "it was looked for at every block"

        clock.run(follow())

    @pytest.mark.parametrize("location", ["ftp://nowhere", "mem:another"])
    def test_a_leader_whose_bucket_cannot_be_used(self, location: str) -> None:
        """One that cannot be opened, or in which there is nothing."""

        async def follow() -> None:
            world = await run_with()
            await world.chain.commit(LEAD, location)
            life = await Life.of(world)
            await life.live(nothing, nothing, lambda: world.chain.commit(LEAD, f"mem:{LEADER}"))
            assert (life.rounds, life.agrees) == ([0, 1, 2], True)

        clock.run(follow())

    def test_a_leader_without_a_location(self) -> None:
        async def follow() -> None:
            world = await World.begin(located=False)
            life = await Life.of(world)
            await life.live(nothing, nothing, world.close, lambda: world.close(closing=True))
            assert (life.rounds, life.agrees) == ([0, 1], True)

        clock.run(follow())

    def test_a_record_that_names_a_block_to_come(self) -> None:
        """It is applied when the block is there, and its bundle is read once."""

        async def follow() -> None:
            world = await World.begin()
            early = await world.write(ahead=6)
            await world.put(early)
            await world.anchor(early)
            due = world.chain.height + 6
            life, seen = await Life.of(world), []

            async def look() -> None:
                seen.append((world.chain.height < due, life.rounds == []))

            async def end() -> None:
                world.go_on(early)
                await world.close(closing=True)

            await life.live(*[look] * 9, end)
            assert seen == [(True, True)] * 6 + [(False, False)] * 3
            assert (life.events("refused"), world.script.asked(sort="bundles.bin"), life.agrees) == ([], 1, True)

        clock.run(follow())

    def test_a_follower_that_is_far_behind_goes_back_in_steps(self) -> None:
        async def follow() -> None:
            world = await World.begin(make=NewestOnly)
            await world.null_rounds(150)
            await world.close(closing=True)
            life = await Life.of(world)
            await life.live(blocks=20)
            assert life.agrees
            assert world.script.asked(sort="records.rec") == 2 * 151 - 1, "each once on the way back, once forth"

        clock.run(follow())


class TestRefused:
    """What is really invalid is refused by its digest, once, and stands in nobody's way."""

    def test_it_is_judged_once_and_a_later_valid_one_is_applied(self) -> None:
        async def follow() -> None:
            world = await World.begin()
            valid = await world.write()
            weights = valid.record.weights * 2
            bad = world.sign(
                replace(valid.record, weights=weights), valid.seal, valid.object("seal")[1], valid.object("bin")[1]
            )
            await world.put(bad)
            await world.anchor(bad)
            life, asked = await Life.of(world), []

            async def count() -> None:
                asked.append([world.script.asked(ME, "store.*", sort) for sort in SORTS.values()])

            async def mend() -> None:
                await world.put(valid)
                await world.anchor(valid)
                world.go_on(valid)
                await world.close(closing=True)

            await life.live(nothing, count, nothing, count, mend)
            assert asked == [[1, 1, 1]] * 2, "it is not fetched again at every look"
            assert [event["record"] for event in life.events("refused")] == [bad.digest.hex()]
            assert "weights" in life.events("refused")[0]["problem"]
            assert (life.rounds, life.agrees) == ([0, 1], True)

        clock.run(follow())

    @pytest.mark.parametrize("spoil", ["parent", "bundle_bytes", "seal", "beacon", "kind of object"])
    def test_whatever_makes_it_invalid(self, spoil: str) -> None:
        async def follow() -> None:
            world = await World.begin()
            valid = await world.write()
            bad = spoiled(world, valid, spoil)
            await world.put(bad)
            await world.anchor(bad)
            life = await Life.of(world)

            async def mend() -> None:
                await world.put(valid)
                await world.anchor(valid)
                world.go_on(valid)
                await world.close(closing=True)

            await life.live(nothing, nothing, nothing, mend)
            assert [event["record"] for event in life.events("refused")] == [bad.digest.hex()]
            assert (life.rounds, life.agrees) == ([0, 1], True)

        clock.run(follow())


def spoiled(world: World, valid: Written, how: str) -> Written:
    """A record that its leader has signed and nobody may apply."""
    seal, seal_data, bundle = valid.seal, valid.object("seal")[1], valid.object("bin")[1]
    record = valid.record
    match how:
        case "parent":
            record = replace(record, parent=hash32("another"))
        case "bundle_bytes":
            record = replace(record, bundle_bytes=record.bundle_bytes - 1)
        case "seal":
            seal = replace(seal, headers=seal.headers[:1])
            seal_data = wire.encode_seal(seal, LEAD)
            record = replace(record, seal=wire.digest_of(seal_data))
        case "beacon":
            record = replace(record, evaluate=replace(record.evaluate, value=hash32("another")))
        case "kind of object":
            made = world.sign(record, seal, seal_data, bundle)
            key, _ = valid.object("rec")
            other = framed(wire.Type.RECORD, LEAD, world.tip.run_id, body_of(seal_data))
            return replace(made, digest=wire.digest_of(other), objects={**made.objects, key: other})
    return world.sign(record, seal, seal_data, bundle)


class Trainee(Watcher):
    """A miner whose training takes as long as the test likes, and whose deeds fail as told."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.gate = asyncio.Event()
        self.trained: list[str] = []
        self.keys: list[int] = []
        self.problems: dict[str, list[Exception]] = {}
        self.looked_for_seal: list[int] = []

    def role(self) -> Role:
        return Role.MINER

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

    async def publish_key(self, seal: Seal) -> None:
        self.fails("key")
        self.keys.append(seal.round)

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
                asked.append(world.script.asked(ME, "store.*", "seals.seal"))

            async def submitted() -> None:
                await count()
                trainee(life).gate.set()
                await world.bucket.put(paths.seal(world.tip.run_id, 0), listed)

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
                await world.bucket.put(paths.seal(world.tip.run_id, 0), listed)

            async def record() -> None:
                await world.put(written)
                await world.anchor(written)
                world.go_on(written)

            wait = [nothing] * 5
            await life.live(*wait, seal, *wait, record, *wait, lambda: world.close(closing=True))
            assert (me.keys, me.problems, life.agrees) == ([0], {"train": [], "key": [], "apply": []}, True)
            story = [event for event in life.events("transition") if event["round"] == 0]
            for what in ("train", "publish_key", "apply"):
                failed = [event for event in story if event["what"] == "Failed" and event["instruction"] == what]
                blocks = [event["block"] for event in failed]
                assert len(blocks) == len(set(blocks)) == 3, f"{what} is given once a block"
                assert {event["problem"] for event in failed} == {str(error)}

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
                await world.bucket.put(paths.seal(world.tip.run_id, 0), listed)

            async def record() -> None:
                await world.put(written)
                await world.anchor(written)
                world.go_on(written)
                await world.close(closing=True)

            await life.live(nothing, seal, nothing, record)
            story = [event for event in life.events("transition") if event["round"] == 0]
            told = [(event["what"], event["phase"], tuple(event["given"])) for event in story]
            assert told == [
                ("Opened", "submit", ("train",)),
                ("Done", "submit", ()),
                ("SealSeen", "reveal", ("publish_key",)),
                ("Done", "reveal", ()),
                ("RecordSeen", "apply", ("apply",)),
                ("Done", "closed", ()),
            ]
            assert [event.get("instruction") for event in story if event["what"] == "Done"] == [
                "train",
                "publish_key",
                "apply",
            ]
            assert story[2]["peers"] == [identity(ME).hotkey]
            assert story[2]["sealed_block"] == written.seal.block.number
            assert story[4]["record"] == written.digest.hex()
            assert [event["block"] for event in story] == sorted(event["block"] for event in story)

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
            assert [event["what"] for event in life.events("transition")] == ["RecordSeen", "Done"] * 2

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
            seal = await world.bucket.get(paths.seal(world.tip.run_id, 0), max_bytes=2**20)
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
            applied = [e for e in leader.surroundings.journal.events if e["event"] == "applied"]
            assert [len(event["accepted"]) for event in applied] == [2, 0]

        clock.run(lead())

    @pytest.mark.parametrize("kind", ["error", "lost"])
    @pytest.mark.parametrize(
        ("operation", "key"),
        [
            ("store.put_if_absent", "*0.seal"),
            ("store.put", "*.heads"),
            ("store.put", "*.bin"),
            ("store.put_if_absent", "*0.rec"),
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
            applied = [e for e in leader.surroundings.journal.events if e["event"] == "applied"]
            assert [len(event["accepted"]) for event in applied] == [2, 0]
            # what happened although its answer was lost is found done, and not done again
            once = kind == "lost" and operation in ("store.put_if_absent", "chain.commit")
            assert list(world.script.fired.values()) == [1 if once else 3]

        clock.run(lead())


async def leading(world: World, leader: Aggregator, blocks: int = 60) -> None:
    """The leader's session, to the closing record; the miners of round 0 answer its seal."""
    session = Session(leader, leader.surroundings.chain, leader.surroundings.directory)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(session.run())
        for _ in range(blocks):
            await asyncio.sleep(12.0)
            if running.done():
                break
            if await world.bucket.head(paths.seal(world.tip.run_id, 0)) is not None:
                for name in MINERS:
                    await world.show(name)
            world.chain.advance()
        assert running.done(), f"the leader stands in round {leader.tip.round}"


class Broken(Watcher):
    """A leader with a fault of its own, or whose background work has one."""

    fault: Exception = LedgerError("its own record is not valid")
    where = "look"

    def role(self) -> Role:
        return Role.LEADER

    def begin(self, errands: Errands) -> None:
        self.errands = errands

    async def observe(self, state: RoundState, head: Any) -> list[Any]:
        if self.where == "errand":
            self.errands.start(self.fail())
            return []
        raise self.fault

    async def fail(self) -> None:
        raise self.fault


class TestEnds:
    """What ends a session: the run, a cancellation, a fault of this participant's own; and nothing else."""

    @pytest.mark.parametrize("where", ["look", "errand"])
    def test_a_fault_of_its_own_is_not_hidden(self, where: str) -> None:
        async def follow() -> None:
            world = await World.begin()
            life = await Life.of(world, type("Here", (Broken,), {"where": where}))
            with pytest.raises(ExceptionGroup) as caught:
                await life.live()
            assert caught.value.subgroup(LedgerError) is not None

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

    def test_a_session_of_a_closed_run_is_over_at_once(self) -> None:
        async def follow() -> None:
            world = await run_with()
            life = await Life.of(world)
            await life.live()
            again = await Life.of(world, tip=world.tip)
            await again.session.run()
            assert again.rounds == []

        clock.run(follow())

    def test_an_anchor_that_leads_nowhere_stalls_and_does_not_end_it(self) -> None:
        """And once the leader anchors what it has, the follower is there."""

        async def follow() -> None:
            world = await run_with(make=NewestOnly)
            last = Anchor(2, (await world.chain.anchors(0))[-1].anchor.digest)
            await world.chain.commit(LEAD, f"mem:{LEADER}", Anchor(2**40, hash32("nothing")))
            life = await Life.of(world)
            await life.live(nothing, nothing, lambda: world.chain.commit(LEAD, f"mem:{LEADER}", last))
            assert (life.rounds, life.agrees) == ([0, 1, 2], True)

        clock.run(follow())
