"""What ties a process to the one that watches it: neither outlives the other unnoticed, however it ends. For Linux."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from muster.protocol.errors import RunFailed

SUPERVISOR_VARIABLE = "SUPERVISED_BY_PID"
"""Environment variable that tells a child its supervisor's pid (`MUSTER_*` is configuration)."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(expected_ppid: int) -> None:
    """Have the kernel send this process SIGKILL when its parent dies; a child's first act.

    The kernel watches the parent's *thread* that forked (prctl(2), PR_SET_PDEATHSIG), so a supervisor's
    event loop must run in a thread that lives as long as it does. Grandchildren are not covered: each must
    call this itself.

    Raises:
        RunFailed: the parent is not `expected_ppid` any more (it died before this call), or prctl failed.
    """
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), "cannot tie this process to its supervisor")
    if os.getppid() != expected_ppid:
        raise RunFailed(f"the supervisor (pid {expected_ppid}) is gone; start the run again")


def supervisor_pid(environ: Mapping[str, str]) -> int | None:
    """What a supervised child passes to `die_with_parent`; None in a process that nobody supervises."""
    value = environ.get(SUPERVISOR_VARIABLE, "")
    return int(value) if value.isdecimal() else None


@contextmanager
def adopting() -> Iterator[None]:
    """Within, whoever descends from this process and loses its parent becomes its child (PR_SET_CHILD_SUBREAPER).

    Raises:
        RunFailed: prctl failed.
    """
    problem = "cannot adopt what its children leave behind"
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, problem)
    try:
        yield
    finally:
        _prctl(_PR_SET_CHILD_SUBREAPER, 0, problem)


def _prctl(option: int, argument: int, problem: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        raise RunFailed(f"{problem} (prctl: {os.strerror(ctypes.get_errno())})")
