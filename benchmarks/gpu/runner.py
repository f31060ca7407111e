"""Plays a section in a process of its own, so that one that dies or hangs takes no other along.

The processes are forked off a server that has imported everything and never touched the GPU: importing torch once costs
as much as some sections.
"""

from __future__ import annotations

import os
import signal
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from benchmarks.gpu.section import Found, Section, Setting

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["benchmarks.gpu.plan"])


def within_budget(section: Section, setting: Setting) -> Found | str:
    """What a section found, or why it found nothing; nothing of it runs on afterwards."""
    result, tell = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_play, args=(tell, section, setting), name=section.name)
    process.start()
    tell.close()
    try:
        if not result.poll(section.limit(setting)):
            return f"not done within its {section.limit(setting):.0f} s"
        told: Found | str = result.recv()
        return told
    except EOFError:
        process.join()
        return f"its process ended with status {process.exitcode}"
    finally:
        result.close()
        _end(process)


def _play(tell: Connection, section: Section, setting: Setting) -> None:
    """In the section's process: whatever it starts is of its group, and ends with it."""
    os.setsid()
    told: Found | str
    try:
        told = section.work(setting)
    except Exception as error:  # noqa: BLE001 - the next section shall have its turn
        text = str(error).strip().splitlines() or [""]
        told = f"{type(error).__name__}: {text[0]}"
    tell.send(told)


def _end(process: BaseProcess) -> None:
    assert process.pid is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has ended, or has no group of its own yet
        process.kill()
    process.join()
