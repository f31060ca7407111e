"""What cannot be written is told once, in one sentence, and taken back when it can."""

from __future__ import annotations

import errno
import os

import pytest

from muster.node.telemetry.ailments import Ailments
from muster.node.telemetry.events import Ailing, Event, Recovered
from muster.node.telemetry.watched import WatchedBuckets
from muster.protocol.errors import DiskFailed, StorageError
from muster.protocol.storage import ForwardingStore, Store
from muster.protocol.storage.locations import MemoryBuckets
from muster.protocol.storage.memory import MemoryStore

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
SENTENCE = "a bundle cannot be kept on disk: No space left on device; free space or mend the disk"


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def ailments(told: list[Event]) -> Ailments:
    return Ailments(told.append)


def fails(ailments: Ailments, error: Exception) -> str:
    with pytest.raises(StorageError) as caught, ailments.writing("a bundle"):
        raise error
    return str(caught.value)


def test_it_is_told_when_it_begins_when_it_changes_and_when_it_ends(ailments: Ailments, told: list[Event]) -> None:
    for _ in range(2):
        assert fails(ailments, FULL) == SENTENCE
    assert fails(ailments, DiskFailed("a bundle is lost")) == "a bundle is lost"
    for _ in range(2):
        with ailments.writing("a bundle"):
            pass
    assert told == [
        Ailing("a bundle", SENTENCE),
        Ailing("a bundle", "a bundle is lost"),
        Recovered("a bundle"),
    ]


def test_what_is_no_fault_of_the_disk_ails_nothing(ailments: Ailments, told: list[Event]) -> None:
    fails(ailments, FULL)
    assert fails(ailments, StorageError("the other bucket is down")) == "the other bucket is down"
    assert told == [Ailing("a bundle", SENTENCE)], "and heals nothing"


class Refusing(ForwardingStore):
    """A bucket that takes nothing while `full`."""

    full = True

    async def put(self, key: str, data: bytes, *, deadline: float = 30.0) -> None:
        if self.full:
            raise StorageError(f"cannot store {key}: the disk is full; free some space")
        await super().put(key, data, deadline=deadline)


class Own(MemoryBuckets):
    """The one of it."""

    def _make(self, location: str) -> Store:
        return Refusing(MemoryStore())


async def test_the_own_bucket_ails_by_what_it_does_not_take(ailments: Ailments, told: list[Event]) -> None:
    failures: list[None] = []
    buckets = Own()
    store = WatchedBuckets(buckets, lambda: failures.append(None), ailments).bucket("mem:a")
    with pytest.raises(StorageError):
        await store.put("k", b"1")
    with pytest.raises(StorageError):
        await store.get("k", max_bytes=9)
    behind = buckets.bucket("mem:a")
    assert isinstance(behind, Refusing)
    behind.full = False
    await store.put("k", b"1")
    problem = "the own bucket takes nothing: cannot store k: the disk is full; free some space"
    assert told == [Ailing("the own bucket", problem), Recovered("the own bucket")]
    assert len(failures) == 1, "that there is no such object is an answer"
