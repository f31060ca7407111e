"""A folder in which modules lie that are named as ours or as Python's own is a folder like any other."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

import pytest
import tomli_w
from environments import make_environment
from source_tree import ROOT, plain

pytestmark = [pytest.mark.processes, pytest.mark.timeout(2400)]

NAMES = ("protocol", "queue", "types", "kernels", "node", "validator", "muster")
SECONDS = 1800
CHILDREN = 4
"""An aggregator, a validator, an honest miner and another."""


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with Muster's wheel."""
    return make_environment(tmp_path_factory.mktemp("environment"), ("--no-deps", "--no-index", wheel))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bench's smallest model, with time enough for processes on a busy machine."""
    document = tomllib.loads((ROOT / "muster" / "lab" / "nano.toml").read_text(encoding="utf-8"))
    document["clock"] |= {"deadline": 480, "reveal": 120, "grace": 120, "anchor": 120, "touch": 1000}
    document["gauntlet"] |= {"score_wait": 120}
    path = tmp_path_factory.mktemp("template") / "nano.toml"
    path.write_text(tomli_w.dumps(document), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose modules must not be imported."""
    made = tmp_path / "folder"
    made.mkdir()
    for name in NAMES:
        (made / f"{name}.py").write_text(f"raise RuntimeError('{name}.py of the folder is imported')\n")
    return made


def run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder."""
    return subprocess.run(
        [*map(str, command)],
        cwd=folder, env=plain() | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        timeout=SECONDS,
    )  # fmt: skip


def test_a_testnet_runs_there(installed: Path, template: Path, folder: Path) -> None:
    flags = ["--rounds", "1", "--miners", "1", "--adversary", "garbage=1", "--preset", template, "--json"]
    done = run(folder, installed / "muster", "testnet", *flags, "--dir", folder.parent / "run")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["roots_agree"]
    peers = {peer["behaviour"]: peer for peer in summary["peers"]}
    assert (peers["honest"]["accepted"], peers["garbage"]["accepted"]) == (1, 0)
    assert sum(peers["garbage"]["rejected"].values()) == 1, "an adversary is started, and is one"
    logs = [log.read_text(encoding="utf-8") for log in (folder.parent / "run" / "logs").glob("*.log")]
    assert ["of the folder is imported" in log for log in logs] == [False] * CHILDREN


def test_so_it_begins_as_a_module(installed: Path, template: Path, folder: Path) -> None:
    """Whoever began it, it starts others in the same way."""
    flags = ["--miners", "1", "--preset", template, "--prepare", "--dir", folder.parent / "run"]
    done = run(folder, installed / "python", "-P", "-m", "muster", "testnet", *flags)
    assert (done.returncode, "of the folder is imported" in done.stderr) == (0, False), done.stderr
    assert (folder.parent / "run" / "run.toml").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_without_the_flag_python_would_import_what_lies_there(name: str, installed: Path, folder: Path) -> None:
    done = run(folder, installed / "python", "-c", f"import sys; sys.modules.pop('{name}', None); import {name}")
    assert (done.returncode, f"{name}.py of the folder is imported" in done.stderr) == (1, True)
    done = run(folder, installed / "python", "-P", "-c", f"import {name}")
    assert "of the folder is imported" not in done.stderr
