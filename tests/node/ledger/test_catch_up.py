"""Where a newcomer begins: the newest checkpoint that the records pin, however often a read fails on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from unittest.mock import patch

import pytest
from builders import OWNER, checkpoint_of, hash32, identity, run_spec, theta
from ledger_world import NewestOnly, World

from muster.lab.faults import Fault
from muster.node.ledger.catch_up import CatchUp
from muster.node.ledger.reader import genesis_tip
from muster.node.replica import Replica
from muster.protocol import paths, wire
from muster.protocol.errors import LedgerError, ObjectDamaged, StorageError
from muster.protocol.ledger import Tip, tip_info
from muster.protocol.spec.history import SpecHistory
from muster.protocol.types import Anchor


async def ledger_with_checkpoint(*faults: Fault) -> tuple[World, Tip]:
    """Five rounds, a checkpoint of θ before round 2 (in which θ has moved once); the world and the tip it is at."""
    world = await World.begin(*faults)
    await world.close()
    await world.close(())
    tip, replica = world.tip, world.replica
    files, digest = checkpoint_of(replica, tip.round, tip=tip_info(tip))
    for name, data in files.items():
        await world.bucket.put(paths.checkpoint(tip.run_id, tip.round, name), data)
    await world.close((), checkpoint=digest)
    await world.null_rounds(2)
    return world, tip


async def caught_up(world: World, way: CatchUp | None = None) -> tuple[Tip, Replica | None]:
    """Where a newcomer begins."""
    return await (way or CatchUp(await start_of(world))).go(world.reader())


async def start_of(world: World) -> Tip:
    """The tip the run begins with."""
    return await genesis_tip(SpecHistory.of(world.tip.history.genesis), world.chain)


class TestCatchUp:
    """A newcomer begins at the newest checkpoint that the records pin."""

    async def test_begins_at_the_newest_checkpoint(self) -> None:
        world, at = await ledger_with_checkpoint()
        tip, replica = await caught_up(world)
        assert tip == at
        assert replica is not None
        assert (replica.root(), replica.outer_step) == (world.replica.root(), 1)
        assert world.script.asked(sort="records.rec") == 4, "back to the pinning one, the one before it, and no further"

    async def test_a_record_that_is_not_anchored_yet_counts_for_nothing(self) -> None:
        world, at = await ledger_with_checkpoint()
        made = await world.write((), checkpoint=bytes(range(32)))
        await world.put(made)
        assert (await caught_up(world))[0] == at

    async def test_without_a_checkpoint_it_begins_at_the_beginning(self) -> None:
        world = await World.begin()
        await world.close()
        assert await caught_up(world) == (await start_of(world), None)

    async def test_a_closed_run_is_read_to_its_end(self) -> None:
        world, at = await ledger_with_checkpoint()
        await world.close(closing=True)
        assert (await caught_up(world))[0] == at
        assert world.script.asked(sort="records.rec") == 5

    @pytest.mark.parametrize("key", ["*00000003-*.rec", "*manifest.json", "*.safetensors"])
    @pytest.mark.parametrize("kind", ["damaged", "truncated", "error"])
    async def test_what_fails_is_read_again_and_no_record_before_it(self, key: str, kind: str) -> None:
        world, at = await ledger_with_checkpoint(Fault(kind, "store.get", key, count=1))  # type: ignore[arg-type]
        way = CatchUp(await start_of(world))
        with pytest.raises(StorageError):
            await caught_up(world, way)
        assert world.script.unfired() == []
        assert (await caught_up(world, way))[0] == at
        again = 1 if key.endswith(".rec") else 0
        assert world.script.asked(sort="records.rec") == 4 + again, "none twice but the one that failed"

    async def test_a_record_under_another_rounds_anchor_is_the_leaders_fault(self) -> None:
        world = await World.begin()
        first = await world.close(())
        await world.bucket.put(paths.record(world.tip.run_id, 1, first.digest), first.object("rec")[1])
        await world.anchor(first)
        with pytest.raises(LedgerError, match="it is the record of round 0"):
            await caught_up(world)

    async def test_a_checkpoint_of_another_tip_is_not_begun_from(self) -> None:
        """Its θ is right, and who begins with it would expect and seat other peers than everybody else."""
        world = await World.begin()
        await world.close()
        tip, replica = world.tip, world.replica
        stranger = replace(tip, past=tip.past[-1:])
        files, digest = checkpoint_of(replica, tip.round, tip=tip_info(stranger))
        for name, data in files.items():
            await world.bucket.put(paths.checkpoint(tip.run_id, tip.round, name), data)
        await world.close((), checkpoint=digest)
        with pytest.raises(LedgerError, match="opens the round for"):
            await caught_up(world)

    async def test_a_record_under_anothers_name_is_damaged(self) -> None:
        world = await World.begin()
        first = await world.close(())
        await world.bucket.put(paths.record(world.tip.run_id, 1, hash32("name")), first.object("rec")[1])
        await world.anchor(replace(first, digest=hash32("name")))
        with pytest.raises(ObjectDamaged, match="not the record that is anchored"):
            await caught_up(world)

    async def test_of_two_records_of_a_round_the_chain_proves_one(self) -> None:
        """An earlier life of the leader left one that was never anchored; it stands beside the one that was."""
        world = await World.begin()
        other = await world.write((), checkpoint=hash32("nothing"))
        await world.put(other)
        await world.close(())
        await world.close(())
        way = CatchUp(await start_of(world))
        assert await caught_up(world, way) == (way.start, None), "no checkpoint is pinned by what counts"

    async def test_a_checkpoint_of_another_theta_is_not_begun_from(self) -> None:
        world = await World.begin()
        tip = world.tip
        other = Replica(tip.spec.model, tip.run_id, [tensor + 1 for tensor in theta()], 0)
        with patch.object(other, "root", world.replica.root):
            files, digest = checkpoint_of(other, 0, tip=tip_info(tip))
        for name, data in files.items():
            await world.bucket.put(paths.checkpoint(tip.run_id, 0, name), data)
        await world.close((), checkpoint=digest)
        with pytest.raises(LedgerError, match="does not have the recorded state root"):
            await caught_up(world)

    async def test_a_shard_is_read_to_the_size_its_manifest_pins(self) -> None:
        world, _ = await ledger_with_checkpoint()
        (shard,) = [
            info.key for info in await world.bucket.list() if "checkpoints" in info.key and info.key.endswith("tensors")
        ]
        await world.bucket.put(shard, await world.bucket.get(shard, max_bytes=2**24) + b"x")
        with pytest.raises(StorageError, match="more than the"):
            await caught_up(world)


FIRST, SECOND, THIRD = LIST = ("leader", "second", "third")


async def save(world: World, *names: str) -> bytes:
    """The checkpoint of θ where the ledger stands, in the buckets of these; what a record pins of it."""
    tip = world.tip
    files, digest = checkpoint_of(world.replica, tip.round, tip=tip_info(tip))
    for owner in names or world.leaders:
        for name, data in files.items():
            await world.bucket_of(owner).put(paths.checkpoint(tip.run_id, tip.round, name), data)
    return digest


async def listed(leaders: tuple[str, ...], *faults: Fault, after: int = 4) -> tuple[World, Tip]:
    """Work in round 0, a checkpoint before round 1, and some rounds after its record, on a chain that shows newest
    anchors only; the world and the checkpoint's tip."""
    world = await World.begin(*faults, leaders=leaders, make=NewestOnly)
    await world.close()
    tip = world.tip
    await world.close((), checkpoint=await save(world))
    await world.null_rounds(after)
    return world, tip


