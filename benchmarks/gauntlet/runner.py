"""Measures the pieces that are missing on several processes; whoever stops it goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

import torch

from benchmarks.gauntlet import pieces
from benchmarks.gauntlet.scenarios import Scenario
from benchmarks.gauntlet.setting import text
from benchmarks.gauntlet.world import World
from benchmarks.processes import pool_of, start
from muster.lab.nano import compiled_loops

Task = tuple[Scenario, int]


def measure_piece(folder: Path, scenario: Scenario, seed: int) -> float:
    """Measure one piece, on one thread, and keep it; the seconds it took."""
    began = time.monotonic()
    torch.set_num_threads(1)
    with compiled_loops():
        raw = World(scenario, seed).play()
    pieces.write(folder, scenario, seed, raw)
    return time.monotonic() - began


def size_of(task: Task) -> float:
    """About how much there is to compute: windows trained on and evaluated, of each role and round."""
    scenario, _ = task
    evaluated = 4 * 32 * scenario.validators
    trained = sum(3 * role.steps * role.batch for role in scenario.roles)
    return scenario.rounds * (trained + evaluated * len(scenario.roles))


def run(folder: Path, scenarios: Sequence[Scenario], processes: int, say: Callable[[str], None]) -> None:
    """Measure whatever is not in the folder yet, the largest pieces first, so that none is left alone at the end.

    A KeyboardInterrupt ends it once the pieces under way are over, and kept.
    """
    tasks = [(scenario, seed) for scenario in scenarios for seed in scenario.seeds]
    missing = [task for task in tasks if not pieces.is_there(folder, *task)]
    say(f"{len(tasks)} pieces, {len(tasks) - len(missing)} are there already")
    if not missing:
        return
    for preset in {scenario.preset for scenario in scenarios}:
        text(preset)  # is written before the processes would all want to
    waiting = sorted(missing, key=size_of)
    whole, began = sum(map(size_of, missing)), time.monotonic()
    running: dict[Future[float], Task] = {}
    done = 0.0

    def collect() -> None:
        nonlocal done
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            task = running.pop(future)
            seconds, done = future.result(), done + size_of(task)
            left = (time.monotonic() - began) * (whole / done - 1)
            say(f"{task[0].name} {task[1]}: {seconds:.0f} s; {done / whole:.0%}, about {left / 60:.0f} min left")

    with pool_of(processes) as pool:
        start(pool)
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    task = waiting.pop()
                    running[pool.submit(measure_piece, folder, *task)] = task
                collect()
        except KeyboardInterrupt:
            say("stopping: the pieces under way are measured to their end first")
            while running:
                collect()
            raise
