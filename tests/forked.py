"""Commands as processes of their own, forked off one that has imported everything (`forking`).

What they do, print and end with is what `python -P -m muster` does; how that itself starts is shown where it is what a
test is about (tests/test_frame.py, and whatever runs with the processes).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[1]


class Commands:
    """A process that forks commands off, one after the other; it ends with the context."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        """Start it, by words that start another program, if there are any."""
        argv = [*prefix, sys.executable, "-P", str(Path(__file__).with_name("forking.py"))]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self._server = subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._told()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def _told(self) -> str:
        assert self._server.stdout is not None
        line = self._server.stdout.readline().strip()
        assert line, f"the process that forks commands off has ended with status {self._server.wait()}"
        return line

    def __call__(
        self,
        *arguments: str,
        module: str = "muster",
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run one to its end: in this process's environment and folder, unless others are given."""
        assert self._server.stdin is not None
        with tempfile.TemporaryDirectory() as told:
            out, err = Path(told, "out"), Path(told, "err")
            Path(told).chmod(0o777)  # it may run as somebody else
            order = {
                "module": module,
                "arguments": arguments,
                "folder": str(folder or Path.cwd()),
                "environment": dict(os.environ if environment is None else environment),
                "out": str(out),
                "err": str(err),
            }
            self._server.stdin.write(json.dumps(order) + "\n")
            self._server.stdin.flush()
            status = int(self._told())
            return subprocess.CompletedProcess(arguments, status, out.read_text(), err.read_text())
