"""Blocking work beside the event loop, in a thread that keeps nothing of it.

An executor's thread announces a result first and drops the call, and the result, whenever it next runs: under load the
bytes of one object would still be in memory while the next one's are made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


async def in_thread(work: Callable[[], _T]) -> _T:
    """Run `work` in a thread; once its result is back, neither it nor the result is held by the executor."""
    box: list[Any] = [work]

    def run() -> None:
        box.append(box.pop()())

    # As a name of this frame it would hold what the thread no longer does.
    del work
    await asyncio.to_thread(run)
    result: _T = box.pop()
    return result
