"""Comes upon two signatures where there may be one: in what is read anyway, and in what the signers' buckets show.

Whoever signs two shows the second to somebody, or it is of no use. What a reader takes by its digest passes by here as
it is; what stands beside it in a bucket, or in the mirrors, is looked for by name. A name shows 8 bytes of a digest:
two of one name, which 2^32 tries find, cannot lie in one bucket together, and are told apart where one is asked for by
its digest.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Collection, Iterable, Mapping

from muster.node.ledger.seals import MAX_SIBLINGS
from muster.protocol import paths
from muster.protocol.errors import StorageError, WireError
from muster.protocol.storage import Store
from muster.protocol.wire import MAX_SIGNED_BYTES, Once, body_digest, signed_once, type_of

log = logging.getLogger(__name__)

WITNESSED_ROUNDS = 4
"""How many rounds back the buckets are looked at."""

KEPT = 16
"""Objects of one signer that are kept to compare others with, the newest; an honest one makes two a round."""


class Witness:
    """What one participant has seen signed, by key; `caught` are two objects of each that signed two for the same."""

    def __init__(self, run_id: bytes) -> None:
        self._run_id = run_id
        self._seen: dict[bytes, deque[tuple[Once, bytes, bytes]]] = {}
        self._names: dict[str, int] = {}
        self.caught: dict[bytes, tuple[Once, bytes, bytes]] = {}

    def take(self, data: bytes, signers: Collection[bytes]) -> bool:
        """Compare an object with what has been seen; says whether it is one. Of others than `signers` nothing is kept.

        What is no seal or record, or is not signed, shows nothing.
        """
        kind = type_of(data)
        found = None if kind is None else body_digest(data, kind)
        if found is None:
            return False
        if any(digest == found for kept in self._seen.values() for _, digest, _ in kept):
            return True
        try:
            once, digest = signed_once(data, self._run_id)
        except WireError:
            return False
        signer = once.signer
        if signer not in signers or signer in self.caught:
            return True
        kept = self._seen.setdefault(signer, deque(maxlen=KEPT))
        for other, _, earlier in kept:
            if other == once:
                self.caught[signer] = once, earlier, data
                return True
        kept.append((once, digest, data))
        return True

    async def look(self, stores: Mapping[bytes, Store], round_: int) -> None:
        """Compare what these signers' buckets have of the last rounds, up to `round_`.

        Where all of them together have one seal and one record of a round nothing is read.
        """
        oldest = max(0, round_ - WITNESSED_ROUNDS)
        self._names = {name: at for name, at in self._names.items() if at >= oldest}
        for at in range(oldest, round_ + 1):
            for prefix in (paths.seals(self._run_id, at), paths.records(self._run_id, at)):
                await self._compare(stores, prefix, at)

    async def _compare(self, stores: Mapping[bytes, Store], prefix: str, round_: int) -> None:
        limit = MAX_SIBLINGS * len(stores)
        looks = await asyncio.gather(*(_names(store, prefix, limit) for store in stores.values()))
        names = sorted(set[str]().union(*looks))
        if len(names) < 2:
            return
        for name in names:
            if name not in self._names:
                having = [store for store, listed in zip(stores.values(), looks, strict=True) if name in listed]
                if await self.read(having, name, stores):
                    self._names[name] = round_

    async def read(self, having: Iterable[Store], name: str, signers: Collection[bytes]) -> bool:
        """Compare an object that lies in one of these buckets; whether one of them had it."""
        for store in having:
            try:
                if self.take(await store.get(name, max_bytes=MAX_SIGNED_BYTES), signers):
                    return True
            except StorageError as error:
                log.info("%s cannot be read: %s", name, error)
        return False


async def _names(store: Store, prefix: str, limit: int) -> set[str]:
    """What a bucket has under a prefix, as far as it can be shown; nothing where the bucket does not say."""
    try:
        return {info.key for info in await store.list(prefix, limit=limit) if info.size <= MAX_SIGNED_BYTES}
    except StorageError as error:
        log.info("what is there under %s cannot be seen: %s", prefix, error)
        return set()
