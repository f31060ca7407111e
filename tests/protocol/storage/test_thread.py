"""What ran in a thread is held by nobody once its result is back, however late the thread gets to run again."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from muster.protocol.storage.thread import in_thread


class Thing:
    """Something a weak reference can be had of."""


class Slow(ThreadPoolExecutor):
    """An executor whose threads never get round to dropping what they ran."""

    def __init__(self) -> None:
        super().__init__(1)
        self.kept: list[Any] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        """Keep the call and what it brings."""
        future = super().submit(fn, *args, **named)
        self.kept.append((fn, args, future))
        return future


async def test_neither_what_it_works_on_nor_what_it_brings_is_kept() -> None:
    executor = Slow()
    asyncio.get_running_loop().set_default_executor(executor)

    async def one() -> tuple[weakref.ref[Thing], weakref.ref[Thing]]:
        given, brought = Thing(), Thing()
        seen = weakref.ref(given), weakref.ref(brought)

        def work(given: Thing = given, brought: list[Thing] = [brought]) -> Thing:  # noqa: B006 - it is emptied here
            return brought.pop()

        del given, brought
        call = in_thread(work)
        del work
        assert await call is seen[1]()
        return seen

    given, brought = await one()
    gc.collect()
    assert len(executor.kept) == 1
    assert given() is None
    assert brought() is None


async def test_an_error_comes_back_as_it_was() -> None:
    def work() -> None:
        raise ValueError("its own words")

    with pytest.raises(ValueError, match="its own words"):
        await in_thread(work)
