"""Where a newcomer begins: the newest checkpoint that the records pin, however often a read fails on the way."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
from builders import LEADER, checkpoint_of, hash32, theta
from ledger_world import World

from muster.lab.faults import Fault
from muster.node.ledger.catch_up import CatchUp
from muster.node.ledger.reader import genesis_tip
from muster.node.replica import Replica
from muster.protocol import paths
from muster.protocol.errors import LedgerError, ObjectDamaged, StorageError
from muster.protocol.ledger import Tip, tip_info


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
