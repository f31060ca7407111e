"""Where an object may lie: every aggregator keeps what it voted for, so whoever is gone or serves half is done without.

What is read is checked by the digest that names it, so it does not matter whose copy it is. One bucket that hangs costs
a few seconds, not its deadline: the next is asked beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from muster.protocol.errors import StorageError
from muster.protocol.storage import Store

T = TypeVar("T")

HEDGE_SECONDS = 5.0
"""After so long without an answer from one bucket the next is asked, too."""

BULK_HEDGE_SECONDS = 60.0
"""So long of a bundle or a checkpoint's shard, which a good bucket takes a while for."""


@dataclass(frozen=True, slots=True)
class Mirrors:
    """Buckets that may have the same objects, the likeliest first."""

    stores: tuple[Store, ...]

    async def read(self, read: Callable[[Store], Awaitable[T]], hedge: float = HEDGE_SECONDS) -> T:
        """What the first of the buckets gives that has it whole; `read` reads and checks it in one of them.

        Raises:
            StorageError: none has it: what was in the way in the first of them.
            LedgerError: one has the very bytes, and they are no such object.
        """
        if not self.stores:
            raise StorageError("no aggregator of the run has committed a bucket that can be opened")
        if len(self.stores) == 1:
            return await read(self.stores[0])
        waiting, running, problem = list(self.stores), set[asyncio.Future[T]](), None
        try:
            while waiting or running:
                if waiting:
                    running.add(asyncio.ensure_future(read(waiting.pop(0))))
                done, running = await asyncio.wait(
                    running, timeout=hedge if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    try:
                        return task.result()
                    except StorageError as error:
                        problem = problem or error
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        assert problem is not None
        raise problem


Places = Store | Mirrors
"""One bucket, or several to choose from."""


async def anywhere(places: Places, read: Callable[[Store], Awaitable[T]], hedge: float = HEDGE_SECONDS) -> T:
    """Read in one bucket, or in the first of several that has it; raises as `Mirrors.read` does."""
    return await (places.read(read, hedge) if isinstance(places, Mirrors) else read(places))


def likeliest(stores: Iterable[Store], first: Iterable[Store]) -> Mirrors:
    """Buckets, each once, those `first` that are known to have what is looked for."""
    return Mirrors(tuple(dict.fromkeys((*first, *stores))))
