"""A run whose list is gone for good goes on under who its owner names, and nobody else can take it over."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from run_builders import MakeStage, Stage
from test_takeover import FALLS, Death, Died, mortal

from muster.audit import Auditor
from muster.lab.nano import counting_miner
from muster.lab.simulator import SimulatedRun, Simulator
from muster.node.telemetry.events import Applied
from muster.protocol import paths, wire
from muster.protocol.identity import Identity
from muster.protocol.spec import RunSpec
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage.locations import MemoryBuckets

ROUNDS = 7
CLOCK = {"turn": 8, "touch": 54, "silent": 60}
HOW: dict[str, Any] = {"makers": lambda _behaviour: counting_miner}


class Stricken(Simulator):
    """A run that goes on without who dies: here that is the whole list."""

    async def _live(self, name: str, *what: Any) -> None:
        try:
            await super()._live(name, *what)
        except* Died:
            del self._participants[name]


def listing(made: Stage, *names: str) -> RunSpec:
    """The run with another list."""
    leaders = tuple(made.member(name).hotkey for name in names)
    return made.spec.model_copy(update={"genesis": made.spec.genesis.model_copy(update={"leaders": leaders})})


def rescue(made: Stage, spec: RunSpec, hangs: int, signer: Identity, *leaders: str) -> bytes:
    """The amendment by which these lead from the round after the one that hangs."""
    value = json.dumps([made.member(name).hotkey for name in leaders])
    return wire.encode_amendment(signer, spec.run_id(), 1, hangs + 1, "genesis.leaders", value)


def played(made: Stage, spec: RunSpec, death: Death, where: str, data: bytes) -> SimulatedRun:
    buckets = MemoryBuckets()
    asyncio.run(buckets.bucket(f"mem:{where}").put(paths.amendment(spec.run_id(), 1), data))
    simulator = Stricken(made.roster, spec, made.text, buckets=buckets, leader=mortal(death), **HOW)
    return asyncio.run(simulator.run(ROUNDS))


@pytest.mark.parametrize("step", ["before the seal", "after the seal", "before the record", "after the record"])
def test_who_the_owner_names_goes_on_with_a_run_whose_only_leader_is_gone(stage: MakeStage, step: str) -> None:
    made, death = stage(validators=2, clock=CLOCK), Death(step)
    spec, hangs = listing(made, "operator-0"), FALLS + (step == "after the record")
    data = rescue(made, spec, hangs, made.roster.owner.identity, "operator-1")
    run = played(made, spec, death, "operator-1", data)
    assert death.name == "operator-0"
    assert len(run.state_roots) == ROUNDS
    kinds = [event.kind for event in run.events("miner-0", Applied)]
    assert [round_ for round_, kind in enumerate(kinds) if kind == "null"] == [hangs]
    assert run.participants["miner-0"].tip.leaders == (made.member("operator-1").identity.public,)
    report = asyncio.run(
        Auditor(replace(made.run, history=SpecHistory.of(spec)), run.chain, run.buckets, lambda _line: None).audit(None)
    )
    assert [fault.problem for fault in report.faults] == []
