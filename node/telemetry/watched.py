"""Stores that tell when they fail, so that a bucket which is down shows before a round is lost to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from muster.protocol.errors import ObjectMissing, ObjectTooLarge, StorageError
from muster.protocol.storage import Buckets, ForwardingBuckets, ForwardingStore, Store

T = TypeVar("T")


class WatchedStore(ForwardingStore):
    """A store whose failures are told. An object that is not there, or is too large, is an answer and no failure."""

    def __init__(self, store: Store, failed: Callable[[], None]) -> None:
        super().__init__(store)
        self._failed = failed

    async def _forward(self, operation: str, key: str, deadline: float, call: Callable[[float], Awaitable[T]]) -> T:
        try:
            return await super()._forward(operation, key, deadline, call)
        except (ObjectMissing, ObjectTooLarge):
            raise
        except StorageError:
            self._failed()
            raise


class WatchedBuckets(ForwardingBuckets):
    """Buckets whose failures are told in one place."""

    def __init__(self, buckets: Buckets, failed: Callable[[], None]) -> None:
        super().__init__(buckets, lambda _location, store: WatchedStore(store, failed))
