"""Where an object may lie: every aggregator keeps what it voted for, so whoever is gone or serves half is done without.

What is read is checked by the digest that names it, so it does not matter whose copy it is. One bucket that hangs costs
a few seconds, not its deadline: the next is asked beside it. And it costs them once: who was overtaken by one that was
asked later, or has given other bytes than were asked for, is asked last for some minutes. (Where all are as slow, as
with a large bundle, nobody is overtaken.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from muster.protocol.errors import ObjectDamaged, ObjectMissing, ObjectTooLarge, StorageError
from muster.protocol.storage import Store

T = TypeVar("T")

HEDGE_SECONDS = 5.0
"""After so long without an answer from one bucket the next is asked, too."""

BULK_HEDGE_SECONDS = 60.0
"""So long of a bundle or a checkpoint's shard, which a good bucket takes a while for."""

BLAMED_SECONDS = 600.0
"""For so long a bucket that has failed is asked last; it may have been the line, so it is not for good."""

LACKING_SECONDS = 60.0
"""For so long one that did not have an object is asked after those that had theirs; it may only be behind."""

Told = Callable[[Store, str], None]
"""Hears of a bucket that is asked last from now on, and why."""


class Conduct:
    """How buckets have behaved towards one reader lately. It is no more than the order in which they are asked."""

    def __init__(self, told: Told = lambda _store, _problem: None) -> None:
        self._told = told
        self._blamed: dict[Store, float] = {}
        self._silent: dict[Store, float] = {}
        self._lacking: dict[Store, float] = {}

    def order(self, stores: Iterable[Store]) -> list[Store]:
        """The buckets, those first that had what was looked for, those last that failed; else as they were."""
        now = asyncio.get_running_loop().time()
        for known in (self._blamed, self._silent, self._lacking):
            for store in [store for store, until in known.items() if until <= now]:
                del known[store]
        return sorted(stores, key=lambda store: (store in self._blamed, store in self._lacking))

    def silent(self, store: Store) -> bool:
        """Whether a bucket has not answered lately."""
        return self._silent.get(store, 0.0) > asyncio.get_running_loop().time()

    def blame(self, store: Store, problem: str) -> None:
        """What a bucket gave is not what was asked for."""
        now = asyncio.get_running_loop().time()
        known, self._blamed[store] = self._blamed.get(store, 0.0) > now, now + BLAMED_SECONDS
        if not known:
            self._told(store, problem)

    def miss(self, store: Store, problem: str) -> None:
        """A bucket hangs, or could not be asked."""
        self._silent[store] = asyncio.get_running_loop().time() + BLAMED_SECONDS
        self.blame(store, problem)

    def lacks(self, store: Store) -> None:
        """A bucket does not have an object."""
        self._lacking[store] = asyncio.get_running_loop().time() + LACKING_SECONDS

    def learn(self, store: Store, error: StorageError) -> None:
        """A read has failed."""
        if isinstance(error, ObjectMissing):
            self.lacks(store)
        elif isinstance(error, ObjectDamaged | ObjectTooLarge):
            self.blame(store, str(error))
        else:
            self.miss(store, str(error))


@dataclass(frozen=True, slots=True)
class Mirrors:
    """Buckets that may have the same objects, the likeliest first; `conduct` is what their reader knows of them."""

    stores: tuple[Store, ...]
    conduct: Conduct = field(default_factory=Conduct, compare=False)

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
        waiting, running, problem = self.conduct.order(self.stores), dict[asyncio.Future[T], Store](), None
        try:
            while waiting or running:
                if waiting:
                    store = waiting.pop(0)
                    running[asyncio.ensure_future(read(store))] = store
                done, _ = await asyncio.wait(
                    running, timeout=hedge if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in [one for one in running if one in done]:
                    try:
                        found = task.result()
                    except StorageError as error:
                        self.conduct.learn(running.pop(task), error)
                        problem = problem or error
                        continue
                    asked = list(running)
                    for slow in asked[: asked.index(task)]:
                        self.conduct.miss(running[slow], f"it gave nothing for {hedge:g} s, and the next one did")
                    return found
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


def likeliest(stores: Iterable[Store], first: Iterable[Store], conduct: Conduct) -> Mirrors:
    """Buckets, each once, those `first` that are known to have what is looked for."""
    return Mirrors(tuple(dict.fromkeys((*first, *stores))), conduct)
