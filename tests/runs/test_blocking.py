"""Nothing a daemon does blocks its event loop: real store and chain on disk, work in threads, blockbuster watching."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path

import pytest
from blockbuster import BlockingError, blockbuster_ctx
from run_builders import MakeStage, Stage

from muster.node.context import Context, Offload, in_place
from muster.node.ledger.bootstrap import bootstrap
from muster.node.ledger.participant import Follower
from muster.node.ledger.session import Session
from muster.node.miner import Memory, local_miner
from muster.node.telemetry.journal import Journal
from muster.protocol.storage.thread import in_thread
from muster.protocol.types import Role
from muster.run.daemon import label
from muster.validator.aggregator.aggregator import Aggregator
from muster.validator.gauntlet.score_store import ScoreStore
from muster.validator.gauntlet.validator import Validator

ROOT = Path(__file__).parents[2]
ROUNDS = 2


async def test_a_whole_run_never_blocks_the_loop(stage: MakeStage) -> None:
    lives = await _watched(stage, in_thread)
    assert len({life.replica.root() for life in lives}) == 1
    assert lives[0].replica.outer_step == ROUNDS


async def test_work_that_is_not_in_a_thread_is_caught(stage: MakeStage) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await _watched(stage, in_place)
    assert caught.group_contains(BlockingError)


@pytest.mark.parametrize("room", ["kernels", "protocol", "node", "validator"])
async def test_a_blocking_call_in_any_room_is_caught(room: str) -> None:
    path = str(importlib.import_module(f"muster.{room}").__file__)
    with blockbuster_ctx(scanned_modules=["muster"]):
        with pytest.raises(BlockingError):
            exec(compile("import time; time.sleep(0)", path, "exec"))
        # What was imported under the room's old name would not be seen.
        exec(compile("import time; time.sleep(0)", str(ROOT / room / "__init__.py"), "exec"))


async def _watched(stage: MakeStage, offload: Offload) -> list[Follower]:
    """A run of two rounds in this process, with blockbuster watching; everybody at its end."""
    made = await asyncio.to_thread(stage, miners=2, clock={"deadline": 400, "reveal": 200, "touch": 700})
    operator, *miners = made.roster.members
    for member in made.roster.members:
        chain = made.run.chain()
        await chain.register(member.identity)
        await chain.close()
    roles = [(Role.AGGREGATOR, operator.name), (Role.VALIDATOR, operator.name)]
    roles += [(Role.MINER, miner.name) for miner in miners]
    with blockbuster_ctx(scanned_modules=["muster"]):
        async with asyncio.TaskGroup() as tasks:
            lives = [tasks.create_task(_live(made, role, name, offload)) for role, name in roles]
    return [life.result() for life in lives]


async def _live(stage: Stage, role: Role, name: str, offload: Offload) -> Follower:
    """What the daemon does, in this process."""
    member = stage.member(name)
    chain, buckets = stage.run.chain(), stage.run.buckets(f"dir:{name}")
    journal = await asyncio.to_thread(Journal, stage.run.journal(label(role, name)))
    context = Context(member.identity, chain, buckets, f"dir:{name}", journal, offload)
    tip, replica = await bootstrap(stage.run.history, context)

    def make() -> Follower:
        state = stage.run.state(label(role, name))
        state.mkdir()
        if role is Role.AGGREGATOR:
            return Aggregator(context, tip, replica, ROUNDS)
        if role is Role.VALIDATOR:
            return Validator(context, tip, replica, stage.text, ScoreStore(state / "scores.sqlite"))
        return local_miner(context, tip, replica, stage.text, Memory(state / "memory.safetensors"))

    participant = await asyncio.to_thread(make)
    await Session(participant, chain, context.directory).run()
    await chain.close()
    return participant
