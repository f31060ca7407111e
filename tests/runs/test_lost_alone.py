"""A list of which one was there alone, and decided: who comes back and cannot read that does not part from it."""

from __future__ import annotations

from typing import Any

from run_builders import MakeStage

from muster.lab import clock
from muster.lab.faults import Fault, Script
from muster.lab.nano import counting_miner
from muster.lab.simulator import Simulator
from muster.node.telemetry.events import Recorded, Trouble

CLOCK = {"turn": 8, "touch": 54, "silent": 4000}
HOW: dict[str, Any] = {"makers": lambda _behaviour: counting_miner}


def test_who_comes_back_to_a_list_and_cannot_read_what_it_decided_waits_and_then_follows(stage: MakeStage) -> None:
    """One of two is without a chain for so long that the other goes on alone; then it sees anchors, and no bytes."""
    made, back, heals = stage(validators=2, clock=CLOCK), 80, 150
    away = ("aggregator-1", "validator-1")
    faults = [
        *(Fault("error", "chain.*", who=who, from_block=2, until_block=back) for who in away),
        *(Fault("missing", "store.*", owner="operator-0", who=who, from_block=2, until_block=heals) for who in away),
    ]
    simulator = Simulator(made.roster, made.spec, made.text, script=Script(faults), block_seconds=12.0, **HOW)
    run = clock.run(simulator.run(8))
    assert len(run.state_roots) == 8
    assert run.events("aggregator-1", Recorded) == []
    waited = [event for event in run.events("aggregator-1", Trouble) if "its record is not to be had" in event.problem]
    assert {event.round for event in waited} == {0}
