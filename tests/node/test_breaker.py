"""A bucket that does not answer costs one deadline, whatever else is asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from muster.lab import clock
from muster.node.breaker import PAUSE_SECONDS, PROBE_SECONDS, BreakerBuckets, BreakerStore
from muster.protocol.errors import ObjectMissing, StorageError, StoreUnreachable
from muster.protocol.storage import DEFAULT_DEADLINE, ForwardingBuckets, ForwardingStore, Store
from muster.protocol.storage.locations import MemoryBuckets
from muster.protocol.storage.memory import MemoryStore

T = TypeVar("T")


class Swallowing(ForwardingStore):
    """A bucket on a network that swallows what is sent to it while it is `cut`; `asked` are the calls that came."""

    def __init__(self, store: Store, cut: bool = True) -> None:
        super().__init__(store)
        self.cut = cut
        self.asked: list[str] = []

    async def _forward(self, operation: str, key: str, deadline: float, call: Callable[[float], Awaitable[T]]) -> T:
        self.asked.append(operation)
        if self.cut:
            await asyncio.sleep(deadline)
            raise StoreUnreachable("no answer")
        return await super()._forward(operation, key, deadline, call)


async def silent(store: Store) -> None:
    with pytest.raises(StoreUnreachable):
        await store.get("a", max_bytes=9)


def test_the_first_call_waits_and_the_others_fail_at_once() -> None:
    async def play() -> None:
        behind = Swallowing(MemoryStore())
        store, loop = BreakerStore(behind), asyncio.get_running_loop()
        await silent(store)
        assert loop.time() == pytest.approx(DEFAULT_DEADLINE)
        for _ in range(100):
            await silent(store)
        assert loop.time() == pytest.approx(DEFAULT_DEADLINE)
        await asyncio.sleep(PAUSE_SECONDS + 1.0)
        assert behind.asked == ["get", "head"], "one looks whether it answers, for all"
        await store.stop()

    clock.run(play())


def test_it_is_asked_again_once_it_answers() -> None:
    async def play() -> None:
        behind = Swallowing(MemoryStore())
        store = BreakerStore(behind)
        await silent(store)
        await silent(store)
        await asyncio.sleep(PROBE_SECONDS + PAUSE_SECONDS + 1.0)
        behind.cut = False
        await silent(store)  # nobody has looked since
        await asyncio.sleep(PAUSE_SECONDS + 0.1)
        await store.put("a", b"1")
        assert await store.get("a", max_bytes=9) == b"1"
        assert behind.asked == ["get", "head", "head", "put", "get"]

    clock.run(play())


def test_a_refusal_is_an_answer() -> None:
    class Refusing(Swallowing):
        async def _forward(self, operation: str, key: str, deadline: float, call: Callable[[float], Awaitable[T]]) -> T:
            if not self.cut:
                raise StorageError("refused")
            return await super()._forward(operation, key, deadline, call)

    async def play() -> None:
        behind = Refusing(MemoryStore())
        store = BreakerStore(behind)
        await silent(store)
        behind.cut = False
        await silent(store)
        await asyncio.sleep(PAUSE_SECONDS + 0.1)
        with pytest.raises(StorageError, match="refused"):
            await store.get("a", max_bytes=9)

    clock.run(play())


def test_what_was_listed_is_listed_to_see_whether_it_answers() -> None:
    async def play() -> None:
        behind = Swallowing(MemoryStore())
        store = BreakerStore(behind)
        for _ in range(2):
            with pytest.raises(StoreUnreachable):
                await store.list("no/key/")
        await asyncio.sleep(PAUSE_SECONDS + PROBE_SECONDS + 0.1)
        with pytest.raises(StoreUnreachable):
            await store.list("no/key/")
        assert behind.asked == ["list", "list"]
        await store.stop()

    clock.run(play())


def test_who_answers_small_requests_only_is_let_alone_for_longer_each_time() -> None:
    class Halfhearted(Swallowing):
        async def _forward(self, operation: str, key: str, deadline: float, call: Callable[[float], Awaitable[T]]) -> T:
            self.cut = operation != "head"
            return await super()._forward(operation, key, deadline, call)

    async def play() -> None:
        store, loop = BreakerStore(Halfhearted(MemoryStore())), asyncio.get_running_loop()
        waited, hour = 0.0, 3600.0
        while loop.time() < hour:
            before = loop.time()
            await silent(store)
            waited += loop.time() - before
            await asyncio.sleep(1.0)
        assert waited < hour / 4
        await store.stop()

    clock.run(play())


async def test_what_is_missing_is_an_answer_and_lets_nobody_alone() -> None:
    behind = Swallowing(MemoryStore(), cut=False)
    store = BreakerStore(behind)
    for _ in range(3):
        with pytest.raises(ObjectMissing):
            await store.get("a", max_bytes=9)
    assert behind.asked == ["get"] * 3


@pytest.mark.parametrize("deadline", [600.0, 0.5], ids=["large", "at the end of a look"])
def test_what_has_another_deadline_may_only_have_been_slow(deadline: float) -> None:
    async def play() -> None:
        behind = Swallowing(MemoryStore())
        store = BreakerStore(behind)
        with pytest.raises(StoreUnreachable):
            await store.get("a", max_bytes=9, deadline=deadline)
        behind.cut = False
        await store.put("a", b"1")
        assert await store.get("a", max_bytes=9) == b"1"

    clock.run(play())


def test_the_own_bucket_is_tried_each_time() -> None:
    async def play() -> None:
        made: dict[str, Swallowing] = {}

        def front(location: str, store: Store) -> Store:
            made[location] = Swallowing(store)
            return made[location]

        buckets = BreakerBuckets(ForwardingBuckets(MemoryBuckets(), front), "mem:own")
        for location in ("mem:own", "mem:other"):
            for _ in range(2):
                await silent(buckets.bucket(location))
        assert made["mem:own"].asked == ["get", "get"]
        assert made["mem:other"].asked == ["get"]
        await buckets.close()

    clock.run(play())
