"""A leader that signs two records of one round: who stood on the wrong one takes it back, and nothing is left of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from late_runs import ComesLate
from nano_stage import BLOCK, STUCK, NanoStage, Setting

from muster.lab import clock
from muster.lab.adversary.leaders import TWICE, EquivocatorAtOnce
from muster.lab.faults import Fault, Script
from muster.lab.simulator import SimulatedRun
from muster.node.telemetry.events import Applied, Undone

CLOCK = {"min_blocks": 3, "deadline": 8, "reveal": 8, "grace": 3, "seal_age": 1, "evaluate": 2}
ROUNDS, FINAL_AFTER = 4, 30


def play(folder: Path, misled: str = "") -> SimulatedRun:
    """A run; whoever is `misled` finds the bundle of the record that stands missing at first."""
    stage = NanoStage.lay(Setting("siblings", CLOCK, 4, leader=EquivocatorAtOnce, final_after=FINAL_AFTER), folder)
    blind = Fault("missing", "store.get", f"*/bundles/{TWICE:08d}-*", who=misled, count=1)
    script = Script([blind] if misled else [])
    run = stage.play(script, ROUNDS)
    assert script.unfired() == []
    return run


@pytest.mark.parametrize("misled", ["miner-0", "validator-0"])
def test_it_is_as_if_there_had_been_one(misled: str, tmp_path: Path) -> None:
    """Who had the one that does not stand first has, after it, the very θ of those who never had it. Of the two, which
    are anchored in one block, the newest is the leader's vote."""
    run, seen_by_all = play(tmp_path / "misled", misled), play(tmp_path / "not misled")
    assert run.state_roots == seen_by_all.state_roots
    for name in run.participants:
        accepted = [len(event.accepted) for event in run.events(name, Applied)]
        assert accepted == [2] * (2 if name == misled else 1) + [1] + [2] * (ROUNDS - 2) + [0]
    first, _second = (seen.anchor for seen in asyncio.run(run.chain.anchors(TWICE)) if seen.anchor.round == TWICE)
    for name in run.participants:
        taken_back = [(event.round, event.record) for event in run.events(name, Undone)]
        assert taken_back == ([(TWICE, first.digest.hex())] if name == misled else [])


def test_late_work_is_open_again_where_the_record_that_took_it_in_is_taken_back(tmp_path: Path) -> None:
    """Both records take in what came late for the round before. In the one that stands somebody more is late: the next
    takes that in, too, once."""
    ages, lag = (0.5, 0.25), 8
    leader, misled = EquivocatorAtOnce, "validator-0"
    setting = Setting("late", CLOCK, 4, leader=leader, final_after=FINAL_AFTER, ages=ages, lag=lag, miners=3)
    stage, script = NanoStage.lay(setting, tmp_path), ComesLate("miner-1", since=0)
    script.faults += (Fault("missing", "store.get", f"*/bundles/{TWICE:08d}-*", who=misled, count=1),)
    simulator = stage.simulator(script)
    script.open_round = lambda: simulator.participants["miner-1"].tip.round
    run = clock.run(simulator.run(ROUNDS), STUCK * BLOCK)
    assert script.unfired() == []
    assert len(run.state_roots) == ROUNDS
    stood = [(2, 0), (1, 1), (2, 2), (2, 1), (0, 0)]
    for name in run.participants:
        accepted = [(len(event.accepted), len(event.late)) for event in run.events(name, Applied)]
        assert accepted == ([stood[0], (2, 1), *stood[1:]] if name == misled else stood)
        assert [event.round for event in run.events(name, Undone)] == ([TWICE] if name == misled else [])
