"""A run of real processes is amended by the command while it runs; nobody is told, nothing is restarted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from forked import Commands
from run_builders import PATIENT, template, write_template
from test_processes import of, started

from muster.node.telemetry.events import Sealed

pytestmark = pytest.mark.processes

ROUNDS, AT = 9, 8


async def amended(muster_command: Commands, preset: Path, folder: Path) -> tuple[dict[str, object], dict[str, object]]:
    """What the command told, called once the first round was sealed, and what the testnet did in the end."""
    async with started(preset, folder, ROUNDS, miners=2) as net:
        await net.until("aggregator-operator-0", of(Sealed, 0))
        argv = ("spec", "amend", str(folder), "inner.lr=0.002", "--round", str(AT), "--json")
        done = await asyncio.to_thread(muster_command, *argv)
        assert done.returncode == 0, done.stderr
        status, out, err = await net.end()
    assert status == 0, err
    return json.loads(done.stdout), json.loads(out.splitlines()[-1])


def test_an_amendment_reaches_the_leader_by_itself_and_all_replicas_agree(
    muster_command: Commands, tmp_path: Path
) -> None:
    clock = {"deadline": 240, "reveal": 120, "grace": 120, **PATIENT}
    made = template(inner={"steps": 12, "total": 96}, clock=clock, gauntlet={"score_wait": 120})
    folder = tmp_path / "run"
    told, summary = asyncio.run(amended(muster_command, write_template(made, tmp_path / "miniature.toml"), folder))
    assert (told["number"], told["round"], told["enough"]) == (1, AT, True)
    assert (summary["roots_agree"], summary["rounds"]) == (True, ROUNDS)
    done = muster_command("spec", "show", str(folder))
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    (one,) = shown["amendments"]
    assert (one["path"], one["value"], one["round"]) == ("inner.lr", 0.002, AT)
    assert one["recorded_in"] <= AT - made.clock.amend_delay
    assert shown["spec"]["inner"]["lr"] == 0.002
