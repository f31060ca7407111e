"""The leader: one seal and one record a round, whichever of its lives made them and whatever was answered late."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from builders import LEADER, MINERS, OWNER, hash32, identity, score_file, score_row
from leader_world import BLOCK, Died, Mortal, World, play

from muster.lab.faults import Fault, Kind, Script
from muster.node.ledger.bootstrap import bootstrap
from muster.node.replica import Replica
from muster.protocol import paths, wire
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import NO_CHECKPOINT
from muster.protocol.types import Anchor
from muster.protocol.wire import Kind as RecordKind

SECOND = "second"
"""Another aggregator, never in turn here."""

POINTS = {
    "heads": ("store.put_if_absent", "*.heads"),
    "seal": ("store.put", "*.seal"),
    "bundle": ("store.put", "*.bin"),
    "made": ("store.put_if_absent", "*.made"),
    "record": ("store.put", "*.rec"),
    "anchor": ("chain.commit", "anchor/0"),
}
"""What a leader puts for a round, in that order."""


async def one_of_each(world: World) -> None:
    """Round 0 has one seal and one record, which everybody can fetch and judge, and both miners are in it."""
    for signed in (paths.heads, paths.made):
        assert len(world.stored(signed(world.run_id, 0, world.tip.parent))) == 1
    for prefix in (paths.seals(world.run_id, 0), paths.records(world.run_id, 0)):
        assert len({name: set(stored) for name, stored in world.named(prefix).items()}) == 1
    anchors = {seen.anchor.digest for seen in await world.chain.anchors(0) if seen.anchor.round == 0}
    assert len(anchors) == 1
    first, last = await world.followed(1)
    assert {entry.public: entry.reason for entry in first.entries} == {identity(name).public: "" for name in MINERS}
    assert (first.kind, last.kind) == (RecordKind.ROUND, RecordKind.CLOSE)


class TestLives:
    """Two lives of a leader, at every point."""

    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("point", POINTS)
    @pytest.mark.parametrize("away", [0, 100], ids=["at once", "when all is due"])
    def test_a_second_life_goes_on_where_the_first_one_died(self, point: str, after: bool, away: int) -> None:
        async def main() -> None:
            world, operation, key = await World.begin(), *POINTS[point]
            with pytest.raises(Died):
                await world.lead(Mortal(Fault("lost" if after else "error", operation, key)))
            if away:
                world.chain.advance(away)
            await world.lead()
            await one_of_each(world)

        play(main())

    @pytest.mark.parametrize("kind", ["error", "lost"])
    @pytest.mark.parametrize("count", [1, 4])
    @pytest.mark.parametrize("point", POINTS)
    def test_what_fails_is_done_again_in_the_same_life(self, point: str, kind: Kind, count: int) -> None:
        async def main() -> None:
            world, operation, key = await World.begin(), *POINTS[point]
            fault = Fault(kind, operation, key, count=count)
            script = Script([fault])
            leader = await world.lead(script)
            assert script.fired[fault] >= (1 if point in ("heads", "made", "anchor") and kind == "lost" else count)
            await one_of_each(world)
            assert leader.judged == 0
            for event in ("sealed", "recorded"):
                assert world.events(event) == [0, 1]

        play(main())

    def test_an_own_anchor_that_may_be_taken_back_decides_nothing(self) -> None:
        """It is of a branch that was left; the round's record is anchored behind it, once, and applied."""

        async def main() -> None:
            world = await World.begin(final_after=50)
            left = Anchor(0, hash32("a record that is nowhere"))
            await world.chain.commit(identity(LEADER), f"mem:{LEADER}", left)
            await world.lead()
            first, second = (seen.anchor for seen in await world.chain.anchors(0) if seen.anchor.round == 0)
            assert (first, second == left) == (left, False)
            assert world.events("applied") == [0, 1]

        play(main())

    @pytest.mark.parametrize("kind", ["missing", "error", "damaged"])
    def test_a_record_that_the_second_life_cannot_see_at_first_is_the_one_that_is_anchored(self, kind: Kind) -> None:
        """Its own would be other bytes than those that the anchor names, and nobody could ever apply the round."""

        async def main() -> None:
            world = await World.begin()
            with pytest.raises(Died):
                await world.lead(Mortal(Fault("error", "chain.commit", "anchor/0")))
            world.chain.advance(5)  # a record made now has other beacons
            blind = Script([Fault(kind, "store.get", "*.made", count=1)])
            await world.lead(blind)
            assert not blind.unfired()
            await one_of_each(world)

        play(main())

    @pytest.mark.parametrize("key", ["*.seal", "*.heads"])
    @pytest.mark.parametrize("kind", ["error", "damaged", "truncated"])
    def test_a_second_life_reads_its_seal_and_heads_until_they_are_whole(self, key: str, kind: Kind) -> None:
        async def main() -> None:
            world = await World.begin()
            with pytest.raises(Died):
                await world.lead(Mortal(Fault("lost", "store.put", "*.seal")))
            script = Script([Fault(kind, "store.get", key, count=3)])
            await world.lead(script)
            assert not script.unfired()
            await one_of_each(world)

        play(main())


