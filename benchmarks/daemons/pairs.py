"""Measures a section in two builds by turns, so that what else the machine does falls on both."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

Figures = Mapping[str, Sequence[float]]
"""Every measured value of each figure, in the order of the turns."""


class Process:
    """A section of one build, in its own process and folder."""

    def __init__(self, build: Path, section: str, millions: float, folder: Path) -> None:
        places = (build, build / "tests/runs", ROOT / "benchmarks")
        environment = {
            "OMP_NUM_THREADS": "1",
            "THP_MEM_ALLOC_ENABLE": "1",
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, places)),
        }
        argv = [sys.executable, "-P", "-m", "daemons.child", section, str(millions), str(folder)]
        self.process = subprocess.Popen(
            argv, env=environment, cwd=build, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def turn(self) -> dict[str, float]:
        """The section's work once; its figures.

        Raises:
            RuntimeError: the process failed; what it said is on stderr.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write("again\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer that does not come says so
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended with {self.process.wait()}")
        figures: dict[str, float] = json.loads(line)
        return figures


@contextmanager
def started(build: Path, section: str, millions: float) -> Iterator[Process]:
    """Within, a section's process."""
    with tempfile.TemporaryDirectory(prefix="muster-daemons-") as folder:
        process = Process(build, section, millions, Path(folder))
        try:
            yield process
        finally:
            with process.process:  # closes its pipes, which ends it, and waits
                pass


def measure(builds: Mapping[str, Path], section: str, millions: float, turns: int) -> dict[str, Figures]:
    """`turns` values of each figure of a section, by build; the first turn of each warms up and is not kept."""
    with ExitStack() as stack:
        processes = {name: stack.enter_context(started(build, section, millions)) for name, build in builds.items()}
        found: dict[str, dict[str, list[float]]] = {name: {} for name in processes}
        for turn in range(turns + 1):
            for name in sorted(processes, reverse=bool(turn % 2)):
                figures = processes[name].turn()
                if turn:
                    for key, value in figures.items():
                        found[name].setdefault(key, []).append(value)
    return {name: dict(values) for name, values in found.items()}


def share(this: Sequence[float], before: Sequence[float]) -> float:
    """The median of the turns' ratios."""
    return statistics.median(one / other for one, other in zip(this, before, strict=True))
