"""A leader that signs two records of one round: who stood on the wrong one takes it back, and the run is as without."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from nano_stage import NanoStage, Setting

from muster.lab.adversary.leaders import TWICE, Equivocator
from muster.lab.faults import Fault, Script
from muster.lab.simulator import SimulatedRun
from muster.node.telemetry.events import Applied, Undone
from muster.validator.aggregator.aggregator import Aggregator

CLOCK = {"min_blocks": 3, "deadline": 8, "reveal": 8, "grace": 3, "seal_age": 1, "evaluate": 2}
ROUNDS, FINAL_AFTER = 4, 30


def play(folder: Path, leader: type[Aggregator], misled: str = "") -> SimulatedRun:
    """A run; whoever is `misled` finds the record that the others stand on missing when it looks for it, and once more."""
    stage = NanoStage.lay(Setting("siblings", CLOCK, 4, leader=leader, final_after=FINAL_AFTER), folder)
    blind = Fault("missing", "store.get", f"*/records/{TWICE:08d}-*", who=misled, count=2)
    script = Script([blind] if misled else [])
    run = stage.play(script, ROUNDS)
    assert script.unfired() == []
    return run


@pytest.mark.parametrize("misled", ["miner-0", "validator-0"])
def test_it_is_as_if_there_had_been_one(misled: str, tmp_path: Path) -> None:
    """Everybody is accepted in every round, those after it included, and θ is that of a run with an honest leader."""
    honest = play(tmp_path / "honest", Aggregator)
    run = play(tmp_path / "lying", Equivocator, misled)
    assert run.state_roots == honest.state_roots
    for one in (run, honest):
        assert [len(event.accepted) for event in one.events("aggregator-0", Applied)] == [2] * ROUNDS + [0]
    anchors = [seen.anchor for seen in asyncio.run(run.chain.anchors(TWICE)) if seen.anchor.round == TWICE]
    _first, second = anchors
    for name in run.participants:
        taken_back = [(event.round, event.record) for event in run.events(name, Undone)]
        assert taken_back == ([(TWICE, second.digest.hex())] if name == misled else [])