class TestLeft:
    """A leader that has gone over to another record: its vote for a round of that past is no record of this one."""

    @pytest.mark.parametrize(("past", "recorded"), [("another", True), ("the same", False), ("not at hand", False)])
    def test_it_records_the_round_unless_it_has(self, past: str, recorded: bool) -> None:
        async def main() -> None:
            before, world = [await World.begin((LEADER, SECOND)) for _ in range(2)]
            await led(before)
            (data,) = next(iter(before.named(paths.records(before.run_id, 0)).values()))
            record, _ = wire.decode_record(data, world.run_id, len(world.tip.layout.shapes))
            parent = hash32("another past") if past == "another" else world.tip.parent
            data = wire.encode_record(
                replace(record, parent=parent, checkpoint=hash32("not this one's")), identity(LEADER)
            )
            left = Anchor(0, wire.digest_of(data))
            if past != "not at hand":
                await world.bucket().put(paths.record(world.run_id, 0, left.digest), data)
            await world.chain.commit(identity(LEADER), f"mem:{LEADER}", left)
            await led(world, patience=0 if recorded else 60)
            anchored = {seen.anchor for seen in await world.chain.anchors(0) if seen.anchor.round == 0}
            assert (len(anchored - {left}) == 1) == recorded

        play(main())


async def led(world: World, patience: int = 0) -> None:
    """Let the leader lead until it has recorded a round, or where there is `patience` for so many blocks."""
    leader, session = world.life()
    async with asyncio.TaskGroup() as tasks:
        beside = [tasks.create_task(each) for each in (world._tick(), world.mine(leader), session.run())]
        begun = world.chain.height
        while world.chain.height < begun + patience if patience else not world.events("recorded"):
            await world.chain.next_block(world.chain.height)
        await world.chain.next_block(world.chain.height)
        for task in beside:
            task.cancel()


class TestSeal:
    """What a seal says of its time."""

    @pytest.mark.parametrize(
        ("operation", "key", "signed"), [("store.put", "*/writable", False), ("store.put_if_absent", "*.heads", True)]
    )
    def test_nothing_is_signed_while_the_bucket_takes_nothing(self, operation: str, key: str, signed: bool) -> None:
        """Nobody answers a seal that is too old; and what has been signed once is never signed again, however old."""

        async def main() -> None:
            world, blocks = await World.begin(), 8
            assert blocks > world.tip.spec.clock.seal_age
            refused = Script([Fault("error", operation, key, blocks=blocks)])
            await world.lead(refused)
            await one_of_each(world)
            seal = (await world.fetched()).seal
            late = seal.block.number - world.tip.opening.min_block
            assert late == 0 if signed else 0 < late <= blocks

        play(main())


class TestOwnWork:
    """A leader knows what it made."""

    def test_nothing_of_its_own_is_read_back_or_judged_again(self) -> None:
        async def main() -> None:
            world, script = await World.begin(), Script()
            leader = await world.lead(script, rounds=2)
            assert leader.judged == 0
            assert script.asked(operation="store.get", sort="bundles.bin") == 0
            assert script.asked(operation="store.get", sort="seals.heads") == 0
            for operation, sort in (("store.list", "seals"), ("store.get", "records.made")):
                assert script.asked(operation=operation, sort=sort) == 3, "whether an earlier life left one, a round"
            for sort in ("seals.seal", "records.rec"):
                assert script.asked(operation="store.get", sort=sort) == 0
            await world.followed(2)

        play(main())

    def test_the_second_life_reads_and_judges_what_is_anchored_already(self) -> None:
        async def main() -> None:
            world = await World.begin()
            with pytest.raises(Died):
                await world.lead(Mortal(Fault("lost", "chain.commit", "anchor/0")))
            leader = await world.lead()
            assert leader.judged == 1
            await one_of_each(world)

        play(main())

    def test_a_checkpoint_is_written_when_it_is_due_and_at_the_end(self) -> None:
        async def main() -> None:
            world = await World.begin(clock={"checkpoint_every": 2})
            await world.lead(rounds=3)
            records = await world.followed(3)
            assert [record.checkpoint != NO_CHECKPOINT for record in records] == [False, False, True, True]
            for round_ in (2, 3):
                assert len(world.stored(paths.checkpoint(world.run_id, round_, paths.MANIFEST))) == 1

        play(main())


