"""An event loop whose clock jumps to the next timer, so that a deadline of ten minutes takes a millisecond.

Nothing waits on this loop: when no task can go on, time moves to the earliest timer at once. Work in threads is real,
and while any is outstanding time stands still, however long it takes; file descriptors are looked at before every
jump and waited for only where there is no timer. Processes are beyond it: nobody tells the loop that one is at work.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from types import CoroutineType
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

DAY = 86_400.0
_ASYNCIO = Path(asyncio.__file__).parent
_SHOWN = 8
"""Tasks that the error of a stuck loop names."""


class Stuck(RuntimeError):
    """Nothing on the loop can ever go on, or it went on past the limit of its time; the text says who waits where."""


class _JumpingSelector(selectors.DefaultSelector):
    """Waits by moving the clock; holds the loop's time because only it knows when to."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.now = 0.0
        self.outstanding: set[object] = set()
        """Work in threads; it leaves this set on the loop, which its end has woken."""
        self._limit = limit

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now; else wait for threads if there are any, and jump by `timeout` seconds if not."""
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if self.outstanding:
            return super().select()
        if timeout is not None:
            self.now += timeout
            if self.now > self._limit:
                limit, self._limit = self._limit, self._limit + DAY  # what is cancelled now may need time to clean up
                raise Stuck(f"the clock passed its limit of {limit:g} s; waiting: {_waiting()}")
            return ready
        if len(self.get_map()) > 1:  # the loop's own pipe, by which threads wake it, is always there
            return super().select()
        raise Stuck(f"no task can go on, no timer is set and no thread works; waiting: {_waiting()}")


class ClockLoop(asyncio.SelectorEventLoop):
    """An event loop over a clock that starts at 0 and jumps; it raises `Stuck` where another would hang."""

    def __init__(self, limit: float = DAY) -> None:
        """`limit` (seconds of the loop's time) ends what would go on for ever, such as a poll for what never comes."""
        self._jumps = _JumpingSelector(limit)
        super().__init__(self._jumps)
        self._threads = ThreadPoolExecutor(thread_name_prefix="lab")
        self.set_default_executor(self._threads)

    def time(self) -> float:
        """Seconds that have passed for whoever asks this loop."""
        return self._jumps.now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run work in a thread; time stands still until it has ended, even where nobody awaits it any more."""
        work: Future[T] = (executor or self._threads).submit(func, *args)
        future = asyncio.wrap_future(work, loop=self)
        self._jumps.outstanding.add(work)
        work.add_done_callback(self._ended)  # after the callback of `future`, so the result is on the loop first
        return future

    def _ended(self, work: Future[Any]) -> None:
        """In the thread: have the loop forget the work. Doing so here could leave it waiting with nobody to wake it."""
        if not self.is_closed():
            self.call_soon_threadsafe(self._jumps.outstanding.discard, work)

    async def shutdown_default_executor(self, *args: Any) -> None:
        """Join the threads; done by one of asyncio's own, which time must not overtake either."""
        me = object()
        self._jumps.outstanding.add(me)
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._jumps.outstanding.discard(me)


def run(main: Coroutine[Any, Any, T], limit: float = DAY) -> T:
    """What `asyncio.run` does, on a clock that jumps.

    Raises:
        Stuck: nothing could go on any more, or `limit` seconds of the loop's time were over.
    """
    with asyncio.Runner(loop_factory=lambda: ClockLoop(limit)) as runner:
        return runner.run(main)


def _waiting() -> str:
    """The tasks of the running loop and the line each waits in."""
    places = [f"{task.get_name()} at {_line(task)}" for task in asyncio.all_tasks()]
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return ", ".join(sorted(places)[:_SHOWN]) + more


def _line(task: asyncio.Task[Any]) -> str:
    """Where a suspended task stands: the innermost line outside asyncio of the coroutines that await each other."""
    place = "its start"
    at: object = task.get_coro()
    while isinstance(at, CoroutineType) and at.cr_frame is not None:
        file = at.cr_frame.f_code.co_filename
        if Path(file).parent != _ASYNCIO:
            place = f"{file}:{at.cr_frame.f_lineno}"
        at = at.cr_await
    return place
