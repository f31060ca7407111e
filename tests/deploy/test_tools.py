"""Each file of deploy/ is what its own tool takes.

A test says which tool it lacks; `make deploy-check` installs those that come from the package index.
"""

from __future__ import annotations

import getpass
import grp
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from artefacts import DEPLOY, ROLES, ROOT, SETTINGS, TASKS, compose_document, task_text, unit_path

from muster.deploy.skypilot import STRATEGIES

EXPOSURE = 25
"""Tenths of `systemd-analyze security`'s points: 2.5 of 10 is well inside its best word, OK."""


def tool(name: str) -> str:
    """Where a tool is; skips the test where it is not."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on the PATH")
    return found


def tried(*argv: str | Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """What came of a command."""
    return subprocess.run(
        [str(word) for word in argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **extra},
    )


def beside_sky(script: str, home: Path, *arguments: str | Path) -> Any:
    """What a script prints as JSON, run by the Python that SkyPilot is installed for, in the repository."""
    python = Path(tool("sky")).parent / "python"
    environment = {**os.environ, "HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(python), "-c", script, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=300, cwd=ROOT, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


LOAD = """
import json, sys, dotenv, yaml
from sky import task as tasks
config = yaml.safe_load(open(sys.argv[1]))
try:
    given = list(dotenv.dotenv_values(sys.argv[2]).items())  # sky's --env-file gives all of it as secrets too
    task = tasks.Task.from_yaml_config(config, env_overrides=given, secrets_overrides=given)
except ValueError as error:
    print(json.dumps({"refused": str(error)}))
else:
    (resources,) = task.resources
    print(json.dumps({
        "envs": task.envs, "mounts": task.file_mounts, "gpus": resources.accelerators, "spot": resources.use_spot,
        "recovery": resources.job_recovery, "image": list(resources.image_id.values())[0], "run": task.run,
        "secrets": sorted(task.secrets),
    }))
"""


class TestSkypilot:
    """SkyPilot's own loader."""

    @pytest.mark.parametrize("role", TASKS)
    def test_a_task_loads_as_it_is_meant(self, role: str, tmp_path: Path) -> None:
        loaded = beside_sky(LOAD, tmp_path, DEPLOY / "skypilot" / f"{role}.yaml", DEPLOY / "settings.env")
        assert {name: loaded["envs"][name] for name in SETTINGS} == SETTINGS
        assert loaded["envs"]["MUSTER_STATE"] == f"/var/lib/muster/{role}"
        assert loaded["mounts"] == {"/etc/muster/keys": SETTINGS["KEYS"]}
        assert loaded["gpus"] == {"L40S": 1}
        assert loaded["spot"] is True
        assert loaded["image"] == "docker:python:3.11-bookworm"
        assert loaded["recovery"]["strategy"] == "EAGER_NEXT_REGION"
        assert loaded["secrets"] == sorted(SETTINGS)

    def test_nothing_is_launched_without_the_settings(self, tmp_path: Path) -> None:
        (tmp_path / "empty.env").touch()
        loaded = beside_sky(LOAD, tmp_path, DEPLOY / "skypilot" / "miner.yaml", tmp_path / "empty.env")
        assert "MUSTER_RUN" in loaded["refused"]

    def test_it_takes_in_silence_what_deploy_check_names(self, tmp_path: Path) -> None:
        """Should a release of SkyPilot refuse these itself, the check need not."""
        task = tmp_path / "task.yaml"
        task.write_text(
            "envs: {A: 010, B: 12:30:45}\nsecrets:\n  C:\nresources:\n  image_id: 'docker:x'\n"
            "  accelerators: 'H1OO:1'\n  use_spot: true\n  job_recovery: {strategy: 'EAGERLY'}\nrun: 'true'\n"
        )
        (tmp_path / "empty.env").touch()
        loaded = beside_sky(LOAD, tmp_path, task, tmp_path / "empty.env")
        assert loaded["envs"] == {"A": "8", "B": "45045"}
        assert loaded["secrets"] == []
        assert loaded["gpus"] == {"H1OO": 1}
        assert loaded["recovery"]["strategy"] == "EAGERLY"

    def test_strategies_are_those_that_it_has(self, tmp_path: Path) -> None:
        script = (
            "import json, sky.jobs.recovery_strategy as s\nfrom sky.utils.registry import "
            "JOBS_RECOVERY_STRATEGY_REGISTRY as r\nprint(json.dumps(sorted(r.keys())))"
        )
        assert {name.upper() for name in beside_sky(script, tmp_path)} == STRATEGIES


