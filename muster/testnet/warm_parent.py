"""The one process of a local run that imports what all participants need, and forks them.

    python -P -m muster.testnet.warm_parent SOCKET PADDING

Six participants that import torch each for themselves take most of the time until a local run's first record. For
each request that comes through the inherited SOCKET (`warm.py` writes them) a process begins in which the imports are
done, and all else is as if its command line had been run: environment, session, standard streams, command line in
`ps`; PADDING is the room for the latter. It is a grandchild whose parent is gone at once, so it becomes the child of
the supervisor, which adopts it. Forking is sound because nothing imported here starts a thread; where something does,
nothing is forked and this process ends. It ends, too, when the supervisor closes the socket or dies.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import random
import runpy
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from muster.testnet.parentage import die_with_parent, supervisor_pid

IMPORTED = (
    "muster.cli.main",
    "muster.cli.daemons",
    "muster.kernels.fast.jit",
    "muster.validator.aggregator.aggregator",
    "muster.validator.gauntlet.score_store",
    "muster.validator.gauntlet.validator",
)
"""What brings in all that a participant imports."""

NUMBER_BYTES = 8
"""Of the length before a request's text, and of the answer, a pid or 0; both big-endian."""

PYTHON = ("-P", "-m")
"""What follows the interpreter in a command line that can be forked; then come the module and its arguments."""

_ARGUMENTS = 48
"""Field of /proc/PID/stat (proc(5)) with the address of the command line; the next one is that of its end."""


@dataclass(frozen=True, slots=True)
class Request:
    """A command line to begin, its whole environment, and the file (a descriptor) that it prints into."""

    argv: tuple[str, ...]
    env: dict[str, str]
    log: int


def main() -> None:
    """Serve until told to end; in each process that is forked, be what was asked for."""
    line = socket.socket(fileno=int(sys.argv[1]))
    parent = supervisor_pid(os.environ)
    assert parent is not None, "the supervisor starts this program"
    die_with_parent(parent)
    show_command_line(sys.orig_argv[:-1])
    for module in IMPORTED:
        import_module(module)
    gc.freeze()  # what all share is not moved, and no collection writes to its pages
    request = serve(line)
    if request is not None:
        become(request)


def serve(line: socket.socket) -> Request | None:
    """Fork one process for each request; returns it in that process, and None here when there are no more."""
    while (request := _received(line)) is not None:
        if len(list(Path("/proc/self/task").iterdir())) != 1:
            raise RuntimeError("an import has started a thread; a process with threads is not forked")
        told, tells = os.pipe()
        middle = os.fork()
        if middle == 0:
            middle = os.getpid()
            if os.fork() != 0:
                os._exit(0)
            while os.getppid() == middle:  # which is about to be gone
                time.sleep(0.001)
            os.setsid()  # before anybody knows the pid, which is then the group's too
            os.write(tells, os.getpid().to_bytes(NUMBER_BYTES, "big"))
            for descriptor in (told, tells, line.detach()):
                os.close(descriptor)
            return request
        for descriptor in (tells, request.log):
            os.close(descriptor)
        os.waitpid(middle, 0)
        line.sendall(os.read(told, NUMBER_BYTES).rjust(NUMBER_BYTES, b"\0"))  # 0: nothing could be forked
        os.close(told)
    return None


def _received(line: socket.socket) -> Request | None:
    head, logs, _, _ = socket.recv_fds(line, NUMBER_BYTES, 1)
    if not head:
        return None
    text = b""
    while len(text) < int.from_bytes(head, "big"):
        part = line.recv(1 << 16)
        if not part:
            return None
        text += part
    asked = json.loads(text)
    return Request(tuple(asked["argv"]), asked["env"], logs[0])


def become(request: Request) -> None:
    """Go on as if this process had been started with a command line; returns when that has ended."""
    for stream in (1, 2):
        os.dup2(request.log, stream)
    os.close(request.log)
    os.environ.clear()
    os.environ.update(request.env)
    random.seed()  # its state was the parent's
    show_command_line(request.argv)
    sys.orig_argv = list(request.argv)
    module, *arguments = request.argv[1 + len(PYTHON) :]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def show_command_line(argv: Sequence[str]) -> None:
    """Have the kernel show another command line of this process, as far as the room of its own one goes."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()  # from the third on
    start, end = map(int, fields[_ARGUMENTS - 3 : _ARGUMENTS - 1])
    text = b"\0".join(os.fsencode(word) for word in argv)[: end - start - 1]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


if __name__ == "__main__":
    main()
