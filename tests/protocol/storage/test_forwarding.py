"""A store in front of another is that other one, and every call goes through the one place where it adds something."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from muster.lab.faults import Script
from muster.lab.faulty import FaultyBuckets
from muster.node.drain import Drain, DrainedBuckets
from muster.node.telemetry.ailments import Ailments
from muster.node.telemetry.watched import WatchedBuckets
from muster.protocol.errors import ObjectMissing
from muster.protocol.storage import Buckets, ForwardingStore, MeteredBuckets, Store
from muster.protocol.storage.locations import MemoryBuckets
from muster.protocol.storage.memory import MemoryStore

T = TypeVar("T")
OPERATIONS = {name for name in vars(Store) if not name.startswith("_")} - {"close"}
FRONTS: dict[str, Callable[[Buckets], Buckets]] = {
    "metered": MeteredBuckets,
    "watched": lambda behind: WatchedBuckets(behind, lambda: None, Ailments()),
    "drained": lambda behind: DrainedBuckets(behind, Drain()),
    "faulty": lambda behind: FaultyBuckets(behind, Script([]), lambda: 0, "me"),
}


class Told(ForwardingStore):
    """Notes what goes through it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.calls: list[tuple[str, str, float]] = []

    async def _forward(self, operation: str, key: str, deadline: float, call: Callable[[float], Awaitable[T]]) -> T:
        self.calls.append((operation, key, deadline))
        return await super()._forward(operation, key, deadline / 2, call)


def test_every_call_of_a_store_is_forwarded() -> None:
    """One that is not would be the base class's, and neither watched nor the store's own."""
    assert set(vars(ForwardingStore)) >= OPERATIONS | {"close"}
    for name in OPERATIONS:
        assert inspect.signature(getattr(ForwardingStore, name)) == inspect.signature(getattr(Store, name)), name


async def every_operation(store: Store, folder: Path) -> None:
    """Each call once, and what it answers."""
    assert await store.put_if_absent("a/b", b"1234", deadline=1)
    assert not await store.put_if_absent("a/b", b"5", deadline=1)
    assert await store.get("a/b", max_bytes=9, deadline=2) == b"1234"
    assert await store.get_range("a/b", 1, 2, deadline=3) == b"23"
    assert [info.key for info in await store.list("a/", deadline=4)] == ["a/b"]
    await store.download("a/b", folder / "b", max_bytes=9, deadline=5)
    assert (folder / "b").read_bytes() == b"1234"
    await store.upload("c", folder / "b", deadline=6)
    await store.put("d", b"other", deadline=7)
    assert await store.get("d", max_bytes=9, deadline=2) == b"other"
    found = await store.head("c", deadline=8)
    assert found is not None and found.size == 4
    await store.delete("c", deadline=9)
    assert await store.head("c", deadline=8) is None
    assert await store.list("z", deadline=4) == []
    with pytest.raises(ObjectMissing):
        await store.get("c", max_bytes=9, deadline=2)


async def test_each_goes_through_one_place_with_its_deadline(tmp_path: Path) -> None:
    store = Told(MemoryStore())
    await every_operation(store, tmp_path)
    assert {operation for operation, _, _ in store.calls} == OPERATIONS
    expected = {"put_if_absent": 1, "get": 2, "get_range": 3, "list": 4, "download": 5, "upload": 6, "put": 7}
    assert all(deadline == (expected | {"head": 8, "delete": 9})[operation] for operation, _, deadline in store.calls)
    assert ("list", "a/", 4) in store.calls


@pytest.mark.parametrize("front", FRONTS)
async def test_a_store_in_front_is_the_store(front: str, tmp_path: Path) -> None:
    buckets = FRONTS[front](MemoryBuckets())
    store = buckets.bucket("mem:a")
    assert buckets.bucket("mem:a") is store
    await every_operation(store, tmp_path)
    await buckets.close()


async def test_a_meter_counts_bodies_alone(tmp_path: Path) -> None:
    buckets = MeteredBuckets(MemoryBuckets())
    await every_operation(buckets.bucket("mem:a"), tmp_path)
    assert buckets.meter.up == 4 + 4 + 5
    assert buckets.meter.down == 4 + 2 + 4 + 5