class TestLists:
    """Of several aggregators each keeps the ledger, and what more than half of them stand on counts."""

    @pytest.mark.parametrize("leaders", [LIST[:2], LIST])
    async def test_begins_where_all_stand(self, leaders: tuple[str, ...]) -> None:
        world, at = await listed(leaders)
        tip, replica = await caught_up(world)
        assert tip == at
        assert replica is not None
        assert replica.root() == world.replica.root()

    @pytest.mark.parametrize("key", ["*.rec", "*manifest.json", "*.safetensors"])
    @pytest.mark.parametrize("kind", ["damaged", "truncated", "error", "missing"])
    async def test_damaged_mirrors_among_good_ones_are_passed_over(self, key: str, kind: str) -> None:
        """Of three buckets one is good; nothing fails and nothing is tried again at a later block."""
        faults = [Fault(kind, "store.get", key, owner=name) for name in (FIRST, SECOND)]  # type: ignore[arg-type]
        world, at = await listed(LIST, *faults)
        tip, replica = await caught_up(world)
        assert world.script.unfired() == []
        assert tip == at
        assert replica is not None
        assert replica.root() == world.replica.root()

    async def test_whose_bucket_is_gone_is_done_without(self) -> None:
        world, at = await listed(LIST[:2])
        await world.chain.commit(identity(FIRST), "ftp://nowhere", Anchor(world.tip.round - 1, world.tip.parent))
        assert (await caught_up(world))[0] == at

    @pytest.mark.parametrize(("leaders", "behind"), [(LIST[:2], 1), (LIST[:2], 2), (LIST, 1), (LIST, 2)])
    async def test_a_checkpoint_that_is_too_new_waits_for_the_next_rounds(
        self, leaders: tuple[str, ...], behind: int
    ) -> None:
        """It counts once what they stand on is two rounds newer than the record that pins it."""
        world, at = await listed(leaders, after=2)
        newer = world.tip
        await world.close((), checkpoint=await save(world))
        await world.null_rounds(behind)
        assert (await caught_up(world))[0] == (newer if behind == 2 else at)

    async def test_a_liar_s_anchor_far_ahead_decides_nothing(self) -> None:
        world, at = await listed(LIST)
        await world.chain.commit(identity(SECOND), f"mem:{SECOND}", Anchor(10**12, hash32("nothing")))
        assert (await caught_up(world))[0] == at

    async def test_a_liar_s_own_checkpoint_is_not_begun_from(self) -> None:
        """A record of its own, later than everybody's, that pins a θ of its own: only it stands there."""
        world, at = await listed(LIST)
        tip = world.tip
        lie = await world.write((), checkpoint=hash32("another theta"))
        await world.put(lie, FIRST)
        await world.anchor(lie, FIRST)
        for number in (1, 2, 3):
            data = replace(lie.record, round=tip.round + number, parent=lie.digest, checkpoint=bytes(32))
            lie = world.sign(data, lie.seal, lie.object("seal")[1], b"")
            await world.bucket_of(FIRST).put(
                paths.record(tip.run_id, tip.round + number, lie.digest), lie.object("rec")[1]
            )
        await world.chain.commit(identity(FIRST), f"mem:{FIRST}", Anchor(tip.round + 3, lie.digest))
        assert (await caught_up(world))[0] == at

    async def test_siblings_at_the_end_lead_back_to_one(self) -> None:
        """Of two each stands on a record of its own of the newest round: what is before both is agreed."""
        world, at = await listed(LIST[:2])
        for name, turn in ((FIRST, 0), (SECOND, 1)):
            own = await world.write((), turn=turn)
            await world.put(own, name)
            await world.anchor(own, name)
        assert (await caught_up(world))[0] == at

    async def test_while_too_few_can_be_led_back_nothing_is_begun(self) -> None:
        """Two stand on different rounds, and the later record, which would prove the earlier one, is not to be had."""
        fault = Fault("missing", "store.get", "*00000006-*.rec", count=1)
        world, at = await listed(LIST[:2], fault)
        await world.close((), by=(FIRST,))
        way = CatchUp(await start_of(world))
        with pytest.raises(StorageError, match="there is no object"):
            await caught_up(world, way)
        assert world.script.unfired() == []
        assert (await caught_up(world, way))[0] == at

    async def test_who_is_long_out_of_touch_is_not_waited_for(self) -> None:
        """Of two one has died for good: what it last stood on is older than every checkpoint that is still served."""
        world, _ = await listed(LIST[:2], after=0)
        clock = world.tip.spec.clock
        rounds = clock.touch // clock.shortest + 3
        for _ in range(rounds):
            await world.close((), by=(FIRST,))
        newer = world.tip
        await world.close((), by=(FIRST,), checkpoint=await save(world, FIRST))
        for _ in range(2):
            await world.close((), by=(FIRST,))
        assert (await caught_up(world))[0] == newer