class TestClosing:
    """The last record."""

    def test_a_run_of_no_rounds_is_closed_at_once(self) -> None:
        async def main() -> None:
            world = await World.begin()
            await world.lead(rounds=0)
            (record,) = await world.followed(0)
            assert (record.kind, record.entries, record.opening) == (RecordKind.CLOSE, (), None)
            assert asyncio.get_running_loop().time() <= 5 * BLOCK

        play(main())

    def test_it_waits_for_the_last_rounds_scores_and_is_steered_by_none(self) -> None:
        async def main(put: bool) -> int:
            world = await World.begin(gauntlet={"score_wait": 50, "lag": 1})
            publish = asyncio.create_task(publish_scores(world, 0, after=10)) if put else None
            await world.lead(rounds=1)
            first, last = await world.followed(1)
            assert (first.scores, last.scores, last.kind) == ((), (), RecordKind.CLOSE)
            if publish is not None:
                await publish
            return world.chain.height

        assert 10 <= play(main(put=True)) < 20
        assert play(main(put=False)) > 50


async def publish_scores(world: World, round_: int, after: int = 0, invented: int = 0) -> None:
    """Put the leader's operator's scores of a round, once it is recorded and not before a height.

    Alice has 2, bob 1, and then there are peers that nobody knows.
    """
    while world.chain.height < after or (record := world.record_of(round_)) is None:
        await world.chain.next_block(world.chain.height)
    names = (*MINERS, *(f"invented {i}" for i in range(invented)))
    rows = (score_row(name, uid=uid, peer_score=2.0 - (name != MINERS[0])) for uid, name in enumerate(names))
    file = score_file(identity(LEADER), world.run_id, round_, *rows, record=record)
    await world.bucket().put(paths.scores(world.run_id, round_, record), wire.encode_scores(file, identity(LEADER)))


class TestScores:
    """Whose scores steer a round."""

    def test_a_round_waits_for_the_scores_of_lag_rounds_before_and_says_which_it_used(self) -> None:
        async def main() -> None:
            world = await World.begin(gauntlet={"score_wait": 50, "lag": 1})
            publish = asyncio.create_task(publish_scores(world, 0, after=12))
            await world.lead(rounds=2)
            await publish
            first, second, _ = await world.followed(2)
            assert first.scores == ()
            (used,) = second.scores
            assert (used.round, hotkey_of(used.validator)) == (0, identity(LEADER).hotkey)
            assert {row.public: row.score for row in used.rows} == {
                identity(name).public: score for name, score in zip(MINERS, (2.0, 1.0), strict=True)
            }
            assert second.opening is not None
            assert second.opening.open.number >= 12

        play(main())

    def test_peers_that_a_validator_invents_have_no_row(self) -> None:
        async def main() -> None:
            world = await World.begin(data={"slots": 60, "windows": 610})
            publish = asyncio.create_task(publish_scores(world, 0, invented=50))
            await world.lead(rounds=2)
            await publish
            _, second, _ = await world.followed(2)
            assert {row.public for row in second.scores[0].rows} == {identity(name).public for name in MINERS}

        play(main())

    def test_a_leader_that_begins_at_a_checkpoint_is_steered_by_what_was_judged_before_it(self) -> None:
        """With this lag the scores of round 2 steer round 5; the checkpoint is of round 4."""

        async def publish(world: World) -> None:
            for round_ in range(6):
                await publish_scores(world, round_)

        async def main() -> None:
            world = await World.begin(gauntlet={"score_wait": 50, "lag": 3}, clock={"checkpoint_every": 4})
            publishing = asyncio.create_task(publish(world))
            with pytest.raises(Died):
                await world.lead(Mortal(Fault("lost", "chain.commit", "anchor/4")), rounds=6)
            script = Script()
            tip, replica = await bootstrap(world.tip.history, world.context(LEADER, script, world.journal))
            assert tip.round == 4
            await world.lead(script, rounds=6, start=(tip, replica))
            await publishing
            records = await world.followed(6)
            used = [[scores.round for scores in record.scores] for record in records]
            assert used == [[], [], [], [0], [1], [2], []], "the last one closes the run"
            first = max(record.opening.open.number for record in records[:5] if record.opening)
            assert world.chain.height < first + 50, "and no round waited in vain"

        play(main())

    def test_a_validator_without_permit_is_not_waited_for(self) -> None:
        async def main() -> None:
            world = await World.begin(stake=0, gauntlet={"score_wait": 50, "lag": 1})
            assert not any(peer.permit for peer in (await world.chain.snapshot()).peers)
            await world.lead(rounds=2)
            assert world.chain.height < 20

        play(main())


