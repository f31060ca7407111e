"""Getting at submissions that have no seat: each from its peer's own bucket, all at once, and for so long and no more.

A validator that looks at one after the other is late as soon as one hangs, and then for ever. What it could not look
at in time is not evaluated, which harms nobody; so who is looked at first matters, and is decided by need and by lot.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from blake3 import blake3

from muster.kernels import SparseUpdate
from muster.node.ledger.participant import Errands
from muster.node.submission import Place, Submissions
from muster.protocol.chain.base import Chain
from muster.protocol.errors import StorageError, WireError
from muster.protocol.incentive.row import PeerState
from muster.protocol.spec import ClockSpec
from muster.protocol.storage import Store
from muster.protocol.wire import Key, Signed

log = logging.getLogger(__name__)

FLIGHT_BYTES = 256 * 2**20
"""How many bytes of payloads may be under way at one time."""

MIN_FLIGHT = 8
"""Payloads under way at one time however large they are."""

Pressed = Callable[[], Awaitable[bool]]
"""Whether the next record to be made is the one that these scores steer, so that its leader waits for them."""


def by_need(others: Sequence[Signed], states: Mapping[str, PeerState], beacon: bytes) -> list[Signed]:
    """In which order submissions without a seat are looked at: who was never measured first, then by lot.

    `beacon` is one that nobody knew when the submissions were sealed.
    """

    def rank(signed: Signed) -> tuple[bool, bytes]:
        state = states.get(signed.header.hotkey)
        return state is not None and state.evaluated > 0, blake3(beacon + signed.header.public).digest()

    return sorted(others, key=rank)


class Screening:
    """Fetches and opens what it can of one round; a peer that hangs, drips or lies is left out, alone."""

    def __init__(
        self, submissions: Submissions, seal: bytes, stores: Mapping[bytes, Store], errands: Errands, payload_bytes: int
    ) -> None:
        """`seal` is the digest of the seal that keys must answer, `payload_bytes` the largest payload there can be."""
        self._submissions = submissions
        self._seal = seal
        self._stores = stores
        self._errands = errands
        self._flight = max(MIN_FLIGHT, FLIGHT_BYTES // payload_bytes)
        self._workers = 0
        self._running: set[asyncio.Task[None]] = set()
        self._queue: deque[tuple[Signed, Key]] = deque()
        self._opened: dict[bytes, SparseUpdate] = {}

    async def run(
        self, ranked: Sequence[Signed], chain: Chain, clock: ClockSpec, pressed: Pressed
    ) -> list[tuple[Signed, SparseUpdate]]:
        """What could be opened of these, in the order given, within `reveal` blocks, or within `grace` where pressed.

        Raises:
            ChainError: the chain does not say what block it is at, or whether it is pressed.
        """
        try:
            await self._fetch_all(ranked, chain, clock, pressed)
        finally:
            for task in self._running:
                task.cancel()
        return [(s, self._opened[s.header.public]) for s in ranked if s.header.public in self._opened]

    async def _fetch_all(self, ranked: Sequence[Signed], chain: Chain, clock: ClockSpec, pressed: Pressed) -> None:
        """Until all are opened or have failed, or time is up."""
        begin = head = await chain.head()
        asked = {self._start(self._ask(signed)) for signed in ranked}
        await self._errands.wait(asked, head)
        place = {signed.header.public: i for i, signed in enumerate(ranked)}
        while (gone := (head := await chain.head()).number - begin.number) < clock.reveal:
            if gone >= clock.grace and await pressed():
                break
            self._queue = deque(sorted(self._queue, key=lambda found: place[found[0].header.public]))
            free = min(self._flight - self._workers, len(self._queue))
            for _ in range(free):
                self._start(self._work())
            if not self._running:
                break
            await self._errands.wait(set(self._running), head)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something in the background, until the time is over."""
        task = self._errands.start(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _ask(self, signed: Signed) -> None:
        """Look for one peer's key, and queue its payload."""
        store = self._stores.get(signed.header.public)
        if store is None:
            return
        try:
            key = await self._submissions.key(store, signed, self._seal)
        except (StorageError, WireError) as error:
            log.info("the submission of %s cannot be measured: %s", signed.header.hotkey, error)
            return
        self._queue.append((signed, key))

    async def _work(self) -> None:
        """Fetch payloads until none is left; where one loses its place, another worker goes on in it."""
        self._workers += 1
        place = Place()
        try:
            while not place.lost and self._queue:
                signed, key = self._queue.popleft()
                with self._submissions.place(signed, self._replace) as place:
                    await self._fetch(signed, key)
        finally:
            self._workers -= not place.lost

    def _replace(self) -> None:
        """A worker has lost its place."""
        self._workers -= 1
        self._start(self._work())

    async def _fetch(self, signed: Signed, key: Key) -> None:
        """Fetch and open one peer's payload."""
        try:
            payload = await self._submissions.payload(self._stores[signed.header.public], signed, key)
            self._opened[signed.header.public] = payload.update
        except (StorageError, WireError) as error:
            log.info("the submission of %s cannot be measured: %s", signed.header.hotkey, error)
