"""Gathering a round's story: the ledger by the one reader, journals where there are some; nothing is written."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from muster.history.story.facts import LedgerRound
from muster.history.story.journals import read_journals
from muster.history.story.story import Story, tell
from muster.history.walk import walk
from muster.node.directory import Directory
from muster.node.ledger.objects import read_seal
from muster.node.ledger.reader import Pointer, Reader, genesis_tip
from muster.node.ledger.siblings import siblings
from muster.protocol import ledger, paths
from muster.protocol.chain.base import Chain
from muster.protocol.errors import LedgerError, StorageError, UsageError
from muster.protocol.identity import hotkey_of, public_of
from muster.protocol.ledger import Tip
from muster.protocol.ledger.waiting import Vote, in_touch, unfinal
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage import Store
from muster.protocol.types import Anchor
from muster.protocol.wire import Record, Seal
from muster.run.fetch import open_run

PEEK_DEADLINE = 10.0
"""Seconds for which a peer's bucket is asked whether something is there; all are asked at once."""


async def read_story(run: str, round_: int | None, chain: str | None = None, allow: str = "") -> Story:
    """The story of a round of a run, by its folder or URL; `chain` and `allow` are the settings.

    Raises:
        ConfigError: no such run.
        UsageError: the round is not there yet, or the run ended before it.
        ChainError, StorageError, LedgerError: what leads to the round cannot be read.
    """
    directory = await open_run(run, allow=allow)
    client, buckets = directory.chain(chain, read_only=True), directory.buckets(allow=allow)
    try:
        seen = await read_round(directory.history, client, Directory(client, buckets, directory.history.run_id), round_)
    finally:
        await client.close()
        await buckets.close()
    return tell(seen, await asyncio.to_thread(read_journals, directory.path / "logs", seen.tip.round))


async def read_round(history: SpecHistory, chain: Chain, directory: Directory, round_: int | None) -> LedgerRound:
    """What the ledger says of a round (None: of the open one, or of the closing one if the run is over).

    The records before it are only checked as a chain; the anchor of this round's, or of a later one, proves them.

    Raises:
        UsageError: the round is not there yet, or the run ended before it.
        ChainError, StorageError, LedgerError: what leads to it cannot be read.
    """
    reader, tip = Reader(chain, directory), await genesis_tip(history, chain)
    records: list[bytes] = []
    async for passed in walk(reader, tip, round_):
        if passed.after.closed:
            if round_ is None:
                break
            raise UsageError(f"the run ended with round {passed.round}; there is no round {round_}")
        tip = passed.after
        records.append(passed.digest)
    if round_ is not None and tip.round < round_:
        newest = f"the newest record is of round {tip.round - 1}" if tip.round else "there is no record yet"
        raise UsageError(f"round {round_} is not there yet: {newest}")
    found = await _Look(reader, chain, directory, tip, records).round()
    while round_ is None and found.record is not None and found.anchored and not found.closing:
        records.append(found.digest)  # it was anchored only now: the next one is open
        tip = ledger.advance(tip, found.record, found.digest)
        found = await _Look(reader, chain, directory, tip, records).round()
    return found


