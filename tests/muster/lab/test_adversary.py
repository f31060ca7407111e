"""Bad miners as processes: known to the testnet by their names alone, and started from the lab."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w
from forked import Commands

from muster.lab.adversary import ADVERSARIES
from muster.lab.nano import nano_template
from muster.testnet.adversaries import NAMES

PROGRAM = "muster.lab.adversary"


def ended(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=900)


def test_the_names_are_those_of_the_classes() -> None:
    assert tuple(sorted(ADVERSARIES)) == NAMES


def test_the_names_bring_nothing_along() -> None:
    heavy = "import sys, muster.testnet.adversaries; print([m for m in ('torch', 'muster.lab') if m in sys.modules])"
    assert ended(sys.executable, "-c", heavy).stdout == "[]\n"


def test_an_unknown_one_is_a_sentence_and_a_status(muster_command: Commands) -> None:
    outcome = muster_command("nope", "--run", ".", "--name", "miner-0", module=PROGRAM)
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("error[usage]: unknown adversary 'nope'; there are: desynchronised, ")
    assert outcome.stderr.count("\n") == 1


def test_the_settings_are_those_of_a_miner(tmp_path: Path, muster_command: Commands) -> None:
    outcome = muster_command("noise", "--run", str(tmp_path), "--name", "noise-0", module=PROGRAM)
    assert (outcome.returncode, outcome.stderr.count("\n")) == (3, 1)
    assert f"no run at {tmp_path}" in outcome.stderr


@pytest.mark.slow
@pytest.mark.processes
def test_a_testnet_starts_them(tmp_path: Path) -> None:
    document = nano_template().model_dump(mode="json")
    document["clock"] |= {
        "deadline": 400,
        "reveal": 200,
        "touch": 1000,
    }  # however slow the machine is, the honest are in
    preset = tmp_path / "nano.toml"
    preset.write_text(tomli_w.dumps(document))
    muster = (sys.executable, "-P", "-m", "muster")
    outcome = ended(
        *muster, "testnet", "--preset", str(preset), "--miners", "2", "--adversary", "garbage=1", "--rounds", "2",
        "--dir", str(tmp_path / "run"), "--json",
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr
    peers = {peer["behaviour"]: peer for peer in json.loads(outcome.stdout.splitlines()[-1])["peers"]}
    assert peers["honest"]["accepted"] == 2
    assert peers["garbage"]["accepted"] == 0
    assert sum(peers["garbage"]["rejected"].values()) > 0
