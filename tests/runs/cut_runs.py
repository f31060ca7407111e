"""Runs of a nano model whose requests fail by script, and that are cut off while they wait."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from run_builders import Stage, lay_out

from muster.lab import clock
from muster.lab.faults import Fault, Script
from muster.lab.nano import counting_miner, nano_template
from muster.lab.simulator import Simulator
from muster.node.telemetry.journal import Noted
from muster.protocol.chain.base import Chain
from muster.protocol.storage import Buckets
from muster.protocol.storage.locations import MemoryBuckets
from muster.testnet.roster import Roster

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Cut:
    """What is left of a run that was cut off."""

    chain: Chain
    buckets: Buckets
    journals: Mapping[str, Sequence[Noted]]


def nano(folder: Path, texts: list[Path]) -> Stage:
    """Four miners and an operator."""
    return lay_out(folder / "run", texts, nano_template(), Roster.of(0, 4, 1, {}))


def simulator(stage: Stage, script: Script, buckets: Buckets) -> Simulator:
    """A run that trains by counting, a block a second."""
    return Simulator(
        stage.roster,
        stage.spec,
        stage.text,
        buckets=buckets,
        makers=lambda _behaviour: counting_miner,
        script=script,
        block_seconds=1.0,
    )


def cut(stage: Stage, seconds: float, *faults: Fault) -> Cut:
    """A run in which these happen, when it is that old."""
    script = Script(faults)
    buckets = MemoryBuckets()
    lab = simulator(stage, script, buckets)

    async def play() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await lab.run(ROUNDS)

    clock.run(play())
    assert not script.unfired()
    journals = {name: journal.noted for name, journal in lab._journals.items()}
    return Cut(lab._chain, buckets, journals)
