"""A miner's memory over its first rounds, in units of θ beyond what a process is that has imported torch.

    python -P -m daemons.miner_memory RUN       (in a build's folder, as `prepare` has it done)

Peaks are of a whole process, so each turn is one of its own: it has loaded all of the daemon's code, joins, and does
rounds of one window a step, whose activations are small. "Resident" is what it holds between rounds, "peak" the most at
any time since it began.
"""

from __future__ import annotations

import gc
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from two_builds import of

from daemons.mining import Mining, lay_out

ROUNDS = 3
FIGURES = {"VmRSS": "miner_resident", "VmHWM": "miner_peak"}


def memory(field: str) -> int:
    """Bytes of this process: VmRSS are resident now, VmHWM were at most."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.partition(f"{field}:")[2].split()[0]) * 1024


def prepare(millions: float, folder: Path) -> Callable[[], dict[str, float]]:
    """Each call is a process that does a run's first rounds."""
    run = lay_out(millions, folder)

    def work() -> dict[str, float]:
        for kept in (run / "state", run / "buckets"):  # each begins as the first did
            shutil.rmtree(kept)
            kept.mkdir()
        command = [sys.executable, "-P", "-m", "daemons.miner_memory", str(run)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return figures

    return work


def main() -> None:
    """Mine, and print both figures."""
    torch.set_num_threads(1)
    empty = memory("VmRSS")
    of("muster.run.daemon:run_daemon")  # loads what a daemon loads
    mining = Mining(Path(sys.argv[1]))
    theta = 4 * sum(map(math.prod, mining.miner.tip.layout.shapes))
    for _ in range(ROUNDS):
        mining.round()
    gc.collect()
    print(json.dumps({name: (memory(field) - empty) / theta for field, name in FIGURES.items()}))


if __name__ == "__main__":
    main()
