"""Forks commands off, so that many of them pay for one start: `forked.Commands` starts it and tells it what to run.

    python -P forking.py

It imports what commands import (torch alone takes a second and more), says that it is ready, and then reads orders from
stdin, a line each: `{"module", "arguments", "folder", "environment", "out", "err"}`. A command runs in a child, whose
exit status is printed once it has ended.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from typing import Any

from muster.cli.lazy import Group, load
from muster.cli.table import COMMANDS


def import_commands() -> None:
    """Have everything there that a command would load when it is called."""
    for entry in COMMANDS.values():
        for command in entry.commands.values() if isinstance(entry, Group) else (entry,):
            load(command.function)


def run(order: dict[str, Any]) -> None:
    """Become the process that is asked for, as `python -m` would run it."""
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    new = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, (path, flags) in enumerate(((os.devnull, os.O_RDONLY), (order["out"], new), (order["err"], new))):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - what was read ahead of the last one is the parent's
    sys.argv[1:] = order["arguments"]
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


def main() -> None:
    """Serve until there is no more to read."""
    import_commands()
    print("ready", flush=True)  # noqa: T201 - what the test process reads
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            return run(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201
    return None


if __name__ == "__main__":
    main()
