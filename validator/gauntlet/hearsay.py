"""What only a leader watched is not held against a peer unless this validator sees the same itself.

A leader may drop a peer's submission, or say that a key or a payload never came. Whoever looks into the peer's bucket
afterwards cannot tell a leader's lie from work that came late, so where something lies there nothing is held against
the peer, and nothing is paid for the round; where nothing does, the leader was right.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping

from muster.protocol import paths
from muster.protocol.errors import StorageError
from muster.protocol.identity import hotkey_of, public_of
from muster.protocol.incentive.score import Absent, Failed, NotEvaluated, Outcome
from muster.protocol.reasons import KEY_MISSING, LATE, UNAVAILABLE
from muster.protocol.storage import Store
from muster.protocol.wire import Record

log = logging.getLogger(__name__)

LOOK_SECONDS = 20.0
"""How long all these looks may take together; who was not seen by then is not evaluated."""

AT_ONCE = 16

_OBJECTS = {KEY_MISSING: (paths.key,), UNAVAILABLE: (paths.payload,), LATE: (paths.key, paths.payload)}
"""What is missing where the leader says so: one of these."""


async def confirmed(record: Record, known: Collection[str], stores: Mapping[bytes, Store]) -> dict[str, Outcome]:
    """What this validator says of peers about whom it has only a leader's word, by hotkey.

    `known` are the hotkeys that have a standing; those without an entry are absent, if their bucket holds no head. Who
    has no bucket has nothing in it.
    """
    round_, run_id = record.round, record.run_id
    entries = {hotkey_of(entry.public): entry for entry in record.sealed}
    looks: list[tuple[str, str, Outcome]] = []
    for hotkey in known:
        if hotkey not in entries:
            looks.append((hotkey, paths.head(run_id, round_), Absent()))
    for hotkey, entry in entries.items():
        looks += [(hotkey, key(run_id, round_), Failed(entry.reason)) for key in _OBJECTS.get(entry.reason, ())]
    found: dict[str, Outcome] = {hotkey: NotEvaluated() for hotkey, _, _ in looks}
    places = asyncio.Semaphore(AT_ONCE)

    async def look(hotkey: str, key: str, outcome: Outcome) -> None:
        store = stores.get(public_of(hotkey))
        try:
            async with places:
                if store is None or await store.head(key, deadline=LOOK_SECONDS) is None:
                    found[hotkey] = outcome
        except StorageError as error:
            log.info("whether %s of %s is there cannot be seen: %s", key, hotkey, error)

    try:
        async with asyncio.timeout(LOOK_SECONDS), asyncio.TaskGroup() as tasks:
            for hotkey, key, outcome in looks:
                tasks.create_task(look(hotkey, key, outcome))
    except TimeoutError:
        log.info("not every bucket could be looked into within %.0f s", LOOK_SECONDS)
    return found