class TestSystemd:
    """systemd-analyze, systemd-sysusers, logrotate."""

    @pytest.mark.parametrize("role", ROLES)
    def test_a_unit_is_valid(self, role: str) -> None:
        done = tried(tool("systemd-analyze"), "verify", "--recursive-errors=no", unit_path(role))
        assert (done.returncode, done.stderr) == (0, "")

    def test_a_misspelt_key_is_not(self, tmp_path: Path) -> None:
        unit = tmp_path / "muster-miner.service"
        unit.write_text(unit_path("miner").read_text().replace("LoadCredential=", "LoadCredentials=", 1))
        assert tried(tool("systemd-analyze"), "verify", "--recursive-errors=no", unit).returncode != 0

    @pytest.mark.parametrize("role", ROLES)
    def test_a_unit_is_closed_to_what_it_does_not_need(self, role: str) -> None:
        analyze = tool("systemd-analyze")
        done = tried(analyze, "security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", unit_path(role))
        assert done.returncode == 0, done.stdout[-300:]

    def test_the_user(self) -> None:
        sysusers = tool("systemd-sysusers")
        if "--dry-run" not in tried(sysusers, "--help").stdout:
            pytest.skip("this systemd-sysusers cannot only say what it would do")
        done = tried(sysusers, "--dry-run", DEPLOY / "systemd" / "muster.sysusers")
        assert done.returncode == 0, done.stderr
        assert "muster" in done.stdout + done.stderr

    def test_journals_are_rotated_while_they_are_written(self, tmp_path: Path) -> None:
        """As the journal does: open once, only ever append."""
        rotate = shutil.which("logrotate") or shutil.which("logrotate", path="/usr/sbin")
        if rotate is None:
            pytest.skip("logrotate is not installed")
        logs = tmp_path / "miner" / "run" / "logs"
        logs.mkdir(parents=True)
        journal = logs / "miner.jsonl"
        user, group = getpass.getuser(), grp.getgrgid(os.getgid()).gr_name
        text = (DEPLOY / "systemd" / "muster.logrotate").read_text()
        own = text.replace("/var/lib/muster", str(tmp_path)).replace("su muster muster", f"su {user} {group}")
        rules = tmp_path / "rules"
        rules.write_text(own)
        rules.chmod(0o644)
        with journal.open("ab", buffering=0) as file:
            file.write(b"first\n")
            done = tried(rotate, "--force", "--state", tmp_path / "state", rules)
            assert done.returncode == 0, done.stderr
            file.write(b"second\n")
        assert journal.read_bytes() == b"second\n"
        assert (logs / "miner.jsonl.1").read_bytes() == b"first\n"


COMPOSE = """
import json, sys
from compose_spec import PyCompose
try:
    PyCompose.from_json(sys.argv[1])
    print("null")
except ValueError as error:
    print(json.dumps(str(error)))
"""


class TestCompose:
    """The Compose specification, by docker's plugin or by the package compose-spec."""

    def test_the_file_is_valid(self, tmp_path: Path) -> None:
        docker = shutil.which("docker")
        if docker is not None and tried(docker, "compose", "version").returncode == 0:
            compose = DEPLOY / "compose" / "compose.yml"
            settings = ("--env-file", DEPLOY / "settings.env", "-f", compose, "--profile", "*")
            done = tried(docker, "compose", *settings, "config", "--quiet")
            assert done.returncode == 0, done.stderr
            return
        document = compose_document(SETTINGS)
        assert beside_sky(COMPOSE, tmp_path, json.dumps(document)) is None
        document["services"]["miner"]["cap_dropp"] = document["services"]["miner"].pop("cap_drop")
        assert "cap_dropp" in beside_sky(COMPOSE, tmp_path, json.dumps(document))


class TestCloudInit:
    """cloud-init's own schema."""

    def test_the_user_data_is_valid(self, tmp_path: Path) -> None:
        command = (tool("cloud-init"), "schema", "--config-file")
        done = tried(*command, DEPLOY / "cloud-init" / "miner.yaml")
        assert done.returncode == 0, done.stdout + done.stderr
        wrong = tmp_path / "wrong.yaml"
        wrong.write_text((DEPLOY / "cloud-init" / "miner.yaml").read_text().replace("runcmd:\n", "runcmd:\n  a:\n", 1))
        assert tried(*command, wrong).returncode != 0


class TestShell:
    """Scripts, and the image that compose runs."""

    @pytest.mark.parametrize("role", TASKS)
    def test_scripts_are_shell(self, role: str) -> None:
        task = yaml.safe_load(task_text(role))
        for script in (task["setup"], task["run"], (DEPLOY / "systemd" / "install").read_text()):
            assert tried("bash", "-n", "-c", script).returncode == 0

    def test_the_dockerfile(self) -> None:
        """Debian's archive keeps no old versions, so packages cannot be pinned (DL3008)."""
        done = tried(tool("hadolint"), "--ignore", "DL3008", ROOT / "docker" / "Dockerfile")
        assert done.returncode == 0, done.stdout

    def test_the_install_script(self) -> None:
        done = tried(tool("shellcheck"), DEPLOY / "systemd" / "install")
        assert done.returncode == 0, done.stdout
