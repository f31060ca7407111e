"""The memory plan against real processes: a testnet's participants, each one's peak beside what the plan says.

    THP_MEM_ALLOC_ENABLE=1 python -m benchmarks.memory [--preset tiny] [--miners 1] [--rounds 3]
    nice -n 19 python -m benchmarks.memory --preset benchmarks/150m-cpu.toml --miners 2 --rounds 2

A peak is VmHWM of /proc/PID/status, the kernel's own: whatever was resident at once, mapped files included. It is read
until the process is gone, so what it reached in its last tenth of a second may be missed; nothing grows there.
Ends with status 1 where a peak is more than 10 % off its plan.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from muster.plan.memory import Place, plan_of
from muster.plan.table import size
from muster.protocol.spec import Template, load_template
from muster.protocol.types import Role

LOOK_SECONDS = 0.1
WITHIN = 0.10
KIB = 1024


def children(parent: int) -> list[int]:
    """The processes that a process has started, and that live."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and status(int(entry.name), "PPid") == parent:
            found.append(int(entry.name))
    return found


def status(pid: int, field: str) -> int:
    """A number of /proc/PID/status; 0 where there is no such process any more."""
    try:
        text = (Path("/proc") / str(pid) / "status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def participant(pid: int) -> tuple[Role, str] | None:
    """Role and name of a daemon, from its command line."""
    try:
        words = (Path("/proc") / str(pid) / "cmdline").read_text().split("\0")
    except OSError:
        return None
    if "--name" not in words:
        return None
    role = next((role for role in Role if role.value in words), None)
    return None if role is None else (role, words[words.index("--name") + 1])


def peaks(argv: list[str]) -> dict[tuple[Role, str], int]:
    """Run a testnet; the peak of each participant, in bytes. A participant that is started again counts as one.

    Raises:
        subprocess.CalledProcessError: the testnet failed.
    """
    found: dict[tuple[Role, str], int] = {}
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as testnet:
        while testnet.poll() is None:
            for pid in children(testnet.pid):
                who = participant(pid)
                if who is not None:
                    found[who] = max(found.get(who, 0), status(pid, "VmHWM") * KIB)
            time.sleep(LOOK_SECONDS)
    if testnet.returncode:
        raise subprocess.CalledProcessError(testnet.returncode, argv)
    return found


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
        argv = [sys.executable, "-P", "-m", "muster", "testnet", "--json", "--device", "cpu"]
        argv += ["--preset", given.preset, "--miners", str(given.miners), "--rounds", str(given.rounds)]
        found = peaks([*argv, "--dir", str(Path(folder) / "run")])
    good = compare(load_template(given.preset), given.miners, found)
    print(f"  {given.rounds} rounds in {time.monotonic() - began:.0f} s; {'all' if good else 'NOT all'} within 10 %")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
