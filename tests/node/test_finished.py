"""A thread cannot be stopped, so whoever is cancelled while one works for him ends only when it has."""

from __future__ import annotations

import asyncio
import threading

import pytest

from muster.node.context import finished, in_thread


async def test_its_result_is_the_work_s() -> None:
    assert await finished(in_thread(lambda: 5)) == 5
    with pytest.raises(ZeroDivisionError):
        await finished(in_thread(lambda: 1 // 0))


async def test_a_lock_is_held_until_the_thread_has_ended() -> None:
    lock, go_on, begun = asyncio.Lock(), threading.Event(), threading.Event()
    ended = False

    def work() -> None:
        nonlocal ended
        begun.set()
        assert go_on.wait(60)
        ended = True

    async def hold() -> None:
        async with lock:
            await finished(in_thread(work))

    holding = asyncio.create_task(hold())
    await asyncio.to_thread(begun.wait, 60)
    for _ in range(3):  # however often it is cancelled
        holding.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert lock.locked()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert ended
    assert not lock.locked()
