"""Whole runs with a delay: miners train on while a round closes, and everything else is as in any run."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nano_stage import BLOCK, NanoStage, Setting
from run_builders import Ledger, MakeStage, Stage, play

from muster.audit import Auditor
from muster.lab import clock
from muster.lab.adversary.leaders import TWICE, EquivocatorAtOnce
from muster.lab.faults import Fault, Script
from muster.lab.nano import counting_miner
from muster.lab.simulator import SimulatedRun, Simulator
from muster.node.context import Context
from muster.node.data.dataset import TextReader
from muster.node.miner import Memory, Miner, stages
from muster.node.miner.engine import Delta, Job, ThetaView
from muster.node.miner.inner import LocalEngine
from muster.node.miner.stages import Stages, Task
from muster.node.replica import Replica
from muster.node.telemetry.events import Applied, Joined, Scored, Undone
from muster.protocol.ledger import Tip

ROUNDS = 6
DELAYED = {"delay": 1}
SIBLINGS = {"min_blocks": 3, "deadline": 8, "reveal": 8, "grace": 3, "seal_age": 1, "evaluate": 2, **DELAYED}


@pytest.fixture(scope="module")
def delayed(stage: MakeStage) -> tuple[Stage, SimulatedRun]:
    """Four miners, one of whom joins in round 3, from the checkpoint of round 2."""
    made = stage(miners=4, clock=DELAYED)
    return made, play(made, ROUNDS, arrivals={"miner-3": 3})


def test_every_replica_has_the_same_root_and_all_work_is_accepted(delayed: tuple[Stage, SimulatedRun]) -> None:
    made, run = delayed
    assert len(set(run.state_roots)) == ROUNDS
    for round_ in range(ROUNDS):
        assert Ledger(run).opening(round_).base_round == max(round_ - 1, 0)
        assert set(Ledger(run).reasons(made.roster, round_).values()) == {""}
    assert run.losses[-1] < run.losses[0] - 0.3


def test_a_newcomer_shows_possession_of_a_theta_that_it_never_held(delayed: tuple[Stage, SimulatedRun]) -> None:
    made, run = delayed
    (joined,) = run.events("miner-3", Joined)
    assert joined.round == 2
    assert Ledger(run).reasons(made.roster, 3)["miner-3"] == ""


@pytest.mark.parametrize("first_round", [None, 2, 4])
def test_the_audit_passes(delayed: tuple[Stage, SimulatedRun], first_round: int | None) -> None:
    made, run = delayed
    report = asyncio.run(Auditor(made.run, run.chain, run.buckets, lambda _line: None).audit(first_round))
    report.raise_fault()
    assert report.state_roots == run.state_roots[first_round or 0 :]
    assert report.closed


def test_a_null_round_is_a_base_like_any_other(stage: MakeStage) -> None:
    made = stage(clock=DELAYED | {"min_submissions": 2})
    run = play(made, 5, absent=lambda name, round_: round_ == 1 and name != "miner-0")
    assert run.state_roots[1] == run.state_roots[0] != run.state_roots[2]
    for round_ in range(2, 5):
        assert set(Ledger(run).reasons(made.roster, round_).values()) == {""}


def halfway(task: Task, windows: list[int]) -> None:
    """As if the record came while the second step was taken."""
    asked = iter((False, True))
    one = replace(task, stop=threading.Event())
    one.stop.is_set = lambda: next(asked)  # type: ignore[method-assign]
    stages.train_ahead(one, windows)


def test_whatever_has_been_done_when_the_record_comes_is_gone_on_with(stage: MakeStage) -> None:
    """Two steps of three; the tokens are those of whole rounds."""
    left: list[tuple[int, int]] = []

    class Counting(LocalEngine):
        def run(self, theta: ThetaView, job: Job, *how: Any, **more: Any) -> Delta:
            delta = super().run(theta, job, *how, **more)
            left.append((job.round, delta.steps))
            return delta

    def counting(context: Context, tip: Tip, replica: Replica, text: TextReader, memory: Memory | None) -> Miner:
        engine = Counting(tip.spec.model, tip.spec.inner)
        return Miner(context, tip, replica, text, memory, engine, Stages(ahead=halfway))

    made = stage(clock=DELAYED, miners=2)
    run = play(made, 4, makers=lambda _behaviour: counting)
    assert [steps for round_, steps in left if round_ == 0] == [3, 3]
    for round_ in range(1, 4):
        assert sorted(steps for of, steps in left if of == round_) == [1, 1, 2, 2]
    windows = made.spec.inner.steps * made.spec.inner.batch
    rows = [row for scored in run.events("validator-0", Scored) for row in scored.peers]
    assert {row.windows for row in rows} == {windows}
    assert len(set(run.state_roots)) == 4
    assert run.losses[-1] < run.losses[0]


@pytest.mark.parametrize("block", [7, 10])
def test_a_run_that_was_stopped_goes_on(tmp_path: Path, block: int) -> None:
    """Everybody is killed in the middle and comes back; miners with what they made, and nothing done ahead."""
    made = NanoStage.lay(Setting("restarted", DELAYED, 4), tmp_path / "run")
    simulator = Simulator(
        made.roster,
        made.spec,
        made.text,
        makers=lambda _: counting_miner,
        block_seconds=BLOCK,
        folder=tmp_path,
    )

    async def twice() -> SimulatedRun:
        first = asyncio.create_task(simulator.run(ROUNDS))
        await simulator.chain.next_block(block)
        first.cancel()
        await asyncio.wait({first})
        return await simulator.run(ROUNDS)

    run = clock.run(twice())
    assert len({participant.replica.root() for participant in run.participants.values()}) == 1
    accepted = {len(event.accepted) for event in run.events("aggregator-0", Applied) if event.kind == "round"}
    assert accepted == {2}


def test_who_takes_a_record_back_proves_possession_of_the_theta_before_it(tmp_path: Path) -> None:
    made = NanoStage.lay(Setting("siblings", SIBLINGS, 4, leader=EquivocatorAtOnce, final_after=30), tmp_path)
    blind = Fault("missing", "store.get", f"*/bundles/{TWICE:08d}-*", who="miner-0", count=1)
    script = Script([blind])
    run = made.play(script, 4)
    assert script.unfired() == []
    assert [event.round for event in run.events("miner-0", Undone)] == [TWICE]
    assert run.state_roots
    for event in run.events("aggregator-0", Applied):
        assert not any("possession" in reason for reason in event.rejected.values())
    assert [len(event.accepted) for event in run.events("aggregator-0", Applied)] == [2, 1, 2, 2, 0]
