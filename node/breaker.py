"""A bucket that does not answer costs one deadline, and not one for each thing that is asked of it.

Whoever looks at the ledger asks several buckets for several things, one after the other, and one network that swallows
what is sent to it would hold up every look. So a bucket that has not answered is asked no more by anybody (the circuit
breaker of the field) until a small request beside has had an answer: whatever it is asked for until then fails at once,
as if it had said that it cannot now. A refusal is an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from muster.protocol.errors import StorageError, StoreUnreachable
from muster.protocol.storage import DEFAULT_DEADLINE, Buckets, ForwardingBuckets, ForwardingStore, Store

log = logging.getLogger(__name__)
T = TypeVar("T")

PROBE_SECONDS = 10.0
"""An answer to a small request takes no longer; less than a block of Bittensor."""

PAUSE_SECONDS = 2.0
"""Before it is asked whether it answers, and between two such requests."""

LONGEST_PAUSE = 120.0
"""Each time that it is silent again soon after it has answered, the pause is twice as long, up to this: who answers
small requests only, on purpose too, holds others up for a fifth of the time at most."""

SOON = 4
"""Times the deadline and the pause: so long after it was silent last, it begins anew."""


class BreakerStore(ForwardingStore):
    """A bucket that is let alone while it does not answer."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._silence = ""
        self._since = -1e9
        self._pause = PAUSE_SECONDS
        self._probe: asyncio.Task[None] | None = None

    async def _forward(self, operation: str, key: str, deadline: float, call: Callable[[float], Awaitable[T]]) -> T:
        if self._silence:
            if self._probe is None or self._probe.done():
                self._probe = asyncio.create_task(self._ask(operation, key))
            raise StoreUnreachable(f"{self._silence} (it is let alone until it answers)")
        try:
            return await super()._forward(operation, key, deadline, call)
        except StoreUnreachable as error:
            # What has longer is large and may only have been slow, what has less had hardly any time.
            if PROBE_SECONDS <= deadline <= DEFAULT_DEADLINE and not self._silence:
                self._trip(str(error))
            raise

    def _trip(self, why: str) -> None:
        now = asyncio.get_running_loop().time()
        again = now - self._since < SOON * (DEFAULT_DEADLINE + self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE) if again else PAUSE_SECONDS
        self._silence, self._since = why, now

    async def _ask(self, operation: str, key: str) -> None:
        """Look whether it answers; whoever asks for something next begins another look if it does not."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(PAUSE_SECONDS, self._since + self._pause - loop.time()))
        try:
            if operation == "list":
                await self._store.list(key, limit=1, deadline=PROBE_SECONDS)
            else:
                await self._store.head(key, deadline=PROBE_SECONDS)
        except StoreUnreachable:
            return
        except StorageError as error:
            log.debug("a bucket answers again, with a refusal: %s", error)
        self._silence = ""

    async def stop(self) -> None:
        """Look no more."""
        if self._probe is not None:
            self._probe.cancel()
            with suppress(asyncio.CancelledError):
                await self._probe


class BreakerBuckets(ForwardingBuckets):
    """Buckets of which each that does not answer is let alone, but the `own` one: writes are tried as they come."""

    def __init__(self, buckets: Buckets, own: str) -> None:
        super().__init__(buckets, lambda location, store: store if location == own else BreakerStore(store))

    async def close(self) -> None:
        """Look no more, and close what is behind."""
        for store in self._open.values():
            if isinstance(store, BreakerStore):
                await store.stop()
        await super().close()
