"""Does a whole network whose peers share the GPU agree with an aggregator on the CPU: a testnet of real processes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.gpu.section import Found, Setting
from benchmarks.gpu.toy import write_preset
from muster.node.telemetry.events import Applied, Computes
from muster.node.telemetry.journal import read_journal

MINERS, ROUNDS = 3, 3
LEADER = "aggregator-operator-0"
"""What the aggregator's process is called."""


def work(setting: Setting) -> Found:
    """A row a participant: where it computes, and whether its state roots are the aggregator's.

    Raises:
        RuntimeError: the testnet failed for another reason than roots.
    """
    miners, rounds = (1, 1) if setting.dry else (MINERS, ROUNDS)
    with tempfile.TemporaryDirectory() as folder:
        run, preset = Path(folder) / "run", "tiny"
        if setting.dry:
            preset = str(write_preset(Path(folder) / "toy.toml"))
        command = [
            *(sys.executable, "-P", "-m", "muster", "testnet", "--preset", preset, "--json", "--dir", str(run)),
            *("--device", setting.device.type, "--miners", str(miners), "--validators", "1", "--rounds", str(rounds)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        roots, places = roots_of(run / "logs")
        if not roots.get(LEADER):
            said = (done.stderr.splitlines() or ["nothing"])[-1]
            raise RuntimeError(f"the testnet ended with status {done.returncode}, and said: {said}")
    found = judged(roots, places, rounds)
    if done.returncode or found.differs:
        return found
    summary = json.loads(done.stdout.splitlines()[-1])
    note = (
        f"{rounds} rounds of {Path(preset).stem}, {miners} miners and a validator, in {summary['wall_s']:.0f} s; "
        f"{summary['utilisation']:.0%} of the miners' time in inner steps."
    )
    return Found(found.title, found.header, found.rows, (note,))


def roots_of(logs: Path) -> tuple[dict[str, dict[int, str]], dict[str, str]]:
    """By participant: the state root after each round; and where it computes."""
    roots: dict[str, dict[int, str]] = {}
    places: dict[str, str] = {}
    for journal in sorted(logs.glob("*.jsonl")):
        label, told = journal.stem, [noted.event for noted in read_journal(journal).noted]
        roots[label] = {event.round: event.root for event in told if isinstance(event, Applied)}
        places[label] = next((event.device for event in told if isinstance(event, Computes)), "cpu")
    return roots, places


def judged(roots: Mapping[str, Mapping[int, str]], places: Mapping[str, str], rounds: int) -> Found:
    """Whether everybody has the aggregator's root of every round."""
    right, rows, differs = roots[LEADER], [], False
    for label, own in roots.items():
        other = sorted(round_ for round_ in own if own[round_] != right.get(round_, own[round_]))
        missing = sorted(set(range(rounds)) - own.keys())
        differs |= bool(other)
        words = f"other bits in round {other[0]}" if other else f"nothing of round {missing[0]}" if missing else "equal"
        rows.append((label, places[label], words))
    return Found(
        "A testnet whose peers share the GPU", ("participant", "computes on", "state roots"), tuple(rows), (), differs
    )
