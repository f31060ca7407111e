"""The records of a round as they lie in the aggregators' buckets, whoever vouches for them: history is read forwards.

Who walks a run from its beginning does not know the digests of the records to come, and reading all of them backwards
first would be reading them twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial

from muster.node.ledger.mirrors import Conduct, Mirrors
from muster.node.ledger.seals import MAX_SIBLINGS
from muster.protocol import paths, wire
from muster.protocol.errors import ObjectDamaged, StorageError, WireError
from muster.protocol.ledger import Tip
from muster.protocol.storage import Store
from muster.protocol.wire import Record

Problems = dict[Store, StorageError]
"""What was in the way, by bucket: there may be more in it than was found."""


async def siblings(
    stores: Iterable[Store], tip: Tip, round_: int, conduct: Conduct | None = None
) -> tuple[list[tuple[Record, bytes]], Problems]:
    """A round's records as buckets have them, each once, with its digest; any tip of the run says what model it has."""
    listed, problems = await listing(stores, paths.records(tip.run_id, round_), conduct)
    found: list[tuple[Record, bytes]] = []
    for key, places in listed.items():
        try:
            found.append(await places.read(partial(read_named, tip, key)))
        except StorageError as error:
            problems.setdefault(places.stores[0], error)
    return found, problems


async def listing(
    stores: Iterable[Store], prefix: str, conduct: Conduct | None = None
) -> tuple[Mapping[str, Mirrors], Problems]:
    """The names of objects, in order, `MAX_SIBLINGS` of a bucket at most, each with the buckets that list it.

    These are asked for it as `conduct` says (None: nothing is known of them). Who did not answer lately is not waited
    for again, unless nobody did.
    """
    known, everybody = conduct or Conduct(), tuple(stores)
    asked = tuple(store for store in everybody if not known.silent(store)) or everybody
    looks = await asyncio.gather(*(store.list(prefix, limit=MAX_SIBLINGS) for store in asked), return_exceptions=True)
    found: dict[str, list[Store]] = {}
    problems: Problems = {store: StorageError("it did not answer lately") for store in everybody if store not in asked}
    for store, look in zip(asked, looks, strict=True):
        if isinstance(look, StorageError):
            known.miss(store, str(look))
            problems[store] = look
        elif isinstance(look, BaseException):
            raise look
        else:
            for info in look:
                found.setdefault(info.key, []).append(store)
    return {key: Mirrors(tuple(found[key]), known) for key in sorted(found)}, problems


async def read_named(tip: Tip, key: str, store: Store) -> tuple[Record, bytes]:
    """The record that lies under a name, and its digest.

    Raises:
        StorageError: it cannot be read, or is not what its name says.
    """
    data = await store.get(key, max_bytes=wire.MAX_BODY_BYTES)
    try:
        record, digest = wire.decode_record(data, tip.run_id, len(tip.layout.shapes))
    except WireError as error:
        raise ObjectDamaged(f"{key} is not readable: {error}") from error
    if key != paths.record(tip.run_id, record.round, digest):
        raise ObjectDamaged(f"{key} is another record than its name says")
    return record, digest
