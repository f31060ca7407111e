"""What judging one round of many peers costs: exact scores for all of them beside first-order ones for all of them.

In seconds of one thread, by the functions that a validator's judging of a round calls, on real submissions of the first
round. Nothing but the form of an update bears on the time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.gauntlet import pieces
from benchmarks.gauntlet.figures import spearman
from benchmarks.gauntlet.scenarios import Role, Scenario
from benchmarks.gauntlet.setting import template
from benchmarks.gauntlet.world import World
from muster.lab.nano import compiled_loops
from muster.validator.gauntlet.evaluation import Measured, RoundEvaluation
from muster.validator.gauntlet.first_order import first_order

PEERS = 64
_TIMES = 3
"""What is over in moments is timed so often; the median counts."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Judging a round of `peers` submissions.

    Attributes:
        forwards: batches of windows put through the model for the exact scores.
        exact: seconds for the exact scores.
        first_order: seconds for the first-order ones.
        gradient: seconds of the gradient among these.
        forward: seconds of one batch of windows.
        agreement: rank correlation of the two.
    """

    peers: int
    forwards: int
    exact: float
    first_order: float
    gradient: float
    forward: float
    agreement: float


def scenario_of(preset: str, peers: int = PEERS) -> Scenario:
    """One round of peers that each train on as many windows as they are judged by."""
    whole = template(preset)
    batch, windows = whole.inner.batch, whole.gauntlet.eval_windows
    steps = -(-windows // batch)
    roles = (Role(f"peer-{i}", applied=True, steps=steps, batch=batch, declares=steps * batch) for i in range(peers))
    return Scenario(f"cost-{preset}", tuple(roles), 1, (0,), preset=preset)


def measure(scenario: Scenario) -> Cost:
    """Play the round, and judge it both ways."""
    world = World(scenario, scenario.seeds[0])
    candidates, common = world.candidates(world.act(0))
    replica, scale = world.replica, world.scale
    first_order(replica, candidates[:1], common, scale)  # what is made once a process is made before
    forward = _seconds(lambda: replica.losses(common))
    gradient = _seconds(lambda: replica.gradient(common))
    cheap = _seconds(lambda: first_order(replica, candidates, common, scale))
    evaluation = RoundEvaluation(replica, candidates, candidates, common, scale)
    began = time.process_time()
    for _ in evaluation.pieces():
        pass
    exact = time.process_time() - began
    screened, scores = first_order(replica, candidates, common, scale), []
    for one in candidates:
        found = evaluation.found[one.hotkey]
        assert isinstance(found, Measured), "a finite loss is measured"
        scores.append(found.unassigned.score)
    agreement = spearman(np.array(scores), np.array(list(screened.values())))
    return Cost(len(candidates), evaluation.forwards, exact, cheap, gradient, forward, agreement)


def _seconds(work: Callable[[], object]) -> float:
    """The thread's own seconds, whatever else the machine does."""

    def once() -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    return median(once() for _ in range(_TIMES))


def cost_of(folder: Path, scenario: Scenario, *, missing: bool = True) -> Cost | None:
    """A round's cost, as it is kept in the folder; measured, and kept, where it is `missing` there."""
    path, digest = folder / f"{scenario.name}.json", pieces.digest(scenario)
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.pop("digest") == digest:
            return Cost(**kept)
    if not missing:
        return None
    torch.set_num_threads(1)
    with compiled_loops():
        cost = measure(scenario)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"digest": digest, **asdict(cost)}), encoding="utf-8")
    return cost
