"""A folder that stands for a whole machine: /etc, /opt and /var of the files of deploy/ lie below it.

What a provider, a container engine or systemd does with a file is done here as it is written there, with processes of
this machine: variables and key files in place, then the commands themselves.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from artefacts import SETTINGS, compose_document, task_text

from muster.deploy import dotenv, systemd
from muster.protocol.types import Role
from muster.run.daemon import label
from muster.run.folder import RunDirectory

LOOK_SECONDS = 0.1
"""Between two looks into a journal."""
PATIENCE_SECONDS = 600.0
"""For a doctor and a start on a machine that has other things to do."""

PLACES = re.compile(r"(?<![\w./-])/(?:etc/muster|opt/muster|var/lib|var/cache|run-data|run/secrets)\b")
"""Where the files of deploy/ put things on a machine."""


@dataclass(frozen=True)
class Started:
    """What is to be run: a command and all of its environment."""

    argv: Sequence[str]
    environment: Mapping[str, str]


@dataclass
class Box:
    """A machine for one participant of a run in folders; Muster is installed already."""

    folder: Path
    run: RunDirectory
    role: str
    settings: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        software = self.folder / "opt" / "muster"
        software.mkdir(parents=True)
        (software / "bin").symlink_to(Path(sys.executable).parent)
        keys = self.folder / "keys"
        keys.mkdir()
        shutil.copy(self.run.key(self.name), keys / "hotkey")
        for name in dotenv.KEY_FILES[1:]:
            (keys / name).write_text("unused")
        for path in keys.iterdir():
            path.chmod(0o600)
        own = {"RUN": str(self.run.path), "NAME": self.name, "LOCATION": f"dir:{self.name}"}
        self.settings = {f"MUSTER_{name}": value for name, value in own.items()} | {"KEYS": str(keys)}

    @property
    def name(self) -> str:
        """Who it is for."""
        return "miner-0" if self.role == Role.MINER.value else "operator-0"

    @property
    def environment(self) -> dict[str, str]:
        """What every process of a machine has."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        tree = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
        return {"PATH": path, "HOME": str(home), **tree}

    def local(self, text: str) -> str:
        """A text of a file of deploy/, with the machine's places below this folder."""
        return PLACES.sub(lambda found: f"{self.folder}{found[0]}", text)

    def settings_file(self) -> Path:
        """The settings as a reader writes them."""
        path = self.folder / "settings.env"
        path.write_text("".join(f"{name}='{value}'\n" for name, value in self.settings.items()))
        return path

    def task(self) -> Started:
        """What SkyPilot does: mounts copied without their mode, variables set, the script run."""
        task = yaml.safe_load(task_text(self.role))
        values = self.settings | {name: value for name, value in task["envs"].items() if value is not None}
        for target, source in task["file_mounts"].items():
            shutil.copytree(source.replace("${KEYS}", values["KEYS"]), self.local(target))
            for path in Path(self.local(target)).iterdir():
                path.chmod(0o644)
        environment = {name: self.local(value) for name, value in values.items()}
        return Started(["bash", "-c", self.local(task["run"])], self.environment | environment)

    def service_of_compose(self) -> Started:
        """What a container engine does: secrets and volume mounted, variables set, entry point and command run."""
        given = SETTINGS | self.settings | {"NODE": str(self.folder / "run-data")}
        document = compose_document(given)
        service = document["services"][self.role]
        (self.folder / "run-data").mkdir()
        secrets = self.folder / "run" / "secrets"
        secrets.mkdir(parents=True)
        for name in service["secrets"]:
            shutil.copy(document["secrets"][name]["file"], secrets / name)
        argv = [*service["entrypoint"], *service["command"]]
        own = {name: self.local(value).replace("0.0.0.0:9464", "off") for name, value in service["environment"].items()}
        return Started([word.replace("$$", "$") for word in argv], self.environment | own)

    def service(self) -> Started:
        """What systemd does with the installed unit: credentials and variables in place, the command run."""
        unit = self.folder / "etc" / "systemd" / "system" / f"muster-{self.role}.service"
        entries = [entry for entry in systemd.parse(unit.read_text()) if entry.section == "Service"]
        places = {"%d": self.folder / "credentials", "%S": self.folder / "var/lib", "%C": self.folder / "var/cache"}
        places["%d"].mkdir()
        environment = self.environment
        for entry in entries:
            value = entry.value
            if entry.key == "EnvironmentFile":
                environment |= dotenv.values(Path(self.local(value)).read_text())
            elif entry.key == "LoadCredential":
                name, _, path = value.partition(":")
                shutil.copy(self.local(path), places["%d"] / name)
            elif entry.key == "Environment":
                for specifier, place in places.items():
                    value = value.replace(specifier, str(place))
                environment |= dict(systemd.variables(value))
        (command,) = [entry.value for entry in entries if entry.key == "ExecStart"]
        return Started(shlex.split(self.local(command)), environment)

    def to_the_end(self, started: Started) -> tuple[int, str]:
        """Run it to its end; its status and what it printed."""
        done = subprocess.run(
            started.argv, env=dict(started.environment), cwd=self.folder,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    @contextmanager
    def taking_part(self, started: Started) -> Iterator[subprocess.Popen[bytes]]:
        """Run it until it has joined the run; ended in any case."""
        log = self.folder / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                started.argv, env=dict(started.environment), cwd=self.folder, stdout=out, stderr=out
            )
        try:
            journal = self.run.journal(label(Role(self.role), self.name))
            end = time.monotonic() + PATIENCE_SECONDS
            while not (journal.exists() and '"event":"joined"' in journal.read_text()):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(LOOK_SECONDS)
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def stopped(self, process: subprocess.Popen[bytes]) -> tuple[int, str]:
        """Stop it as a machine that goes down does; its status and what it printed."""
        process.send_signal(signal.SIGTERM)
        return process.wait(PATIENCE_SECONDS), (self.folder / "log").read_text()
