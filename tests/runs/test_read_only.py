"""`muster audit` and `muster doctor`, as commands, leave a run as it is: over or going on, one's own or another's."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from files_left_alone import picture
from folder_runs import write_run
from forked import Commands
from run_builders import MakeStage, Stage, play

from muster import cli
from muster.protocol.chain.sqlite import SqliteChain
from muster.protocol.errors import AuditError, ScoresFault
from muster.protocol.identity import Identity

ROUNDS = 2
SECONDS = 900.0
NOBODY = "65534"

Prefix = Sequence[str]
Muster = Callable[..., subprocess.CompletedProcess[str]]

AUDIT = ("audit", "{run}", "--json")
DOCTOR = ("doctor", "--run", "{run}", "--name", "miner-0", "--json")


@pytest.fixture(scope="module")
def finished(stage: MakeStage) -> Stage:
    """A run that is over, in its folder."""
    made = stage(miners=2)
    write_run(made, play(made, ROUNDS))
    return made


@pytest.fixture
def run(finished: Stage, tmp_path: Path) -> Path:
    """A copy of it."""
    folder = tmp_path / "run"
    shutil.copytree(finished.run.path, folder)
    return folder


@pytest.fixture
def muster(tmp_path: Path, muster_command: Commands) -> Muster:
    """The command, in another folder and with a home of its own; what runs it, if it is not to be run as ourselves."""
    home = tmp_path / "home"
    home.mkdir(mode=0o777)
    home.chmod(0o777)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MUSTER_", "XDG_", "PYTHON"))}
    environment = kept | {"HOME": str(home), "TMPDIR": str(home)}

    def call(
        run: Path, command: Sequence[str], commands: Commands = muster_command
    ) -> subprocess.CompletedProcess[str]:
        arguments = [argument.format(run=run) for argument in command]
        return commands(*arguments, environment=environment, folder=home)

    return call


def audited(ended: subprocess.CompletedProcess[str]) -> None:
    """The audit replayed all of it."""
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert (report["rounds"], report["closed"], report["faults"]) == (ROUNDS, True, [])


def examined(ended: subprocess.CompletedProcess[str], *failed: str) -> None:
    """The doctor looked at everything, and found fault with these only."""
    checks = json.loads(ended.stdout)["checks"]
    assert {check["name"] for check in checks if check["exit_status"]} == set(failed), ended.stdout
    assert {"chain", "leader", "text", "bucket"} <= {check["name"] for check in checks}


def test_a_run_that_is_over(run: Path, muster: Muster) -> None:
    before = picture(run)
    audited(muster(run, AUDIT))
    examined(muster(run, DOCTOR))
    assert picture(run) == before


def test_a_run_whose_daemons_write_its_chain(run: Path, muster: Muster) -> None:
    """What was committed last is in the log alone."""
    chain = SqliteChain(run / "chain.sqlite")
    newcomer = Identity.derive(99, "late")

    async def work() -> subprocess.CompletedProcess[str]:
        await chain.register(newcomer)
        before = picture(run)
        assert {"chain.sqlite-wal", "chain.sqlite-shm"} <= set(before)
        ended = await asyncio.to_thread(muster, run, AUDIT)
        examined(await asyncio.to_thread(muster, run, DOCTOR))
        assert picture(run) == before
        await chain.close()
        return ended

    audited(asyncio.run(work()))


def other_user() -> Prefix:
    """Starts a command as nobody, who may read everything and write nothing of ours."""
    prefix = (
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all,+dac_read_search",
        "--ambient-caps=-all,+dac_read_search",
    )  # fmt: skip
    return _usable(prefix)


def read_only_mount(run: Path) -> Prefix:
    """Starts a command for which the run lies on a file system that is mounted read-only."""
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    return _usable(("unshare", "--mount", "sh", "-c", mount, str(run)))


def _usable(prefix: Prefix) -> Prefix:
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True, timeout=SECONDS)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"{prefix[0]} cannot do that here: {error}")
    return prefix


@pytest.fixture
def closed(run: Path) -> Iterator[Path]:
    """The run with every bit of the right to write taken away."""
    paths = [run, *run.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    yield run
    for path in paths:
        path.chmod(path.stat().st_mode | 0o200)


def test_another_users_run(closed: Path, muster: Muster) -> None:
    prefix = other_user()
    touched = subprocess.run([*prefix, "touch", str(closed / "x")], capture_output=True, check=False, timeout=SECONDS)
    assert touched.returncode, "the prefix must not let this user write there"
    before = picture(closed)
    with Commands(prefix) as commands:
        audited(muster(closed, AUDIT, commands))
        examined(muster(closed, DOCTOR, commands), "bucket")
    assert picture(closed) == before


def test_a_run_on_a_read_only_mount(run: Path, muster: Muster) -> None:
    prefix = read_only_mount(run)
    touched = subprocess.run([*prefix, "touch", str(run / "x")], capture_output=True, check=False, timeout=SECONDS)
    assert b"Read-only file system" in touched.stderr
    before = picture(run)
    with Commands(prefix) as commands:
        audited(muster(run, AUDIT, commands))
        ended = muster(run, DOCTOR, commands)
    examined(ended, "bucket")
    assert "on a read-only file system" in ended.stdout
    assert picture(run) == before


def test_the_status_tells_faults_of_the_ledger_from_faults_of_scores(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def audit() -> tuple[object, list[str], str]:
        monkeypatch.setattr(sys, "argv", ["muster", *(argument.format(run=run) for argument in AUDIT)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code, [fault["class"] for fault in json.loads(out)["faults"]], err.splitlines()[-1]

    (scores,) = run.glob("buckets/operator-0/*/scores/00000000-*.sco")
    scores.unlink()
    status, classes, last = audit()
    assert (status, classes) == (ScoresFault.exit_status, ["scores"])
    assert last.startswith("error[audit.scores]: round 0: ")
    (heads,) = run.glob("buckets/operator-0/*/seals/00000001.*.heads")
    heads.unlink()
    status, classes, last = audit()
    assert (status, sorted(classes)) == (AuditError.exit_status, ["ledger", "scores"])
    assert last.startswith("error[audit]: round 1: ")
