"""A whole default run of real processes: how long its start and its rounds take beside the inner steps, by the wall.

Only a quiet machine of at least two cores says anything here; `cpu`, the processor seconds of the run, is for others.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROUNDS = 6
"""Of the run; the preset's first ones cost what the later ones do."""


def trained(run: Path) -> float:
    """The inner-step seconds of round 0 of the slowest miner, from the journals."""
    lines = (line for path in (run / "logs").glob("miner-*.jsonl") for line in path.read_text().splitlines())
    events = [json.loads(line) for line in lines]
    return max(float(event["seconds"]) for event in events if event["event"] == "trained" and event["round"] == 0)


def prepare(millions: float, folder: Path) -> Callable[[], dict[str, float]]:  # noqa: ARG001 - the default run's size
    """`muster testnet` as a person starts it, of the build in the working directory; its size is the preset's."""
    assert Path.cwd().joinpath("pyproject.toml").exists()

    def play() -> dict[str, float]:
        run = Path(tempfile.mkdtemp(dir=folder)) / "run"
        argv = [sys.executable, "-P", "-m", "muster", "testnet", "--json", "--rounds", str(ROUNDS), "--dir", str(run)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        told = json.loads(done.stdout.splitlines()[-1])
        assert told["roots_agree"], f"{run}: the replicas do not agree"
        return {
            "start": told["first_record_s"] - trained(run),
            "idle": 100 * (1 - told["utilisation"]),
            "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        }

    return play
