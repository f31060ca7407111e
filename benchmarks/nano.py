"""What does a simulated round of four miners and one operator cost, in CPU milliseconds, and what of it is training?

    python benchmarks/nano.py [--rounds 24] [--repeats 5]

`counted` is the bench's run (`muster.lab.nano`: Δ is a counter's), with the plain tensor loops and with the compiled
ones; `trained` is the miniature that the tests of whole runs play, a real model of 12,000 parameters. A round is the
difference between a long and a short run, the least of several repeats: other work on the machine only adds. A busy
machine doubles every time, so the judgement is in units of the smallest torch operation, measured beside it (1 µs on
a quiet machine of 2024). Exits with 1 where the compiled counted round misses its target.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "runs"))

import torch
from run_builders import lay_out, write_text
from run_builders import template as miniature

from muster.lab.nano import compiled_loops, counting_miner, nano_template
from muster.lab.simulator import Simulator
from muster.node.miner import MakeMiner, local_miner
from muster.protocol.spec import Template
from muster.testnet.roster import Roster

MINERS = 4
SEED = 0
SHORT = 2
"""Rounds of the short run: what is done once falls out of the difference."""
TARGET_OPERATIONS = 40_000
"""What a counted round with the compiled loops may cost: 40 ms where the smallest torch operation takes 1 µs."""


def play(template: Template, miner: MakeMiner, rounds: int) -> float:
    """CPU seconds of one run, laid out beforehand."""
    with tempfile.TemporaryDirectory() as folder:
        text, roster = write_text(Path(folder) / "text"), Roster.of(SEED, MINERS, 1, {})
        stage = lay_out(Path(folder) / "run", text, template, roster)
        simulator = Simulator(roster, stage.spec, stage.text, makers=lambda _behaviour: miner)
        began = time.process_time()
        asyncio.run(simulator.run(rounds))
        return time.process_time() - began


def round_ms(template: Template, miner: MakeMiner, rounds: int, repeats: int) -> float:
    """CPU milliseconds of a round."""
    short = min(play(template, miner, SHORT) for _ in range(repeats))
    long = min(play(template, miner, SHORT + rounds) for _ in range(repeats))
    return (long - short) / rounds * 1000


def operation_us() -> float:
    """CPU microseconds of the smallest torch operation."""
    numbers, count = torch.arange(64), 20_000
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(count):
            numbers + 1
        best = min(best, (time.process_time() - began) / count)
    return best * 1e6


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, tuple[Template, MakeMiner, Callable[[], AbstractContextManager[None]]]] = {
        "nano, counted, compiled": (nano_template(), counting_miner, compiled_loops),
        "nano, counted": (nano_template(), counting_miner, nullcontext),
        "miniature, trained": (miniature(), local_miner, nullcontext),
    }
    operation = operation_us()
    print(f"the smallest torch operation: {operation:.2f} CPU-µs")
    measured = {}
    for name, (template, miner, loops) in rows.items():
        with loops():
            play(template, miner, SHORT)  # loads and compiles
            cost = round_ms(template, miner, options.rounds, options.repeats)
        measured[name] = cost * 1000 / operation
        print(f"{name:<24} {cost:6.1f} CPU-ms a round, {measured[name]:8,.0f} operations", flush=True)
    missed = measured["nano, counted, compiled"] > TARGET_OPERATIONS
    print(f"target: {TARGET_OPERATIONS:,} operations with the compiled loops{', MISSED' if missed else ''}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
