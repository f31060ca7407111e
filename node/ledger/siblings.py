"""The records of a round as they lie in the aggregators' buckets, whoever vouches for them: history is read forwards.

Who walks a run from its beginning does not know the digests of the records to come, and reading all of them backwards
first would be reading them twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from muster.node.ledger.mirrors import Mirrors
from muster.node.ledger.reader import MAX_SIBLINGS
from muster.protocol import paths, wire
from muster.protocol.errors import ObjectDamaged, StorageError, WireError
from muster.protocol.ledger import Tip
from muster.protocol.storage import Store
from muster.protocol.wire import Record


async def siblings(
    stores: Sequence[Store], tip: Tip, round_: int
) -> tuple[list[tuple[Record, bytes]], StorageError | None]:
    """A round's records as buckets have them, each once with its digest; any tip of the run says what model it is of.

    Besides, the first thing that was in the way: a bucket that cannot be looked at, a record that none of those that
    list it has whole. There may be more records then.
    """
    prefix = paths.records(tip.run_id, round_)
    looks = await asyncio.gather(*(store.list(prefix, limit=MAX_SIBLINGS) for store in stores), return_exceptions=True)
    listing: dict[str, list[Store]] = {}
    problem: StorageError | None = None
    for store, look in zip(stores, looks, strict=True):
        if isinstance(look, StorageError):
            problem = problem or look
        elif isinstance(look, BaseException):
            raise look
        else:
            for info in look:
                listing.setdefault(info.key, []).append(store)
    found: list[tuple[Record, bytes]] = []
    for key in sorted(listing):
        try:
            found.append(await Mirrors(tuple(listing[key])).read(partial(_read, tip, key)))
        except StorageError as error:
            problem = problem or error
    return found, problem


async def _read(tip: Tip, key: str, store: Store) -> tuple[Record, bytes]:
    data = await store.get(key, max_bytes=wire.MAX_BODY_BYTES)
    try:
        record, digest = wire.decode_record(data, tip.run_id, len(tip.layout.shapes))
    except WireError as error:
        raise ObjectDamaged(f"{key} is not readable: {error}") from error
    if key != paths.record(tip.run_id, record.round, digest):
        raise ObjectDamaged(f"{key} is another record than its name says")
    return record, digest
