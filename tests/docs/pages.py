"""The commands of a documentation page, and a shell that runs them one block after the other as a reader would.

A fenced block's first word is `sh`; words after it say how the block is read:

    values       the reader's own values; a test puts in its own for the same names
    install, update    how the software gets there; run where a test may install
    keys         reads from a terminal
    bittensor    only on a real chain
    rented       on another machine, or to get there: deploy/ has tests of its own
    aggregator   only by an operator whom the spec lists
    daemon       runs until it is stopped
    accepted, weights    comes true in time; what it prints is looked at
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

DOCS = Path(__file__).parents[2] / "docs"

COMMAND_SECONDS = 900.0
PATIENCE_SECONDS = 1500.0
"""For what comes true in time: a round or two on a machine that has other things to do."""
LOOK_SECONDS = 0.5

_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXPORTED = re.compile(r"(\w+)=")


@dataclass(frozen=True)
class Block:
    """One fenced block: its words after `sh`, its commands."""

    words: tuple[str, ...]
    text: str

    @property
    def names(self) -> set[str]:
        """The variables a block of values exports."""
        lines = [line.split("#")[0] if "'" not in line else line for line in self.text.splitlines()]
        return {name for line in lines for name in _EXPORTED.findall(line.split("://")[0])}


def blocks(page: str) -> list[Block]:
    """The shell blocks of a page, in order; every fenced block of these pages must be one."""
    found = _BLOCK.findall((DOCS / page).read_text())
    assert found
    assert all(info.split()[0] == "sh" for info, _ in found)
    return [Block(tuple(info.split()[1:]), text) for info, text in found]


class Shell:
    """Runs blocks with one environment that goes on from block to block; a context manager that ends its daemons."""

    def __init__(self, folder: Path, values: Mapping[str, str]) -> None:
        home = folder / "home"
        home.mkdir(parents=True)
        self._folder = folder
        self._state = folder / "environment"
        self._daemons: list[subprocess.Popen[bytes]] = []
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        known = {"PATH": path, "HOME": str(home), "OMP_NUM_THREADS": "1", "THP_MEM_ALLOC_ENABLE": "1", **values}
        self._state.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in known.items()))

    def run(self, text: str, **extra: str) -> str:
        """Run a block to its end, with `extra` variables for it alone; what it printed.

        Raises:
            AssertionError: a command of it failed.
        """
        done = self._try(text, extra)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def until(self, text: str, true: Callable[[str], bool] = lambda _printed: True) -> str:
        """Run a block again and again until it succeeds and prints what it should."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            done = self._try(text, {})
            if done.returncode == 0 and true(done.stdout):
                return done.stdout
            self.check_daemons()
            assert time.monotonic() < end, f"{text}\n{done.stdout}\n{done.stderr}\n{self.said()}"
            time.sleep(LOOK_SECONDS)

    def start(self, text: str) -> None:
        """Start a block that runs until it is stopped."""
        assert text.count("muster ") == 1
        script = f"source {self._state}\n{text.replace('muster ', 'exec muster ')}"
        with (self._folder / f"daemon-{len(self._daemons)}.log").open("wb") as log:
            self._daemons.append(subprocess.Popen(["bash", "-c", script], stdout=log, stderr=log, env={}))

    def check_daemons(self) -> None:
        """All daemons are alive."""
        assert all(daemon.poll() is None for daemon in self._daemons), self.said()

    def stop(self) -> None:
        """Stop the daemons as a page says; each ends cleanly."""
        self.check_daemons()
        for daemon in self._daemons:
            daemon.send_signal(signal.SIGTERM)
        assert [daemon.wait(COMMAND_SECONDS) for daemon in self._daemons] == [0] * len(self._daemons), self.said()

    def said(self) -> str:
        """The ends of the daemons' logs."""
        logs = sorted(self._folder.glob("daemon-*.log"))
        return "\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-3000:]}" for log in logs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for daemon in self._daemons:
            if daemon.poll() is None:
                daemon.kill()
                daemon.wait()

    def _try(self, text: str, extra: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        set_extra = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in extra.items())
        unset = f"unset {' '.join(extra)}\n" if extra else ""
        script = f"set -euo pipefail\nsource {self._state}\n{set_extra}{text}\n{unset}export -p > {self._state}"
        return subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, check=False, env={}, timeout=COMMAND_SECONDS
        )
