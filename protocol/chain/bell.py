"""A hint between processes of one machine that something was written, so that nobody waits a block to look for it.

A bell is an empty file beside the chain's; to ring it is to set its times, which the kernel tells every process that
watches it (inotify(7)). It carries nothing, and nothing may depend on its being heard: where there is no such file, or
the file system tells nobody, who listens hears nothing. Anybody who may write the file may ring it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

_IN_ATTRIB = 0x4
_EVENTS_BYTES = 4096


class Bell:
    """One process's end of a bell; opened when it is first listened to, and used on one event loop."""

    def __init__(self, path: Path, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> None:
        """The bell in `path`; `clock` gives seconds, which may be set back, and `sleep` waits for some."""
        self._path = path
        self._clock = clock
        self._sleep = sleep
        self._descriptor: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung = asyncio.Event()
        self._heard = -math.inf

    def ring(self) -> None:
        """Have everybody who listens look; does nothing where there is no bell."""
        with contextlib.suppress(OSError):
            os.utime(self._path)

    async def heard(self, seconds: float, quiet: float) -> bool:
        """Whether the bell rings within some seconds, or rang since it was heard last.

        It is heard at most once in `quiet` seconds, however often it rings: a ring in that time is heard at its end.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._descriptor = _watch(self._path)
            if self._descriptor is not None:
                self._loop.add_reader(self._descriptor, self._wake)
        waking = asyncio.ensure_future(self._waking(quiet))
        sleeping = asyncio.ensure_future(self._sleep(seconds))
        try:
            await asyncio.wait({waking, sleeping}, return_when=asyncio.FIRST_COMPLETED)
            return waking.done()
        finally:
            waking.cancel()
            sleeping.cancel()

    async def _waking(self, quiet: float) -> None:
        await self._rung.wait()
        if (early := self._heard + quiet - self._clock()) > 0:
            await self._sleep(min(early, quiet))
        self._rung.clear()
        self._heard = self._clock()

    def _wake(self) -> None:
        assert self._descriptor is not None
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, _EVENTS_BYTES)  # what more there is wakes again
            self._rung.set()

    def close(self) -> None:
        """Stop listening; to be called on the event loop."""
        if self._descriptor is not None and self._loop is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None


def _watch(path: Path) -> int | None:
    """A descriptor that is readable when the times of a file have been set; None where there is none to be had."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "inotify_init1"):
        return None
    descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor >= 0 and libc.inotify_add_watch(descriptor, os.fsencode(path), _IN_ATTRIB) >= 0:
        return descriptor
    if descriptor >= 0:
        os.close(descriptor)
    return None
