"""A miner of a run with a delay goes on when its submission is made, and lets go when θ is to move."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest
from builders import theta
from miner_world import SPEC, World, next_round, open_tip

from muster.node.ledger.participant import Errands
from muster.node.miner import Miner, stages
from muster.node.miner.engine import Diverged
from muster.node.miner.stages import Stages, Task
from muster.node.replica import Replica
from muster.protocol.errors import ChainUnreachable
from muster.protocol.faults import Faults
from muster.protocol.spec import RunSpec
from muster.protocol.storage.thread import in_thread

DELAYED: RunSpec = SPEC.model_copy(update={"clock": SPEC.clock.model_copy(update={"delay": 1})})
HELD = Replica(SPEC.model, open_tip(0, DELAYED).run_id, theta(), 0)


class Seen:
    """Stages that note which rounds are trained ahead."""

    def __init__(self) -> None:
        self.ahead: list[int] = []
        self.stages = Stages(ahead=self._ahead)

    def _ahead(self, task: Task, windows: list[int]) -> None:
        self.ahead.append(task.tip.round)
        stages.train_ahead(task, windows)


async def during(miner: Miner, work: Callable[[], Awaitable[None]], world: World) -> None:
    """A round of a session: what is done beside it ends with it."""
    async with asyncio.TaskGroup() as tasks:
        errands = Errands(tasks, world.chain)
        miner.begin(errands)
        await work()
        for _ in range(16):
            await asyncio.sleep(0)
        errands.cancel()


async def test_once_the_submission_is_made_it_trains_for_the_next_round() -> None:
    world, seen = await World.begin(), Seen()
    miner = world.miner(stages=seen.stages, spec=DELAYED, replica=HELD)
    await during(miner, miner.train, world)
    assert seen.ahead == [1]
    await next_round(miner)
    await during(miner, miner.train, world)
    assert seen.ahead == [1, 2]
    assert world.events("trained") == world.events("submitted") == [0, 1]


async def test_without_a_delay_it_does_not() -> None:
    world, seen = await World.begin(), Seen()
    miner = world.miner(stages=seen.stages)
    await during(miner, miner.train, world)
    assert seen.ahead == []


async def test_called_again_it_sends_again_and_is_ahead_once() -> None:
    world, seen = await World.begin(), Seen()
    miner = world.miner(stages=seen.stages, spec=DELAYED, replica=HELD)

    async def twice() -> None:
        await miner.train()
        await miner.train()

    await during(miner, twice, world)
    assert seen.ahead == [1]


async def test_who_sits_the_next_round_out_does_nothing_for_it() -> None:
    world, seen = await World.begin(), Seen()
    miner = world.miner(stages=seen.stages, spec=DELAYED, replica=HELD)
    miner.sits_out = lambda round_: round_ == 1
    await during(miner, miner.train, world)
    assert seen.ahead == []


async def test_no_windows_are_no_work_ahead() -> None:
    world, ahead = await World.begin(), []
    how = Stages(
        windows=lambda task: stages.assigned_windows(task) if task.tip.round == 0 else [],
        ahead=lambda *what: ahead.append(what),
    )
    miner = world.miner(stages=how, spec=DELAYED, replica=HELD)
    await during(miner, miner.train, world)
    assert world.events("submitted") == [0]
    assert ahead == []


@pytest.mark.parametrize("trouble", ["chain", "training"])
async def test_what_fails_ahead_costs_nothing_but_the_time(trouble: str) -> None:
    world = await World.begin()

    def diverging(_task: Task, _windows: list[int]) -> None:
        raise Diverged("not finite")

    how = Stages(ahead=diverging) if trouble == "training" else Stages()
    miner = world.miner(stages=how, spec=DELAYED, replica=HELD)

    async def failing() -> None:
        await miner.train()
        if trouble == "chain":
            world.chain.snapshot_errors.append(ChainUnreachable("away"))

    await during(miner, failing, world)
    assert world.chain.snapshot_errors == []
    await next_round(miner)
    await during(miner, miner.train, world)
    assert world.events("submitted") == [0, 1]
    assert world.events("lost") == []


@pytest.mark.timeout(120)
async def test_it_has_let_go_of_theta_when_that_is_to_move_and_goes_on_from_there() -> None:
    """In threads, as in a daemon: the record comes while a step is taken."""
    world, faults, taken = await World.begin(), Faults(), []
    ahead_now, begun, go_on = threading.Event(), threading.Event(), threading.Event()

    def trip(_name: str) -> None:
        if ahead_now.is_set():
            begun.set()
            assert go_on.wait(60)

    def ahead(task: Task, windows: list[int]) -> None:
        ahead_now.set()
        stages.train_ahead(task, windows)
        ahead_now.clear()
        assert task.ahead is not None
        assert task.ahead._done is not None
        taken.append(task.ahead._done.delta.steps)

    faults.trip = trip  # type: ignore[method-assign]
    miner = world.miner(stages=Stages(ahead=ahead), spec=DELAYED, replica=HELD, offload=in_thread, faults=faults)
    async with asyncio.TaskGroup() as tasks:
        errands = Errands(tasks, world.chain)
        miner.begin(errands)
        await miner.train()
        await asyncio.to_thread(begun.wait, 60)
        stopping = asyncio.create_task(miner.stop_training())
        await asyncio.sleep(0)
        assert not stopping.done()
        go_on.set()
        await stopping
        errands.cancel()
    assert taken == [1]
    await next_round(miner)
    await during(miner, miner.train, world)
    assert world.events("submitted") == [0, 1]
