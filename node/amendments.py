"""Amendments from where people put them to where leaders take them: whoever may amend need not write a leader's bucket.

An amendment waits under its number at the place where the run is published, in its owner's bucket, or in that of any
validator of the run. Each aggregator looks there now and then, and copies what a record could take up into its own
bucket. Nothing is listed and nothing else is copied, so nobody can fill that bucket.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from muster.node.context import Context
from muster.node.directory import Directory
from muster.protocol import paths, wire
from muster.protocol.errors import ChainError, LedgerError, ObjectMissing, StorageError, WireError
from muster.protocol.ledger import RESCUE, Tip, rescuer
from muster.protocol.rules.majority import are_enough
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage import Store

log = logging.getLogger(__name__)

DEADLINE = 10.0
"""Seconds for one amendment at one place: nobody waits for it."""
PERIOD = 10
"""Blocks between two looks: two minutes of a chain of 12 s blocks, less than any round for strangers takes."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The amendments that could be recorded now, by number, and the spec over time if they were; `problems` say why
    others with the next number cannot be."""

    objects: tuple[bytes, ...]
    history: SpecHistory
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rescue:
    """The round that a key may close as the owner wishes, and the owner's amendment."""

    round: int
    amendment: bytes


async def places(directory: Directory, tip: Tip, published: Store | None) -> tuple[Store, ...]:
    """Where amendments may wait: at `published`, in the owner's bucket, and in those of the list in force.

    Raises:
        ChainError: the chain does not say where the buckets are.
    """
    peers = (await directory.snapshot()).by_hotkey()
    genesis = tip.spec.genesis
    named = dict.fromkeys((genesis.owner, *genesis.leaders))
    found = [directory.store(peers[hotkey]) for hotkey in named if hotkey in peers]
    return tuple(store for store in (published, *found) if store is not None)


async def find_waiting(tip: Tip, where: Sequence[Store]) -> Waiting:
    """Look at all places, number after number, until one is nowhere.

    Of several with one number the one with the most signatures is taken. Whose signatures are enough is as in a record,
    but for stake, which only the adopting record says. A place that fails has nothing.
    """
    heard, history = tip.validators - tip.silenced, tip.history
    objects: list[bytes] = []
    problems: list[str] = []
    while len(objects) < wire.MAX_AMENDMENTS:
        key = paths.amendment(tip.run_id, len(history.adopted) + 1)
        read = await asyncio.gather(*(read_amendment(place, key) for place in where))
        for data in sorted({each for each in read if each is not None}, key=lambda each: (-len(each), each)):
            try:
                history = history.adopt(data, tip.round, lambda who: are_enough(len(who & heard), len(heard)))
            except LedgerError as error:
                problems.append(f"{key} is not taken up: {error}")
                continue
            objects.append(data)
            break
        else:
            break
    return Waiting(tuple(objects), history, tuple(problems))


def rescues(tip: Tip, amendments: Iterable[bytes]) -> Mapping[bytes, Rescue]:
    """By which of these amendments a round from the open one on may be rescued, by whom they name.

    The rounds before the one that hangs may be open, too, to who comes late: as many as may be not final.
    """
    found: dict[bytes, Rescue] = {}
    for data in sorted(amendments):
        try:
            closes = wire.decode_amendment(data, tip.run_id).round - 1
            if tip.round <= closes <= tip.round + tip.spec.clock.finality:
                found[rescuer(tip, data, closes)] = Rescue(closes, data)
        except (WireError, LedgerError):
            continue  # it is no rescue, and who amends a run that goes on says what is wrong with it
    return found


async def read_amendment(place: Store, key: str) -> bytes | None:
    """What lies at a place under the name of an amendment; None where nothing does, or it cannot be had now."""
    try:
        return await place.get(key, max_bytes=wire.MAX_AMENDMENT_BYTES, deadline=DEADLINE)
    except ObjectMissing:
        return None
    except StorageError as error:
        log.debug("%s is not to be had: %s", key, error)
        return None


async def watch_amendments(context: Context, tip: Callable[[], Tip], published: Store | None) -> None:
    """Copy what waits elsewhere into the own bucket, every `PERIOD` blocks; runs until cancelled.

    `tip` says where the ledger stands. What fails is tried again at the next look; why something is not taken up is
    said once.
    """
    height, told = -1, frozenset[str]()
    while True:
        try:
            block = (await context.chain.next_block(height)).number
            height = block + PERIOD - 1
            where = await places(context.directory, tip(), published)
            waiting = await find_waiting(tip(), where)
        except ChainError as error:
            log.warning("amendments cannot be looked for now: %s", error)
            await asyncio.sleep(DEADLINE)
            continue
        for problem in sorted(set(waiting.problems) - told):
            log.warning("the amendment %s", problem)
        told = frozenset(waiting.problems)
        for data in waiting.objects:
            await _keep(context, tip().run_id, data)
        if block >= tip().turn_begins(RESCUE):
            await _keep_rescue(context, tip(), where)


async def _keep_rescue(context: Context, tip: Tip, where: Sequence[Store]) -> None:
    """Have in the own bucket the amendment by which this hotkey may rescue the run, for everybody to see there."""
    key = paths.amendment(tip.run_id, len(tip.history.adopted) + 1)
    read = await asyncio.gather(*(read_amendment(place, key) for place in where))
    found = rescues(tip, {data for data in read if data is not None}).get(context.identity.public)
    if found is not None:
        await _keep(context, tip.run_id, found.amendment)


async def _keep(context: Context, run_id: bytes, data: bytes) -> None:
    """Have an amendment in the own bucket, in place of what stands there under its number."""
    key = paths.amendment(run_id, wire.decode_amendment(data, run_id).number)
    try:
        if await read_amendment(context.bucket, key) != data:
            await context.bucket.put(key, data, deadline=DEADLINE)
            log.info("%s waits for a record now", key)
    except StorageError as error:
        log.warning("%s cannot be kept now: %s", key, error)