class _Look:
    """One look at one round; `records` are the digests of those before it."""

    def __init__(self, reader: Reader, chain: Chain, directory: Directory, tip: Tip, records: Sequence[bytes]) -> None:
        self._reader = reader
        self._chain = chain
        self._directory = directory
        self._tip = tip
        self._records = records
        self._mirrors: dict[bytes, Store] = {}
        self._problems: list[str] = []

    async def round(self) -> LedgerRound:
        """What there is of the round; what cannot be read is among the problems."""
        head, anchors, final = await self._chain.head(), await self._chain.anchors(0), await self._chain.final()
        proven = await self._proven()
        self._mirrors = await self._reader.stores(self._tip)
        found = proven or await self._unproven()
        record, digest = found or (None, b"")
        seal = await self._seal(record)
        there, scored, silent = (frozenset[bytes](),) * 3 if proven else await self._there(seal)
        named, listed = Anchor(self._tip.round, digest), set(self._tip.spec.genesis.leaders)
        listed |= set() if record is None else {hotkey_of(record.leader)}
        at = [seen.block for seen in anchors if seen.hotkey in listed and seen.anchor == named]
        votes = [Vote(public_of(seen.hotkey), seen.anchor.round, seen.anchor.digest, seen.block) for seen in anchors]
        records = [*self._records, digest] if proven else self._records
        return LedgerRound(
            tip=self._tip,
            block=head.number,
            seal=seal,
            record=record,
            digest=digest,
            anchored=proven is not None,
            anchored_at=min(at, default=None),
            there=there,
            scored=scored,
            silent=silent,
            unfinal=unfinal(in_touch(self._tip, votes, head.number), votes, records, final),
            problems=tuple(self._problems),
        )

    async def _proven(self) -> tuple[Record, bytes] | None:
        """The first anchored record, in chain order, that continues the ledger."""
        pointers: list[Pointer] = []
        try:
            pointers = await self._reader.anchored(self._tip)
        except (StorageError, LedgerError) as error:
            self._problems.append(f"what is anchored cannot be read: {error}")
        for pointer in pointers:
            try:
                record, _ = await self._reader.record(pointer.places, self._tip, self._tip.round, pointer.digest)
                ledger.check_link(self._tip, record, None)
            except (StorageError, LedgerError) as error:
                self._problems.append(f"the anchored record cannot be used: {error}")
                continue
            return record, pointer.digest
        return None

    async def _unproven(self) -> tuple[Record, bytes] | None:
        """A record that lies in an aggregator's bucket and that no anchor names; of several that of the first turn."""
        if not self._mirrors:
            self._problems.append("no aggregator has committed a bucket that can be opened")
            return None
        found, problems = await siblings(self._mirrors.values(), self._tip, self._tip.round, self._reader.conduct)
        for problem in problems.values():
            self._problems.append(f"a record in an aggregator's bucket cannot be used: {problem}")
        for record, digest in sorted(found, key=lambda one: (one[0].turn, one[1])):
            try:
                ledger.check_link(self._tip, record, None)
            except LedgerError as error:
                self._problems.append(f"a record in an aggregator's bucket cannot be used: {error}")
                continue
            return record, digest
        return None

    async def _seal(self, record: Record | None) -> Seal | None:
        try:
            if record is not None and self._mirrors:
                return (await read_seal(self._reader.mirrors(self._mirrors.values()), record))[0]
            return next((found.seal for found in await self._reader.seals(self._tip)), None)
        except (StorageError, LedgerError) as error:
            self._problems.append(f"the seal cannot be read: {error}")
            return None

    async def _there(self, seal: Seal | None) -> tuple[frozenset[bytes], frozenset[bytes], frozenset[bytes]]:
        """Whose next object is in its bucket, whose scores are, and whose bucket does not answer."""
        tip, stores = self._tip, self._directory.stores(await self._directory.snapshot())
        if seal is None:
            asked = {peer: paths.head(tip.run_id, tip.round) for peer in tip.opening.expected}
        else:
            asked = {peer: paths.key(tip.run_id, tip.round) for peer, _ in seal.headers}
        there: set[bytes] = set()
        scored: set[bytes] = set()
        silent: set[bytes] = set()

        async def peek(peer: bytes, key: str, found: set[bytes]) -> None:
            store = stores.get(peer)
            try:
                if store is not None and await store.head(key, deadline=PEEK_DEADLINE) is not None:
                    found.add(peer)
            except StorageError:
                silent.add(peer)

        async with asyncio.TaskGroup() as tasks:
            for peer, key in asked.items():
                tasks.create_task(peek(peer, key, there))
            if tip.score_rounds:
                judged = tip.score_rounds[0]
                scores = paths.scores(tip.run_id, judged, self._records[judged])
                for validator in tip.validators:
                    tasks.create_task(peek(validator, scores, scored))
        return frozenset(there), frozenset(scored), frozenset(silent)
