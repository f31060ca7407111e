"""How a daemon stops when it is told to: writes under way end first, all of it within a stated time.

SIGTERM, SIGINT and SIGHUP say the same. Whatever else is going on can be killed at any time and is: training begins
again, and files are replaced whole. A second signal waits for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from muster.node.drain import Drain

log = logging.getLogger(__name__)

DRAIN_SECONDS = 15.0
"""How long writes under way are waited for: a block of Bittensor is 12 s, and a put on its way mostly takes less."""

STOP_SECONDS = 25.0
"""After the first signal the process is gone at the latest; Kubernetes kills after 30 s unless told otherwise."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopping:
    """The end of one daemon. `told` is the name of the signal, "" before; `cut` is what had to be given up."""

    def __init__(
        self,
        drain: Drain,
        drain_seconds: float = DRAIN_SECONDS,
        stop_seconds: float = STOP_SECONDS,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self.told = ""
        self.since = 0.0
        self.cut: tuple[str, ...] = ()
        self._drain = drain
        self._drain_seconds = drain_seconds
        self._stop_seconds = stop_seconds
        self._leave = leave
        self._timer: threading.Timer | None = None

    @property
    def seconds(self) -> float:
        """Since the signal."""
        return time.monotonic() - self.since

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the daemon's work until it ends or a signal does."""
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
        ending: asyncio.Task[None] | None = None

        def hear(number: signal.Signals) -> None:
            nonlocal ending
            if ending is None:
                self._begin(number)
                ending = loop.create_task(self._end(task))
            elif ending.cancel():
                log.info("told to stop again, by %s: nothing is waited for", number.name)
                self.cut = self._drain.under_way
                task.cancel()

        for number in SIGNALS:
            # Under nohup SIGHUP is meant to do nothing; a shell's background jobs are born ignoring SIGINT, unmeant.
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, hear, number)
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if ending is not None:
            ending.cancel()

    def _begin(self, number: signal.Signals) -> None:
        self.told, self.since = number.name, time.monotonic()
        self._timer = threading.Timer(self._stop_seconds, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    async def _end(self, task: asyncio.Future[None]) -> None:
        log.info(
            "told to stop by %s; this takes %g s at most. Under way: %s",
            self.told,
            self._stop_seconds,
            ", ".join(self._drain.under_way) or "nothing that must not be cut",
        )
        self.cut = await self._drain.finish(self._drain_seconds)
        for what in self.cut:
            log.warning("%s is cut after %g s; the next start does it again", what, self._drain_seconds)
        task.cancel()

    def _give_up(self) -> None:
        """In a thread of its own: something does not come to its end, and can be killed at any time as well."""
        log.warning("a computation is cut, %g s after the signal; the next start begins it again", self._stop_seconds)
        self._leave(0)

    def done(self) -> None:
        """The process ends by itself."""
        if self._timer is not None:
            self._timer.cancel()
