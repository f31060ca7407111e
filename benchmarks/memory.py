"""The memory plan against real processes: the daemons of a whole run, each one's peak beside what the plan says.

    THP_MEM_ALLOC_ENABLE=1 python -m benchmarks.memory [--preset tiny] [--miners 1] [--rounds 3]
    nice -n 19 python -m benchmarks.memory --preset benchmarks/150m-cpu.toml --miners 2 --rounds 2

A peak is VmHWM of /proc/PID/status, the kernel's own: whatever was resident at once, mapped files included. It is read
until the process is gone, so what it reached in its last tenth of a second may be missed; nothing grows there.
Ends with status 1 where a peak is more than 10 % off its plan.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from muster.plan.memory import Place, plan_of
from muster.plan.table import size
from muster.protocol.spec import Template, load_template
from muster.protocol.types import Role

LOOK_SECONDS = 0.1
WITHIN = 0.10
KIB = 1024


def status(pid: int, field: str) -> int:
    """A number of /proc/PID/status; 0 where there is no such process any more."""
    try:
        text = (Path("/proc") / str(pid) / "status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


@dataclass
class Held:
    """Bytes of one process: the most there ever were, and what was resident at each look."""

    peak: int = 0
    resident: list[int] = field(default_factory=list)


def held(preset: str, miners: int, rounds: int, run: Path) -> dict[tuple[Role, str], Held]:
    """Play a run of daemons that are each started by themselves, as at home; what each process held.

    A testnet forks its participants from one process, so that theirs is less than what a daemon of one's own takes.

    Raises:
        subprocess.CalledProcessError: the run could not be laid out, or a daemon failed.
    """
    muster = [sys.executable, "-P", "-m", "muster"]
    laid_out = [*muster, "testnet", "--prepare", "--preset", preset, "--miners", str(miners), "--dir", str(run)]
    subprocess.run(laid_out, stdout=subprocess.DEVNULL, check=True)
    who = [(Role.AGGREGATOR, "operator-0"), (Role.VALIDATOR, "operator-0")]
    who += [(Role.MINER, f"miner-{i}") for i in range(miners)]
    with ExitStack() as stack:
        daemons = {}
        for role, name in who:
            argv = [*muster, role.value, "--run", str(run), "--name", name, "--device", "cpu"]
            argv += ["--rounds", str(rounds)] if role is Role.AGGREGATOR else []
            log = stack.enter_context((run / "logs" / f"{role.value}-{name}.log").open("wb"))
            daemons[role, name] = stack.enter_context(subprocess.Popen(argv, stdout=log, stderr=log, env=environment()))
        found = {one: Held() for one in daemons}
        try:
            while any(daemon.poll() is None for daemon in daemons.values()):
                for one, daemon in daemons.items():
                    found[one].peak = max(found[one].peak, status(daemon.pid, "VmHWM") * KIB)
                    found[one].resident.append(status(daemon.pid, "VmRSS") * KIB)
                    if daemon.poll():
                        raise subprocess.CalledProcessError(daemon.returncode, daemon.args)
                time.sleep(LOOK_SECONDS)
        finally:
            for daemon in daemons.values():
                daemon.terminate()
    return found


def environment() -> dict[str, str]:
    """What a testnet gives its participants."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "THP_MEM_ALLOC_ENABLE": "1"}


def compare(template: Template, miners: int, found: dict[tuple[Role, str], int]) -> bool:
    """Print each peak beside its plan; whether all are within the limit."""
    print(f"{template.name}: process, measured, planned, measured/planned, the plan's phase")
    good = True
    for (role, name), peak in sorted(found.items(), key=lambda one: (one[0][0].value, one[0][1])):
        planned, phase = plan_of(template, role, peers=miners).peak(Place.HOST)
        good &= abs(peak / planned - 1) <= WITHIN
        print(f"  {role.value} {name:<12} {size(peak):>9} {size(planned):>9}  {peak / planned:.3f}  {phase.value}")
    return good


def main() -> int:
    """Measure one testnet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--miners", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="muster-memory-") as folder:
        run = held(given.preset, given.miners, given.rounds, Path(folder) / "run")
    found = {who: process.peak for who, process in run.items()}
    good = compare(load_template(given.preset), given.miners, found)
    print(f"  {given.rounds} rounds in {time.monotonic() - began:.0f} s; {'all' if good else 'NOT all'} within 10 %")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
