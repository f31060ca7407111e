"""Whole runs with a delay: miners train on while a round closes, and everything else is as in any run."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import pytest
from run_builders import Ledger, MakeStage, Stage, genesis_without, play

from muster.audit import Auditor
from muster.lab.simulator import SimulatedRun
from muster.node.miner import local_miner, stages
from muster.node.miner.ahead import Ahead
from muster.node.miner.engine import Delta
from muster.node.miner.stages import Stages, Task
from muster.node.telemetry.events import Joined

ROUNDS = 6
DELAYED = {"delay": 1}


@pytest.fixture(scope="module")
def delayed(stage: MakeStage) -> tuple[Stage, SimulatedRun]:
    """Four miners, one of whom joins in round 3, from the checkpoint of round 2."""
    made = stage(miners=4, clock=DELAYED)
    newcomer = made.member("miner-3").hotkey
    return made, play(made, ROUNDS, genesis_without(made.spec, newcomer), arrivals={"miner-3": 3})


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
    assert report.ok, report.faults
    assert report.closed
