"""Where a newcomer begins: the newest checkpoint that the records pin, however often a read fails on the way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import LEADER, hash32
from ledger_world import World

from muster.lab.faults import Fault
from muster.node.ledger.reader import CatchUp, genesis_tip
from muster.node.replica import Replica
from muster.node.replica.checkpoint import make_checkpoint
from muster.protocol import paths
from muster.protocol.errors import LedgerError, ObjectDamaged, StorageError
from muster.protocol.ledger import Tip


async def ledger_with_checkpoint(*faults: Fault) -> tuple[World, Tip]:
    """Five rounds, a checkpoint of θ before round 2 (in which θ has moved once); the world and the tip it is at."""
    world = await World.begin(*faults)
    await world.close()
    await world.close(())
    tip, replica = world.tip, world.replica
    made = make_checkpoint(replica.theta, tip.layout, tip.run_id, tip.round, replica.outer_step, replica.root())
    for name, data in {**made.shards, paths.MANIFEST: made.manifest}.items():
        await world.bucket.put(paths.checkpoint(tip.run_id, tip.round, name), data)
    await world.close((), checkpoint=made.digest)
    await world.null_rounds(2)
    return world, tip


async def caught_up(world: World, way: CatchUp | None = None) -> tuple[Tip, Replica | None]:
    """Where a newcomer begins."""
    around = world.around()
    store = around.buckets.bucket(f"mem:{LEADER}")
    return await (way or CatchUp(await start_of(world))).go(world.reader(), store)


async def start_of(world: World) -> Tip:
    """The tip the run begins with."""
    return await genesis_tip(world.tip.history, world.chain)


class TestCatchUp:
    """A newcomer begins at the newest checkpoint that the records pin."""

    async def test_begins_at_the_newest_checkpoint(self) -> None:
        world, at = await ledger_with_checkpoint()
        tip, replica = await caught_up(world)
        assert tip == at
        assert replica is not None
        assert (replica.root(), replica.outer_step) == (world.replica.root(), 1)

    async def test_without_a_checkpoint_it_begins_at_the_beginning(self) -> None:
        world = await World.begin()
        await world.close()
        assert await caught_up(world) == (await start_of(world), None)

    async def test_a_closed_run_is_read_to_its_end(self) -> None:
        world, at = await ledger_with_checkpoint()
        await world.close(closing=True)
        assert (await caught_up(world))[0] == at
        assert world.script.asked(sort="records.rec") == 6

    @pytest.mark.parametrize("key", ["*00000003-*.rec", "*manifest.json", "*.safetensors"])
    @pytest.mark.parametrize("kind", ["damaged", "truncated", "error"])
    async def test_what_fails_is_read_again_and_no_record_before_it(self, key: str, kind: str) -> None:
        world, at = await ledger_with_checkpoint(Fault(kind, "store.get", key, count=1))  # type: ignore[arg-type]
        way = CatchUp(await start_of(world))
        with pytest.raises(StorageError):
            await caught_up(world, way)
        assert world.script.unfired() == []
        assert (await caught_up(world, way))[0] == at
        assert world.script.asked(sort="records.rec") == 5 + key.endswith("rec"), "the damaged one twice"

    async def test_a_record_that_does_not_continue_the_ledger_is_the_leaders_fault(self) -> None:
        world = await World.begin()
        written = await world.write(())
        assert written.record.opening is not None
        opening = replace(written.record.opening, deadline=1)
        await world.put(
            world.sign(replace(written.record, opening=opening), written.seal, written.object("seal")[1], b"")
        )
        with pytest.raises(LedgerError, match="not what the rules give"):
            await caught_up(world)

    async def test_a_record_under_anothers_name_is_damaged(self) -> None:
        world = await World.begin()
        first = await world.close(())
        await world.bucket.put(paths.record(world.tip.run_id, 1, hash32("name")), first.object("rec")[1])
        with pytest.raises(ObjectDamaged, match="another record than its name says"):
            await caught_up(world)

    async def test_of_two_records_of_a_round_the_chain_proves_one(self) -> None:
        """An earlier life of the leader left one that was never anchored; it stands beside the one that was."""
        world = await World.begin()
        other = await world.write((), checkpoint=hash32("nothing"))
        await world.put(other)
        await world.close(())
        await world.close(())
        tip, replica = await caught_up(world)
        assert (tip.round, replica) == (0, None), "no checkpoint is pinned by what counts"
        way = CatchUp(await start_of(world))
        await caught_up(world, way)
        assert way.tip == world.tip

    async def test_a_checkpoint_of_another_theta_is_not_begun_from(self) -> None:
        world = await World.begin()
        tip, replica = world.tip, world.replica
        theta = [tensor + 1 for tensor in replica.theta]
        made = make_checkpoint(theta, tip.layout, tip.run_id, 0, 0, replica.root())
        for name, data in {**made.shards, paths.MANIFEST: made.manifest}.items():
            await world.bucket.put(paths.checkpoint(tip.run_id, 0, name), data)
        await world.close((), checkpoint=made.digest)
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
