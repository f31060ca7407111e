"""Joining: on the right chain only, at the newest checkpoint, and through whatever fails on the way."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import torch
from builders import LEADER, checkpoint_of, identity, run_spec
from ledger_world import LEAD, ME, World, drive

from muster.lab import clock
from muster.lab.faults import Fault, Kind
from muster.node.ledger.bootstrap import BOOTSTRAP_TRIES, bootstrap, commit_location
from muster.node.ledger.reader import genesis_tip
from muster.node.replica import Replica
from muster.protocol import paths
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.errors import ConfigError, NotRegistered, RateLimited, StorageError
from muster.protocol.identity import Identity
from muster.protocol.ledger import Tip, tip_info
from muster.protocol.types import Anchor

FULL_BLOCKS = 3 * BOOTSTRAP_TRIES
"""An epoch of Bittensor has seven times as many."""


class Full(VirtualChain):
    """A chain that takes no more commitments of the newcomer's before a block."""

    async def commit(self, hotkey: Identity, location: str, anchor: Anchor | None = None) -> None:
        """Refuse it until then."""
        if hotkey.hotkey == identity(ME).hotkey and self.height < FULL_BLOCKS:
            raise RateLimited(f"it can be committed from about block {FULL_BLOCKS} on")
        await super().commit(hotkey, location, anchor)


async def joined(world: World, name: str = ME, device: torch.device | None = None) -> tuple[Tip, Replica, list[str]]:
    """Join as somebody while blocks come; where it begins, and the journal's events."""
    around = world.around(name)
    async with asyncio.TaskGroup() as tasks:
        driving = tasks.create_task(drive(world))
        tip, replica = await bootstrap(world.tip.history, around, device)
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

    def test_theta_is_where_this_participant_computes(self) -> None:
        """Planted as a device that computes nothing."""

        async def come() -> None:
            world = await World.begin()
            _, replica, _ = await joined(world, device=torch.device("meta"))
            assert replica.device == torch.device("meta")

        clock.run(come())

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

    def test_a_location_waits_for_as_long_as_an_epoch_has_no_room_for_it(self) -> None:
        async def come() -> None:
            world = await World.begin(make=Full)
            await joined(world)
            assert world.chain.height >= FULL_BLOCKS
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
