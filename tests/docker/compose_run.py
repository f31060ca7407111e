"""What a container engine does with compose.yml, with processes in place of containers: commands, environment, health.

A container's own network becomes a loopback address of its own, the volume a folder; everything else is taken as it
is written in the file.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DOCKER = Path(__file__).parents[2] / "docker"
VOLUME = "/run-data"
IMAGE_FOLDER = "/opt/muster"
PORT = "9464"
LOOK_SECONDS = 0.25
"""Between two questions to a daemon, each of which starts an interpreter: short against a round of seconds."""

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Z0-9_]+):-(?P<default>[^}]*)\}")


def load_compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """The file with its variables filled in."""
    text = (DOCKER / "compose.yml").read_text()
    found = yaml.safe_load(_VARIABLE.sub(lambda m: variables.get(m["name"], m["default"]), text).replace("$$", "$"))
    assert isinstance(found, dict)
    return found


def default_services(compose: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The services that start without a profile."""
    return {name: service for name, service in compose["services"].items() if "profiles" not in service}


def free_port() -> int:
    """A port nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Container:
    """One service as a process; `address` is where its daemon answers."""

    name: str
    service: Mapping[str, Any]
    volume: Path
    address: str
    process: Process | None = None

    def _local(self, text: str) -> str:
        host = self.address.partition(":")[0]
        text = text.replace(f"0.0.0.0:{PORT}", self.address).replace(f"127.0.0.1:{PORT}", self.address)
        text = text.replace("0.0.0.0", host)
        return text.replace(VOLUME, str(self.volume)).replace(IMAGE_FOLDER, str(DOCKER))

    def _environment(self) -> dict[str, str]:
        given = {key: self._local(str(value)) for key, value in self.service.get("environment", {}).items()}
        return {
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            "HOME": str(self.volume),
            "OMP_NUM_THREADS": "1",
            **given,
        }

    async def _spawn(self, argv: list[str]) -> Process:
        local = [self._local(part) for part in argv]
        return await asyncio.create_subprocess_exec(
            *local, env=self._environment(), cwd=self.volume, stdout=PIPE, stderr=STDOUT
        )

    async def start(self) -> None:
        """What the engine starts: the image's entry point, or the service's own, and the command."""
        self.process = await self._spawn([*self.service.get("entrypoint", ["muster"]), *self.service["command"]])

    async def healthy(self) -> tuple[int, str]:
        """Exit status and output of the health check."""
        kind, *argv = self.service["healthcheck"]["test"]
        assert kind == "CMD"
        asked = await self._spawn(argv)
        out, _ = await asked.communicate()
        assert asked.returncode is not None
        return asked.returncode, out.decode()

    async def until_healthy(self) -> None:
        """Ask until it is well; it must not end before."""
        assert self.process is not None
        while (await self.healthy())[0]:
            if self.process.returncode is not None:
                out, _ = await self.process.communicate()
                raise AssertionError(f"{self.name} ended before it was well: {out.decode()}")
            await asyncio.sleep(LOOK_SECONDS)

    async def ended(self) -> tuple[int, str]:
        """Its exit status and what it printed."""
        assert self.process is not None
        out, _ = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode()

    async def stop(self) -> None:
        """End what still runs."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


def containers(services: Mapping[str, dict[str, Any]], volume: Path) -> dict[str, Container]:
    """A container for each service, on a loopback address of its own."""
    port = free_port()
    return {
        name: Container(name, service, volume, f"127.0.1.{i}:{port}")
        for i, (name, service) in enumerate(services.items(), start=1)
    }