AMENDED = 2
"""The round from which on the list is three."""


async def grown(after: int) -> tuple[World, Tip]:
    """A run that one led when it began, and three lead from round 2 on; a checkpoint before round 4, and so many rounds
    after its record. The world and the checkpoint's tip."""
    spec = run_spec(
        clock={"reveal": 8, "amend_delay": 1},
        genesis={"leaders": (identity(FIRST).hotkey,)},
        data={"slots": 3 + len(LIST)},
    )
    world = await World.begin(leaders=LIST, make=NewestOnly, spec=spec)
    value = json.dumps([identity(name).hotkey for name in LIST])
    data = wire.encode_amendment(identity(OWNER), world.tip.run_id, 1, AMENDED, "genesis.leaders", value)
    await world.close((), amendments=(data,))
    await world.null_rounds(3)
    tip = world.tip
    await world.close((), checkpoint=await save(world))
    await world.null_rounds(after)
    return world, tip


class TestAmendedList:
    """Whose word counts, the checkpoint's own list says."""

    async def test_begins_where_the_list_stands_that_is_in_force(self) -> None:
        world, at = await grown(after=2)
        assert len(at.leaders) == len(LIST)
        assert (await caught_up(world))[0] == at

    async def test_the_first_leader_alone_is_not_enough_any_more(self) -> None:
        """It goes on by itself from a checkpoint that nobody else pins: who comes begins where the others stand."""
        world, at = await grown(after=2)
        lie = await world.write((), checkpoint=await save(world, FIRST))
        await world.close((), by=(SECOND, THIRD), turn=1)
        await world.put(lie, FIRST)
        await world.chain.commit(identity(FIRST), f"mem:{FIRST}", Anchor(lie.record.round, lie.digest))
        way = CatchUp(await start_of(world))
        with pytest.raises(StorageError, match="do not stand on it yet"):
            await caught_up(world, way)
        assert (await caught_up(world, way))[0] == at
