"""The commands in the files of deploy/ run, as processes, against a run on this machine: a wrong flag fails here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from artefacts import DEPLOY, ROLES, ROOT, TASKS, task_text
from boxes import Box, Started
from doctor_setups import lay_out

from muster.deploy import dotenv
from muster.deploy.check import check_files
from muster.deploy.systemd import INCURABLE
from muster.protocol.errors import ChainError, IdentityError

pytestmark = pytest.mark.timeout(1800)

MakeBox = Callable[[str], Box]
INSTALL = DEPLOY / "systemd" / "install"


@pytest.fixture
def box(tmp_path: Path) -> MakeBox:
    """A machine for a role, beside a run of its own."""
    return lambda role: Box(tmp_path / "machine", lay_out(tmp_path / "run"), role)


def installed(box: Box, *roles: str) -> subprocess.CompletedProcess[str]:
    """What the install script did, below the box."""
    return subprocess.run(
        [str(INSTALL), str(box.settings_file()), *roles],
        env={**box.environment, "DESTDIR": str(box.folder)},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


def skypilot(box: Box) -> Started:
    """As SkyPilot runs it."""
    return box.task()


def compose(box: Box) -> Started:
    """As a container engine runs it."""
    return box.service_of_compose()


def service(box: Box) -> Started:
    """As systemd runs what the script installed."""
    done = installed(box, box.role)
    assert done.returncode == 0, done.stderr
    return box.service()


QUICK = {(skypilot, "miner"), (compose, "aggregator"), (service, "validator")}
"""Every way and every role once; each costs some ten seconds of a processor."""

WAYS = [
    pytest.param(way, role, marks=() if (way, role) in QUICK else pytest.mark.slow, id=f"{way.__name__}-{role}")
    for way, roles in ((skypilot, TASKS), (compose, ROLES), (service, ROLES))
    for role in roles
]


@pytest.mark.processes
@pytest.mark.parametrize(("way", "role"), WAYS)
def test_the_doctor_is_asked_and_the_participant_takes_part(
    way: Callable[[Box], Started], role: str, box: MakeBox
) -> None:
    machine = box(role)
    with machine.taking_part(way(machine)) as process:
        status, printed = machine.stopped(process)
    assert status == 0, printed
    assert re.search(r"^ready\b", printed, re.MULTILINE), "the doctor spoke first"
    state = [path.name for path in machine.folder.rglob(role) if path.is_dir()]
    assert state == [role], "what must survive a restart has one place"


@pytest.mark.processes
@pytest.mark.parametrize("way", [compose, *(pytest.param(way, marks=pytest.mark.slow) for way in (skypilot, service))])
def test_what_no_restart_cures_ends_with_a_status_that_none_follows(
    way: Callable[[Box], Started], box: MakeBox
) -> None:
    machine = box("miner")
    started = way(machine)
    for path in machine.folder.rglob("hotkey"):
        path.write_text("no key")
    status, printed = machine.to_the_end(started)
    assert IdentityError.exit_status in INCURABLE
    assert status == (0 if way is compose else IdentityError.exit_status)
    assert ("not started again" in printed) == (way is compose)


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("way", [skypilot, compose])
def test_what_time_may_cure_ends_with_a_status_that_is_tried_again(way: Callable[[Box], Started], box: MakeBox) -> None:
    machine = box("miner")
    started = way(machine)
    (machine.run.path / "chain.sqlite").rename(machine.folder / "away")
    status, printed = machine.to_the_end(started)
    assert re.search(r"^FAIL +chain ", printed, re.MULTILINE)
    assert status == (1 if way is compose else ChainError.exit_status)


def test_statuses_are_told_apart_in_the_same_way_everywhere() -> None:
    for role in TASKS:
        codes = yaml.safe_load(task_text(role))["resources"]["job_recovery"]["recover_on_exit_codes"]
        assert set(codes) == set(range(1, 12)) - INCURABLE, "nor 13: a rented machine does not wait to be registered"
    script = (DEPLOY / "compose" / "compose.yml").read_text()
    (cases,) = re.findall(r"([\d|]+)\) echo", script)
    assert {int(status) for status in cases.split("|")} == INCURABLE


class TestInstall:
    """The script that makes a participant a service."""

    def test_it_may_be_repeated_and_leaves_nothing_to_name(self, box: MakeBox) -> None:
        machine = box("validator")
        for _ in range(2):
            done = installed(machine, "validator", "aggregator")
            assert done.returncode == 0, done.stderr
        units = sorted((machine.folder / "etc/systemd/system").iterdir())
        assert [unit.name for unit in units] == ["muster-aggregator.service", "muster-validator.service"]
        assert check_files(units) == []
        keys = machine.folder / "etc/muster/keys"
        modes = {path.name: path.stat().st_mode & 0o777 for path in keys.iterdir()}
        assert modes == dict.fromkeys(dotenv.KEY_FILES, 0o600)
        assert keys.stat().st_mode & 0o777 == 0o700

    def test_settings_with_a_fault_are_not_installed(self, box: MakeBox) -> None:
        machine = box("miner")
        machine.settings["MUSTER_RUN"] = "https://example.org/runs/first#RUN_ID"
        done = installed(machine, "miner")
        assert done.returncode == 3
        assert "placeholder" in done.stdout
        assert not (machine.folder / "etc").exists()

    @pytest.mark.parametrize("roles", [(), ("minor",)])
    def test_usage(self, box: MakeBox, roles: tuple[str, ...]) -> None:
        done = installed(box("miner"), *roles)
        assert done.returncode == 2
        assert done.stderr.startswith("usage: ")


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A git repository that holds this tree as it is now."""
    folder = tmp_path / "origin"
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if os.path.lexists(ROOT / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "--quiet"], ["add", "--all"], [*author, "commit", "--quiet", "--message", "now"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def test_user_data_ends_in_an_installed_service(box: MakeBox, origin: Path) -> None:
    machine = box("miner")
    data = yaml.safe_load((DEPLOY / "cloud-init" / "miner.yaml").read_text())
    (written,) = data["write_files"]
    values = {name: value for name, value in machine.settings.items() if name != "KEYS"}
    assert values.keys() == dotenv.values(written["content"]).keys()
    settings = Path(machine.local(written["path"]))
    settings.parent.mkdir(parents=True)
    settings.write_text("".join(f"{name}='{value}'\n" for name, value in values.items()))
    instead = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{origin}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://example.org/muster.git",
    }
    for command in data["runcmd"]:
        argv = [machine.local(word) for word in command]
        environment = {**machine.environment, **instead, "DESTDIR": str(machine.folder)}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
    unit = machine.folder / "etc/systemd/system/muster-miner.service"
    assert {fault.kind for fault in check_files([unit])} == {"missing"}, "until the keys come"
    shutil.copytree(machine.settings["KEYS"], machine.local("/etc/muster/keys"), dirs_exist_ok=True)
    assert check_files([unit]) == []
    assert machine.service().argv[:2] == ["/bin/sh", "-c"]


@pytest.mark.slow
@pytest.mark.parametrize("role", TASKS)
def test_a_task_installs_muster(role: str, box: MakeBox, origin: Path) -> None:
    machine = box(role)
    (machine.folder / "opt/muster/bin").unlink()
    setup = machine.local(yaml.safe_load(task_text(role))["setup"])
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        ["bash", "-euc", setup], cwd=origin, env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    told = subprocess.run([str(machine.folder / "opt/muster/bin/muster"), "--help"], capture_output=True, check=False)
    assert told.returncode == 0