class TestAmendments:
    """What waits in the leader's bucket."""

    async def put(self, world: World, name: str, signer: str, value: int, number: int = 1) -> None:
        made = wire.encode_amendment(identity(signer), world.run_id, number, 4, "clock.deadline", str(value))
        await world.bucket().put(paths.amendments(world.run_id) + name, made)

    def test_the_owners_are_taken_up_once_and_others_never(self) -> None:
        async def main() -> None:
            world = await World.begin()
            await self.put(world, "a", OWNER, 77)
            await self.put(world, "again", OWNER, 76)
            await self.put(world, "0", MINERS[0], 78)
            await self.put(world, "early", OWNER, 79, number=3)
            await world.bucket().put(paths.amendments(world.run_id) + "c", b"rubbish")
            await world.lead(rounds=5)
            records = await world.followed(5)
            assert [len(record.amendments) for record in records] == [1, 0, 0, 0, 0, 0]
            opening = records[3].opening
            assert opening is not None
            assert opening.deadline == opening.open.number + 77

        play(main())

    def test_a_file_that_is_none_and_what_was_taken_up_before_stand_in_nobodys_way(self) -> None:
        async def main() -> None:
            world = await World.begin()
            prefix = paths.amendments(world.run_id)
            await world.bucket().put(prefix + "0", bytes(10_000))
            for i in reversed(range(wire.MAX_AMENDMENTS + 3)):
                await self.put(world, f"a{99 - i}", OWNER, 40 + i, number=1 + i)
            await world.lead(rounds=3)
            records = await world.followed(3)
            assert [len(record.amendments) for record in records] == [wire.MAX_AMENDMENTS, 3, 0, 0]

        play(main())

    def test_a_bucket_that_cannot_be_listed_costs_blocks_only(self) -> None:
        async def main() -> None:
            world = await World.begin()
            await self.put(world, "a", OWNER, 77)
            script = Script(
                [Fault("error", "store.list", count=3), Fault("error", "store.get", "*/amendments/*", count=2)]
            )
            await world.lead(script)
            assert not script.unfired()
            assert [len(record.amendments) for record in await world.followed(1)] == [1, 0]

        play(main())


class TestFollowing:
    """An aggregator that is not in turn."""

    async def follow(self, world: World, script: Script) -> Replica:
        """Lead a run of one round with another aggregator beside it; the other's replica."""
        other, session = world.life(script, name=SECOND)
        following = asyncio.create_task(session.run())
        leader = await world.lead()
        while not other.tip.closed:
            world.chain.advance()
            await asyncio.sleep(BLOCK)
        await following
        assert other.judged == 2
        assert other.replica.root() == leader.replica.root()
        return other.replica

    def test_it_keeps_a_copy_of_every_round(self) -> None:
        async def main() -> None:
            world = await World.begin((LEADER, SECOND))
            await self.follow(world, Script())
            for round_ in range(2):
                for kind in ("seals", "records", "bundles"):
                    prefix = f"{world.run_id.hex()}/{kind}/{round_:08d}-"
                    kept, own = world.named(prefix, SECOND), world.named(prefix)
                    assert {name: set(data) for name, data in kept.items()} == {n: set(d) for n, d in own.items()}
            assert world.named(f"{world.run_id.hex()}/bundles/{0:08d}-")

        play(main())

    @pytest.mark.parametrize("key", ["*.bin", "*.seal", "*.rec"])
    def test_a_copy_that_cannot_be_kept_for_a_round_is_done_without(self, key: str) -> None:
        async def main() -> None:
            world, script = await World.begin((LEADER, SECOND)), Script([Fault("error", "store.put", key)])
            await self.follow(world, script)
            assert not script.unfired()
            assert world.named(paths.records(world.run_id, 0), SECOND) == {}

        play(main())

    @pytest.mark.parametrize("key", ["*.bin", "*.seal", "*.rec"])
    def test_a_copy_that_cannot_be_kept_now_is_kept_at_a_later_block(self, key: str) -> None:
        async def main() -> None:
            world, script = await World.begin((LEADER, SECOND)), Script([Fault("error", "store.put", key, blocks=5)])
            await self.follow(world, script)
            assert not script.unfired()
            for kind in ("seals", "records", "bundles"):
                ((name, kept),) = world.named(f"{world.run_id.hex()}/{kind}/{0:08d}-", SECOND).items()
                assert kept[-1] == world.stored(name)[-1]

        play(main())
