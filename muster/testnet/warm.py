"""Processes that begin with their imports done: forked by one warmed parent instead of started each for itself."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO

from muster.testnet.parentage import SUPERVISOR_VARIABLE, adopting
from muster.testnet.spawning import Process, execute
from muster.testnet.warm_parent import NUMBER_BYTES, PYTHON

log = logging.getLogger(__name__)

PROGRAM = "muster.testnet.warm_parent"

ROOM = 4096
"""Bytes of command line that a forked process can show: a path may have as many."""

ENDING = 10.0
"""Seconds that the warmed parent has to end: its imports may still go on."""

STARTING = {"OMP_NUM_THREADS": "1", "THP_MEM_ALLOC_ENABLE": "1"}
"""What must be in the environment when torch is imported: participants have one thread each, and huge pages make their
allocations cheap (measured: 3–5×)."""


class WarmParent:
    """The client of `warm_parent.py`; used through `warmed`."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._turn = threading.Lock()

    async def spawn(self, argv: Sequence[str], env: Mapping[str, str], log_file: BinaryIO) -> Process:
        """Begin a process by a command line; where the warmed parent cannot (any more), the program is run.

        Raises:
            OSError: it cannot be run either.
        """
        if tuple(argv[: 1 + len(PYTHON)]) == (sys.executable, *PYTHON) and env.items() >= STARTING.items():
            pid = await asyncio.to_thread(self._asked, argv, env, log_file)
            if pid is not None:
                return Forked(pid)
        return await execute(argv, env, log_file)

    def _asked(self, argv: Sequence[str], env: Mapping[str, str], log_file: BinaryIO) -> int | None:
        """The pid of a new process; waits for the parent's imports where they still go on."""
        text = json.dumps({"argv": list(argv), "env": dict(env)}).encode()
        with self._turn:
            try:
                socket.send_fds(self._line, [len(text).to_bytes(NUMBER_BYTES, "big")], [log_file.fileno()])
                self._line.sendall(text)
                answer = self._line.recv(NUMBER_BYTES, socket.MSG_WAITALL)
            except OSError:
                answer = b""
        pid = int.from_bytes(answer, "big")
        if not pid:
            log.warning("there is no warmed parent to fork from: a participant imports for itself")
        return pid or None


@contextmanager
def warmed() -> Iterator[WarmParent]:
    """Within, a warmed parent; it begins to import at once, beside whatever is done meanwhile.

    Raises:
        RunFailed, OSError: it cannot be started.
    """
    ours, theirs = socket.socketpair()
    env = {name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")}
    env |= {**STARTING, SUPERVISOR_VARIABLE: str(os.getpid())}
    with adopting(), ours:
        with theirs:
            argv = (sys.executable, *PYTHON, PROGRAM, str(theirs.fileno()), " " * ROOM)
            parent = subprocess.Popen(  # noqa: S603 - this program
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=env,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        try:
            yield WarmParent(ours)
        finally:
            ours.close()
            with suppress(subprocess.TimeoutExpired):
                parent.wait(ENDING)
            parent.kill()
            parent.wait()


class Forked:
    """A child of this process by adoption."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.ensure_future(_end_of(pid))

    async def wait(self) -> int:
        """Until it has ended and is reaped."""
        self.returncode = await asyncio.shield(self._ended)
        return self.returncode


async def _end_of(pid: int) -> int:
    """Wait for and reap a child; its exit status, −n after signal n."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # an old kernel, or a container's filter of system calls
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        return os.waitstatus_to_exitcode(status)
    try:
        loop.add_reader(descriptor, ended.set)
        await ended.wait()
        loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)
    _, status = os.waitpid(pid, 0)  # noqa: ASYNC222 - it has ended
    return os.waitstatus_to_exitcode(status)
