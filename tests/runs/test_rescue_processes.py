"""A run of real processes whose only leader is gone: the owner names another with one command, and it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forked import Commands
from list_daemons import Daemons, Place, ended, stage_of

LATE = 60
"""Blocks of 0.25 s after which a late round may be rescued."""


@pytest.mark.slow
@pytest.mark.processes
def test_whom_the_owner_names_goes_on(tmp_path: Path, muster_command: Commands) -> None:
    stage = stage_of(tmp_path, operators=1, miners=3, touch=LATE, silent=LATE)
    daemons, run = Daemons(stage, Place(stage.run.path)), str(stage.run.path)
    working, helper, fell = ("miner-0", "miner-1"), "miner-2", 2
    with ended(daemons):
        for name in working:
            daemons.start("miner", name)
        daemons.start("aggregator", "operator-0")
        daemons.until(lambda: all(fell in daemons.applied(name) for name in working))
        daemons.kill("aggregator-operator-0")
        daemons.start("aggregator", helper)
        daemons.until(lambda: daemons.has_joined(f"aggregator-{helper}"))
        hangs = json.loads(muster_command("status", run, "--json").stdout)["round"]
        change = f'genesis.leaders=["{stage.member(helper).hotkey}"]'
        amended = muster_command("spec", "amend", run, "--rescue", change)
        assert amended.returncode == 0, amended.stderr
        assert f"may close round {hangs}" in amended.stdout
        daemons.until(lambda: all(hangs + 2 in daemons.applied(name) for name in working))
        kinds = {round_: event.kind for round_, event in daemons.applied("miner-0").items()}
        assert [round_ for round_ in range(hangs + 3) if kinds[round_] == "null"] == [hangs]
        said = muster_command("story", run, "--round", str(hangs)).stdout
        assert "whom the owner named to rescue the run" in " ".join(said.split())
    audit = json.loads(muster_command("audit", run, "--json").stdout)
    assert audit["state_roots"][: hangs + 2] == [daemons.applied("miner-1")[round_].root for round_ in range(hangs + 2)]
