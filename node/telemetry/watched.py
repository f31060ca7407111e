"""Stores that tell when they fail, so that a bucket which is down shows before a round is lost to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from muster.node.drain import WRITES
from muster.node.telemetry.ailments import Ailments
from muster.protocol.errors import ObjectMissing, ObjectTooLarge, StorageError
from muster.protocol.storage import Buckets, ForwardingBuckets, ForwardingStore, Store

T = TypeVar("T")

WHAT = "the own bucket"
"""Where all writes go."""


class WatchedStore(ForwardingStore):
    """A store whose failures are told. An object that is not there, or is too large, is an answer and no failure."""

    def __init__(self, store: Store, failed: Callable[[], None], ailments: Ailments) -> None:
        super().__init__(store)
        self._failed = failed
        self._ailments = ailments

    async def _forward(self, operation: str, key: str, deadline: float, call: Callable[[float], Awaitable[T]]) -> T:
        try:
            result = await super()._forward(operation, key, deadline, call)
        except (ObjectMissing, ObjectTooLarge):
            raise
        except StorageError as error:
            self._failed()
            if operation in WRITES:
                self._ailments.fail(WHAT, f"{WHAT} takes nothing: {error}")
            raise
        if operation in WRITES:
            self._ailments.recover(WHAT)
        return result


class WatchedBuckets(ForwardingBuckets):
    """Buckets whose failures are told in one place."""

    def __init__(self, buckets: Buckets, failed: Callable[[], None], ailments: Ailments) -> None:
        super().__init__(buckets, lambda _location, store: WatchedStore(store, failed, ailments))
