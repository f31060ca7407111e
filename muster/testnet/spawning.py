"""How a supervised process comes to be: by running its command line, as a shell would."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import BinaryIO, Protocol, TypeAlias


class Process(Protocol):
    """A child, as `asyncio.subprocess.Process` has it: `returncode` is None while it lives, −n after signal n."""

    @property
    def pid(self) -> int:
        """Its id, which is its process group's and its session's too."""

    @property
    def returncode(self) -> int | None:
        """How it ended."""

    async def wait(self) -> int:
        """Until it has ended and is reaped; how it did."""


Spawn: TypeAlias = Callable[[Sequence[str], Mapping[str, str], BinaryIO], Awaitable[Process]]
"""Starts a command line with exactly this environment, in a session of its own; it prints into the file."""


async def execute(argv: Sequence[str], env: Mapping[str, str], log: BinaryIO) -> Process:
    """Run a program.

    Raises:
        OSError: it cannot be.
    """
    # A session of its own: the terminal's Ctrl-C must reach the supervisor alone.
    return await asyncio.create_subprocess_exec(
        *argv, stdin=DEVNULL, stdout=log, stderr=STDOUT, env=env, start_new_session=True
    )
