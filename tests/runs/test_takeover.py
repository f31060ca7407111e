"""Several aggregators: turns pass on, and where a leader is gone the next goes on with the round's own list."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from run_builders import MakeStage

from muster.lab import clock
from muster.lab.faults import Fault, Script
from muster.lab.nano import counting_miner
from muster.lab.simulator import SimulatedRun, Simulator
from muster.node.ledger.seals import FoundSeal
from muster.node.telemetry.events import Applied, Recorded
from muster.protocol.types import Block
from muster.validator.aggregator.aggregator import Aggregator

ROUNDS = 6
CLOCK = {"term": 2, "turn": 8, "touch": 54}
HOW: dict[str, Any] = {"makers": lambda _behaviour: counting_miner}
"""What is trained does not matter here."""

FALLS = 3
"""The round in which the leader dies."""


class Died(Exception):
    """A process was killed."""


@dataclass
class Death:
    """Where whose process is killed: in its first round from `FALLS` on that it leads."""

    step: str
    name: str = ""
    round: int = -1


def mortal(death: Death) -> type[Aggregator]:
    """Aggregators of which the one that leads round `FALLS` dies at a step."""

    class Mortal(Aggregator):
        def _pass(self, step: str) -> None:
            if step == death.step and self.tip.round >= FALLS and not death.name:
                death.name, death.round = self.context.location.removeprefix("mem:"), self.tip.round
                raise Died

        async def publish_seal(self, head: Block) -> FoundSeal:
            self._pass("before the seal")
            found = await super().publish_seal(head)
            self._pass("after the seal")
            return found

        async def publish_record(self, head: Block) -> None:
            self._pass("before the record")
            await super().publish_record(head)
            self._pass("after the record")

    return Mortal


class Stricken(Simulator):
    """A run that goes on without who dies."""

    async def _live(self, name: str, *what: Any) -> None:
        try:
            await super()._live(name, *what)
        except* Died:
            del self._participants[name]


def test_turns_pass_on_and_everybody_stands_on_the_same(stage: MakeStage) -> None:
    made = stage(validators=3, clock=CLOCK)
    run = asyncio.run(Simulator(made.roster, made.spec, made.text, **HOW).run(ROUNDS))
    assert len(run.state_roots) == ROUNDS
    leaders = [records_author(run, round_) for round_ in range(ROUNDS)]
    assert leaders == ["operator-0"] * 2 + ["operator-1"] * 2 + ["operator-2"] * 2


def records_author(run: SimulatedRun, round_: int) -> str:
    """Who led a round, by its own journal."""
    names = [f"operator-{i}" for i in range(3) if f"aggregator-{i}" in run.journals]
    return next(
        name
        for name in names
        if any(event.round == round_ for event in run.events(name.replace("operator", "aggregator"), Recorded))
    )


@pytest.mark.parametrize("validators", [pytest.param(2, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("step", ["before the seal", "after the seal", "before the record", "after the record"])
def test_a_leader_that_dies_is_followed_by_the_next(stage: MakeStage, step: str, validators: int) -> None:
    death = Death(step)
    made = stage(validators=validators, clock=CLOCK)
    run = asyncio.run(Stricken(made.roster, made.spec, made.text, leader=mortal(death), **HOW).run(ROUNDS))
    assert death.name
    assert len(run.state_roots) == ROUNDS
    survivors = [name for name in run.participants if name.startswith("aggregator")]
    for name in survivors:
        accepted = [len(event.accepted) for event in run.events(name, Applied)]
        assert accepted == [3] * ROUNDS + [0]


OUTAGES = {
    "hangs": lambda leader: [Fault("error", who=f"aggregator-{leader}", from_block=AWAY, until_block=AWAY + 70)],
    "serves half of the nodes": lambda leader: [
        Fault("missing", "store.*", owner=f"operator-{leader}", who=who, from_block=AWAY, until_block=AWAY + 70)
        for who in ("miner-0", "validator-0", "aggregator-0")
    ],
    "releases bytes late": lambda leader: [
        Fault("missing", "store.*", owner=f"operator-{leader}", who=who, from_block=AWAY, until_block=AWAY + 60)
        for who in ("miner-*", "validator-*", f"aggregator-[!{leader}]")
    ],
    "its bucket is gone": lambda leader: [
        Fault("error", "store.*", owner=f"operator-{leader}", from_block=AWAY, until_block=AWAY + 110)
    ],
}
"""What befalls operator-1 from block `AWAY` on, which leads then."""

AWAY = 12


@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("validators", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_whatever_keeps_a_leader_the_run_goes_on_and_all_stand_on_the_same(
    stage: MakeStage, outage: str, validators: int
) -> None:
    made, script = stage(validators=validators, clock=CLOCK), Script(OUTAGES[outage](1))
    simulator = Simulator(made.roster, made.spec, made.text, script=script, block_seconds=12.0, **HOW)
    run = clock.run(simulator.run(ROUNDS))
    assert script.unfired() == []
    assert len(run.state_roots) == ROUNDS
