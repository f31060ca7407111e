"""A miner's memory over its first rounds, in units of θ beyond what a process is that has imported torch.

    python -P -m daemons.miner_memory MILLIONS FOLDER       (in a build's folder, as `prepare` has it done)

Peaks are of a whole process, so each turn is one of its own: it has loaded all of the daemon's code, joins, and does
rounds of one window a step, whose activations are small. "Resident" is what it holds between rounds, "peak" the most at
any time since it began.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

ROUNDS = 3
FIGURES = {"VmRSS": "miner_resident", "VmHWM": "miner_peak"}


def memory(field: str) -> int:
    """Bytes of this process: VmRSS are resident now, VmHWM were at most."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.partition(f"{field}:")[2].split()[0]) * 1024


def prepare(millions: float, folder: Path) -> Callable[[], dict[str, float]]:
    """Each call is a process that does a few rounds."""

    def work() -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            command = [sys.executable, "-P", "-m", "daemons.miner_memory", str(millions), place]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return figures

    return work


def main() -> None:
    """Mine, and print both figures."""
    torch.set_num_threads(1)
    empty = memory("VmRSS")
    from daemons.mining import Mining  # noqa: PLC0415 - the builds' code counts
    from two_builds import of  # noqa: PLC0415

    of("muster.run.daemon:run_daemon")
    mining = Mining(float(sys.argv[1]), Path(sys.argv[2]))
    theta = sum(tensor.nbytes for tensor in mining.theta)
    for _ in range(ROUNDS):
        mining.round()
    gc.collect()
    print(json.dumps({name: (memory(field) - empty) / theta for field, name in FIGURES.items()}))


if __name__ == "__main__":
    main()
