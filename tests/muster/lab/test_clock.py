"""The clock that jumps: timers in their order and at their times, threads and sockets real, and no hanging."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.lab import clock

DELAYS = st.lists(st.floats(min_value=0.0, max_value=10_000.0), min_size=1, max_size=8)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a thread of a test waits for; opened in any case, lest a failed test hang."""
    event = threading.Event()
    yield event
    event.set()


async def ticks(seen: list[float]) -> None:
    """A timer every second, for ever: what a clock that may jump jumps to."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(1)
        seen.append(loop.time())


def test_ten_minutes_take_no_time() -> None:
    """Would it really wait, pytest would end it."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(600):
                await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    assert clock.run(main()) == 600


@given(DELAYS)
def test_timers_fire_in_the_order_of_their_times_and_at_them(delays: list[float]) -> None:
    async def main() -> list[tuple[float, float]]:
        woken = []

        async def sleeper(delay: float) -> None:
            await asyncio.sleep(delay)
            woken.append((delay, asyncio.get_running_loop().time()))

        async with asyncio.TaskGroup() as tasks:
            for delay in delays:
                tasks.create_task(sleeper(delay))
        return woken

    woken = clock.run(main())
    assert [delay for delay, _ in woken] == sorted(delays)
    assert all(at == pytest.approx(delay, abs=1e-6) for delay, at in woken)


def converse(loop: asyncio.AbstractEventLoop, turns: int) -> None:
    """In a thread: wake the loop `turns` times, and let it fall idle after each."""
    for _ in range(turns):
        heard = threading.Event()
        loop.call_soon_threadsafe(heard.set)
        heard.wait()


def test_time_stands_still_while_a_thread_works() -> None:
    async def main() -> None:
        loop, seen = asyncio.get_running_loop(), list[float]()
        ticking = asyncio.create_task(ticks(seen))
        await asyncio.to_thread(converse, loop, 20)
        assert (loop.time(), seen) == (0, [])
        await asyncio.sleep(3.5)
        assert seen == [1, 2, 3]
        ticking.cancel()

    clock.run(main())


def test_so_it_does_for_a_thread_of_ones_own_pool() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        ticking = asyncio.create_task(ticks([]))
        with ThreadPoolExecutor(1) as pool:
            await loop.run_in_executor(pool, converse, loop, 20)
        ticking.cancel()
        return loop.time()

    assert clock.run(main()) == 0


def test_and_for_one_that_nobody_awaits_any_more(gate: threading.Event) -> None:
    async def main() -> None:
        loop, began = asyncio.get_running_loop(), threading.Event()

        def work() -> None:
            began.set()
            gate.wait()
            converse(loop, 20)
            loop.call_soon_threadsafe(ended.set_result, loop.time())

        ended = loop.create_future()
        left = asyncio.create_task(asyncio.to_thread(work))
        await asyncio.to_thread(began.wait)
        left.cancel()
        ticking = asyncio.create_task(ticks([]))
        gate.set()
        assert await ended == 0
        ticking.cancel()

    clock.run(main())


def test_what_a_thread_raises_arrives() -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)

    clock.run(main())


def test_sockets_are_real() -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            there.setblocking(False)
            reading = asyncio.create_task(loop.sock_recv(there, 99))
            await asyncio.sleep(5)
            await loop.sock_sendall(here, b"five seconds late")
            return await reading

    assert clock.run(main()) == b"five seconds late"


def test_a_deadlock_is_named_where_it_is() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(clock.Stuck, match=r"no timer is set .* at .*test_clock\.py:\d+$"):
        clock.run(main())


def test_a_wait_without_end_is_ended_and_may_clean_up() -> None:
    left = []

    async def main() -> None:
        try:
            await ticks([])
        finally:
            await asyncio.sleep(1)
            left.append(asyncio.get_running_loop().time())

    with pytest.raises(clock.Stuck, match=r"limit of 50 s; waiting: .*test_clock\.py"):
        clock.run(main(), limit=50)
    assert left == [52]


def test_errors_and_results_come_through() -> None:
    async def result(value: int) -> int:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 7)
        return value

    async def error() -> None:
        raise LookupError("gone")

    assert clock.run(result(3)) == 3
    with pytest.raises(LookupError, match="gone"):
        clock.run(error())
