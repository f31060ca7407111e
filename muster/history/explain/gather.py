"""Gathering what a peer's pay is explained from: the records and the validators' files, by the one reader."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence

from muster.history.explain.facts import Case, Judged
from muster.history.walk import Passed, walk
from muster.node.directory import Directory
from muster.node.ledger.reader import Reader, genesis_tip
from muster.protocol import paths
from muster.protocol.chain.base import Chain, Snapshot
from muster.protocol.errors import IdentityError, ObjectMissing, StorageError, UsageError, WireError
from muster.protocol.identity import hotkey_of, public_of
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage import Store
from muster.protocol.wire import ScoreFile, decode_scores, max_scores_bytes
from muster.run.fetch import open_run

log = logging.getLogger(__name__)

SHOWN = 12
"""Rounds that the table has: long enough to see the gate open, short enough for a screen."""

DEEP = 64
"""Records that are kept of a walk: where the newest have no score file yet, one before them has."""

AT_ONCE = 16
DEADLINE = 30.0
"""Score files that are read at one time, and seconds for each."""


async def read_case(
    run: str, peer: str, round_: int | None, validator: str | None, chain: str | None = None, allow: str = ""
) -> Case:
    """A peer in a round of a run, by the run's folder or URL; `chain` and `allow` are the settings.

    Raises:
        ConfigError: no such run.
        UsageError: there is no such peer, round or validator, or the round has no score file.
        ChainError, StorageError, LedgerError: what leads to the round cannot be read.
    """
    directory = await open_run(run, allow=allow)
    client, buckets = directory.chain(chain, read_only=True), directory.buckets(allow=allow)
    try:
        return await find_case(
            directory.history, client, Directory(client, buckets, directory.history.run_id), peer, round_, validator
        )
    finally:
        await client.close()
        await buckets.close()


async def find_case(
    history: SpecHistory,
    chain: Chain,
    directory: Directory,
    peer: str,
    round_: int | None = None,
    validator: str | None = None,
) -> Case:
    """The same, of a run whose chain and buckets are open."""
    snapshot, start = await directory.snapshot(), await genesis_tip(history, chain)
    stores = directory.stores(snapshot)
    beyond = None if round_ is None else round_ + start.spec.gauntlet.lag + 1
    passed: deque[Passed] = deque(maxlen=DEEP)
    newest, leaders = start, dict.fromkeys(start.spec.genesis.leaders)
    async for one in walk(Reader(chain, directory), start, beyond):
        newest = one.after
        leaders |= dict.fromkeys(newest.spec.genesis.leaders)
        if one.record.opening is not None:  # the closing record decides on nobody
            passed.append(one)
    if round_ is not None and round_ >= newest.round and not newest.closed:
        known = f"the newest record is of round {newest.round - 1}" if newest.round else "there is no record yet"
        raise UsageError(f"round {round_} is not there yet: {known}")
    files = _Files(passed, stores, start.spec.data.slots)
    if validator is not None and validator not in leaders:
        raise UsageError(f"{validator} is no validator of this run; those are {', '.join(leaders)}")
    shown = await files.newest(tuple(leaders) if validator is None else (validator,), round_)
    judged = await _judged(files, tuple(leaders), snapshot, shown)
    hotkey, uid = _peer(peer, shown, judged, snapshot)
    return Case(shown, hotkey, uid, tuple(passed), judged)


class _Files:
    """The score files of the records walked past."""

    def __init__(self, passed: Sequence[Passed], stores: Mapping[bytes, Store], slots: int) -> None:
        self._passed = {one.round: one for one in passed}
        self._stores = stores
        self._cap = max_scores_bytes(slots)
        self._places = asyncio.Semaphore(AT_ONCE)

    async def newest(self, validators: Sequence[str], round_: int | None) -> int:
        """The newest round with a file, or the one that is asked for."""
        if round_ is not None:
            if round_ not in self._passed:
                raise UsageError(f"the run ended before round {round_}")
            return round_
        for number in sorted(self._passed, reverse=True):
            if any([await self.read(validator, number) for validator in validators]):
                return number
        raise UsageError("no validator has published a score file yet, so nobody's pay can be explained")

    async def read(self, validator: str, round_: int) -> ScoreFile | None:
        """A validator's file of a round's record; None where it is not to be had."""
        passed, store = self._passed.get(round_), self._stores.get(public_of(validator))
        if passed is None or store is None:
            return None
        run_id = passed.record.run_id
        try:
            async with self._places:
                name = paths.scores(run_id, round_, passed.digest)
                data = await store.get(name, max_bytes=self._cap, deadline=DEADLINE)
            file, _ = decode_scores(data, run_id, validator, round_)
        except ObjectMissing:
            return None
        except (StorageError, WireError) as error:
            log.warning("the scores of %s for round %d cannot be read: %s", validator, round_, error)
            return None
        return file if file.record == passed.digest else None

    async def table(self, validator: str, last: int) -> dict[int, ScoreFile]:
        """A validator's files of the rounds that are shown, and of the one before them."""
        rounds = [number for number in range(last - SHOWN, last + 1) if number in self._passed]
        found = await asyncio.gather(*(self.read(validator, number) for number in rounds))
        return {number: file for number, file in zip(rounds, found, strict=True) if file is not None}


async def _judged(files: _Files, leaders: Sequence[str], snapshot: Snapshot, shown: int) -> tuple[Judged, ...]:
    stakes = {peer.hotkey: peer.stake for peer in snapshot.peers}
    tables = [(validator, await files.table(validator, shown)) for validator in leaders]
    return tuple(Judged(validator, stakes.get(validator, 0), table) for validator, table in tables if table)


def _peer(name: str, round_: int, judged: Sequence[Judged], snapshot: Snapshot) -> tuple[str, int | None]:
    """The hotkey and the slot that are meant: a slot as it was held in the round, where a file says so.

    Raises:
        UsageError: there is no such peer.
    """
    held = {peer.uid: peer.hotkey for peer in snapshot.peers}
    for one in judged:
        held |= {row.uid: row.hotkey for row in (one.files[round_].rows if round_ in one.files else ())}
    if name.isascii() and name.isdigit():
        uid = int(name)
        if uid not in held:
            raise UsageError(f"nobody holds slot {uid}; the slots are {', '.join(map(str, sorted(held)))}")
        return held[uid], uid
    try:
        hotkey = hotkey_of(public_of(name))
    except IdentityError as error:
        raise UsageError(f"--peer is a slot's number or a hotkey's address: {error}") from error
    return hotkey, next((uid for uid, holder in held.items() if holder == hotkey), None)
