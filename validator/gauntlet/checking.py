"""Validators look at each other's measurements: a row or two a round is measured again, and who lied is disputed.

A score file is looked at as soon as it is there and this validator has scored its round, or the round after; θ of so
many rounds can be gone back to. Which rows nobody can foresee: those that are most at odds with what was measured here,
one drawn by a secret, and those that somebody else disputes, so that honest validators come to sign the same.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from muster.node.context import Context
from muster.node.data.dataset import TextReader
from muster.node.replica import Replica
from muster.node.telemetry import events
from muster.protocol import paths
from muster.protocol.errors import ChainError, ObjectMissing, StorageError, WireError
from muster.protocol.identity import hotkey_of, public_of
from muster.protocol.incentive.row import ScoreRow
from muster.protocol.ledger import Applied, Tip
from muster.protocol.rules.sampling import sample
from muster.protocol.storage import Store
from muster.protocol.wire import (
    MAX_DISPUTE_BYTES,
    ScoreFile,
    decode_dispute,
    decode_scores,
    encode_dispute,
    max_scores_bytes,
)
from muster.validator.gauntlet.again import LEAST, Again, disagreement, published_factor
from muster.validator.gauntlet.evaluation import own_beacon
from muster.validator.gauntlet.judging import Work

log = logging.getLogger(__name__)
T = TypeVar("T")

KEPT = 2
"""Rounds whose θ can still be gone back to after they were scored: the newest, whose files may not all be there yet,
and the one before, for what others dispute of it meanwhile. Each costs an undo log."""

LOOK_SECONDS = 10.0
"""How long reading others' files may take together, and their disputes; who was not read by then is looked at in the
next round."""

READ_SECONDS = 4.0
"""How long one object may take, so that a bucket that hangs leaves time for the rest."""

BY_LOT, BY_WORD = 1, 2
"""Rows that are measured again in one look, beside the one of each file that is most at odds with one's own figures:
drawn, and disputed by others."""


UNSENT = 8
"""Disputes that wait for a bucket that takes them; who cannot store more than these has other worries."""


class Theta(Protocol):
    """What scoring and checking need of the θ that the session moves."""

    async def at(self, round_: int, work: Callable[[Replica], T]) -> T:
        """Run `work` with the replica where the record of a round was made, while nobody else uses it."""


@dataclass(slots=True, eq=False)
class Scored:
    """A round that this validator has scored: where the ledger stood, its record, the beacon that validators' own are
    made of, what it measured exactly and what it said; `files` are others' files, by hotkey, as they were read."""

    tip: Tip
    applied: Applied
    beacon: bytes
    works: Sequence[Work]
    rows: Mapping[str, ScoreRow]
    files: dict[str, tuple[ScoreFile, bytes]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Doubt:
    """A row of another validator's file, which has this digest, that is to be measured again."""

    scored: Scored
    file: ScoreFile
    digest: bytes
    row: ScoreRow


class Checking:
    """The rounds that were scored last, and what was found of others' files of them."""

    def __init__(
        self,
        context: Context,
        theta: Theta,
        text: TextReader,
        secret: Callable[[], bytes] = lambda: secrets.token_bytes(32),
    ) -> None:
        """`secret` makes 32 bytes that nobody can foresee, each time it is called."""
        self._context = context
        self._theta = theta
        self._text = text
        self._secret = secret
        self._kept: deque[Scored] = deque(maxlen=KEPT)
        self._measured: set[tuple[bytes, str]] = set()
        self._unsent: deque[tuple[Doubt, str]] = deque(maxlen=UNSENT)

    @property
    def oldest(self) -> int | None:
        """The oldest round whose θ is still wanted."""
        return self._kept[0].tip.round if self._kept else None

    def drop(self, round_: int) -> None:
        """The record of a round is taken back: what was made after it is of another θ than there will be."""
        while self._kept and self._kept[-1].tip.round >= round_:
            self._kept.pop()
        self._unsent = deque((one for one in self._unsent if one[0].scored.tip.round < round_), maxlen=UNSENT)

    async def look(self, scored: Scored) -> None:
        """Keep a round that is scored, and measure again what is doubtful of the files that are there."""
        self._kept.append(scored)
        digests = {digest for kept in self._kept for _, digest in kept.files.values()}
        self._measured = {key for key in self._measured if key[0] in digests}
        try:
            doubts = await self._doubts()
        except ChainError as error:
            log.warning("others' scores are not looked at in round %d: %s", scored.tip.round, error)
            doubts = []
        for doubt in doubts:
            await self._check(doubt)
        for unsent in tuple(self._unsent):
            await self._send(*unsent)

    async def _doubts(self) -> list[Doubt]:
        """What is to be measured again: at most so many rows, each once.

        Raises:
            ChainError: the chain does not say where files are.
        """
        tip = self._kept[-1].applied.tip
        peers = (await self._context.chain.snapshot()).by_hotkey()
        mine, stores = self._context.identity.hotkey, dict[str, Store]()
        for hotkey in tip.spec.genesis.leaders:
            store = self._context.directory.store(peers[hotkey]) if hotkey in peers else None
            if hotkey != mine and public_of(hotkey) not in tip.silenced and store is not None:
                stores[hotkey] = store
        fresh: list[Doubt] = []
        said: list[Doubt] = []

        async def read(hotkey: str, store: Store) -> None:
            for scored in tuple(self._kept):
                fresh.extend(await self._read(scored, hotkey, store))

        async def listen(store: Store) -> None:
            for scored in tuple(self._kept):
                said.extend(await self._disputed(scored, store))

        await _together(read(hotkey, store) for hotkey, store in stores.items())
        await _together(listen(store) for store in stores.values())  # of files that have been read
        return self._chosen(fresh, said)

    async def _read(self, scored: Scored, hotkey: str, store: Store) -> list[Doubt]:
        """The rows of a file that is there and has not been read before, of peers whose work is at hand."""
        if hotkey in scored.files:
            return []
        tip, record = scored.tip, scored.applied.digest
        try:
            name = paths.scores(tip.run_id, tip.round, record)
            cap = max_scores_bytes(tip.spec.data.slots)
            data = await store.get(name, max_bytes=cap, deadline=READ_SECONDS)
            file, digest = decode_scores(data, tip.run_id, hotkey, tip.round)
        except ObjectMissing:
            return []
        except (StorageError, WireError) as error:
            log.info("the scores of %s for round %d cannot be read: %s", hotkey, tip.round, error)
            return []
        if file.record != record:
            return []
        scored.files[hotkey] = file, digest
        known = {work.hotkey for work in scored.works}
        return [Doubt(scored, file, digest, row) for row in file.rows if row.measured and row.hotkey in known]

    async def _disputed(self, scored: Scored, store: Store) -> list[Doubt]:
        """The rows of a round that somebody disputes, of files that have been read."""
        tip, found = scored.tip, []
        try:
            prefix = paths.disputes(tip.run_id, tip.round)
            for info in await store.list(prefix, limit=len(tip.validators), deadline=READ_SECONDS):
                data = await store.get(info.key, max_bytes=MAX_DISPUTE_BYTES, deadline=READ_SECONDS)
                dispute, _ = decode_dispute(data, tip.run_id)
                file, digest = scored.files.get(hotkey_of(dispute.validator), (None, b""))
                if file is None or digest != dispute.file:
                    continue
                found += [
                    Doubt(scored, file, digest, row) for row in file.rows if public_of(row.hotkey) == dispute.peer
                ]
        except (StorageError, WireError) as error:
            log.info("what others dispute of round %d cannot be read: %s", tip.round, error)
        known = {work.hotkey for work in scored.works}
        return [doubt for doubt in found if doubt.row.measured and doubt.row.hotkey in known]

    def _chosen(self, fresh: Sequence[Doubt], said: Sequence[Doubt]) -> list[Doubt]:
        ranked = sorted(fresh, key=lambda doubt: (-odds(doubt), doubt.file.hotkey, doubt.row.hotkey))
        chosen = [doubt for i, doubt in enumerate(ranked) if doubt.digest not in {one.digest for one in ranked[:i]}]
        rest = [doubt for doubt in ranked if doubt not in chosen]
        chosen += [rest[i] for i in sample(self._secret(), b"again", len(rest), min(BY_LOT, len(rest)))]
        named = [doubt for doubt in said if (doubt.digest, doubt.row.hotkey) not in self._measured]
        return chosen + named[:BY_WORD]

    async def _check(self, doubt: Doubt) -> None:
        """Measure a row again, and dispute its file where it does not hold."""
        scored, file = doubt.scored, doubt.file
        tip, key = scored.tip, (doubt.digest, doubt.row.hotkey)
        if key in self._measured:
            return
        self._measured.add(key)
        seats = [entry.public for entry in scored.applied.record.seated]
        beacon = own_beacon(scored.beacon, file.public)
        factors = {doubt.row.hotkey: published_factor(doubt.row)}
        again = await self._context.offload(lambda: Again(tip, scored.works, seats, beacon, self._text, factors))
        while await self._theta.at(tip.round, again.go_on):
            pass
        problem = disagreement(doubt.row, again.found[doubt.row.hotkey], tip.spec.gauntlet.loss_tolerance)
        if problem:
            self._unsent.append((doubt, problem))

    async def _send(self, doubt: Doubt, problem: str) -> None:
        """Publish a dispute; one that cannot be stored is tried again after the next round."""
        context, tip, file = self._context, doubt.scored.tip, doubt.file
        peer = public_of(doubt.row.hotkey)
        data = encode_dispute(context.identity, tip.run_id, tip.round, file.public, doubt.digest, peer, problem)
        try:
            await context.bucket.put(paths.dispute(tip.run_id, tip.round, doubt.digest), data)
        except StorageError as error:
            log.warning("a dispute of round %d cannot be stored yet: %s", tip.round, error)
            return
        self._unsent.remove((doubt, problem))
        log.warning("the scores of %s for round %d are disputed: %s", file.hotkey, tip.round, problem)
        context.journal.note(events.Disputed(tip.round, validator=file.hotkey, peer=doubt.row.hotkey, problem=problem))


async def _together(reads: Iterable[Coroutine[None, None, None]]) -> None:
    """All of these at once, for so long and no longer."""
    try:
        async with asyncio.timeout(LOOK_SECONDS), asyncio.TaskGroup() as tasks:
            for read in reads:
                tasks.create_task(read)
    except TimeoutError:
        log.info("not every validator's bucket could be read within %.0f s", LOOK_SECONDS)


def odds(doubt: Doubt) -> float:
    """By how many of its own standard errors this validator's gains of the same peer differ from a row's; 0 where it
    has none. The other's error plays no part: who lies would make it large."""
    own = doubt.scored.rows.get(doubt.row.hotkey)
    if own is None or not own.measured:
        return 0.0
    return max(abs(one - other) / max(error, LEAST) for one, other, error in _gains(doubt.row, own))


def _gains(row: ScoreRow, own: ScoreRow) -> Iterator[tuple[float, float, float]]:
    for side in ("assigned", "unassigned"):
        one, other = (float(getattr(r, f"{side}_before")) - float(getattr(r, f"{side}_after")) for r in (row, own))
        yield one, other, float(getattr(own, f"{side}_spread"))
