"""Taking in one round's submissions: one state a peer, filled in the background, each peer on its own.

    seen ──key──▶ keyed ──payload──▶ opened
      └─────────────┴────────────────▶ failed(reason)

Whatever a peer's bucket does (vanish, stall, drip, lie about sizes) ends in that peer's own reason and in nobody
else's: a look starts what is to be read, waits for all of it until the next block at the longest, and leaves what
hangs to hang alone. What may be a fault of the way here (bytes that no key signed, or not the ones a head commits to)
is looked at again; time, and nothing else, makes it the peer's.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from muster.node.context import Offload
from muster.node.ledger.participant import Errands
from muster.node.submission import Payload, Place, Submissions
from muster.protocol import paths, wire
from muster.protocol.errors import DiskFailed, ObjectDamaged, ObjectMissing, StorageError, WireError
from muster.protocol.reasons import (
    HEAD_REASONS,
    KEY_MISSING,
    PAYLOAD_REASONS,
    UNAVAILABLE,
    UNSIGNED,
)
from muster.protocol.rules.admission import MAX_HEAD_BYTES, RoundFacts, admit, admit_registration
from muster.protocol.storage import Store
from muster.protocol.types import Block
from muster.protocol.wire import Key, Seal, Signed

log = logging.getLogger(__name__)

BEYOND_SEATS = 8
"""Places for payloads under way at one time beyond as many as there are seats."""


@dataclass(frozen=True, slots=True)
class Head:
    """What was found in a peer's bucket: the head's bytes, and what is wrong with it ("" = nothing)."""

    public: bytes
    data: bytes
    reason: str
    signed: Signed | None

    @property
    def final(self) -> bool:
        """Whether these are surely the peer's own bytes: somebody signed them."""
        return self.reason not in UNSIGNED


class Stage(Enum):
    """How far a peer's submission is."""

    SEEN = "seen"
    KEYED = "keyed"
    OPENED = "opened"
    FAILED = "failed"


@dataclass(slots=True)
class Taken:
    """One peer's submission. `problem` is its reason if nothing more should come; `busy` says that a read is under
    way, `place` is the one in line that it takes for its payload's; `again` is the block from which on it is tried
    again, `pause` how many blocks are waited the next time; `hindered` is what the leader's own disk had against it."""

    head: Head
    stage: Stage = Stage.SEEN
    key: Key | None = None
    payload: Payload | None = None
    problem: str = KEY_MISSING
    busy: bool = False
    place: Place | None = None
    again: int = 0
    pause: int = 1
    hindered: DiskFailed | None = None

    @property
    def settled(self) -> bool:
        """Whether nothing more can come."""
        return self.stage in (Stage.OPENED, Stage.FAILED)

    def fail(self, reason: str) -> None:
        """It ends here, for the first reason there is; what was kept of it is let go."""
        if self.stage is not Stage.FAILED:
            self.stage, self.problem, self.payload = Stage.FAILED, reason, None

    def lacks(self, problem: str) -> None:
        """It gets no further for now; this is its reason if nothing more comes."""
        if not self.settled:
            self.problem = problem

    def retry(self, problem: str, block: int) -> None:
        """It is tried again, at first in the next block and then less and less often."""
        self.lacks(problem)
        self.again = block + self.pause
        self.pause *= 2

    def show(self, key: Key) -> None:
        """Its key is known; a submission that has ended while the key was on its way stays ended."""
        if self.stage is Stage.SEEN:
            self.stage, self.key = Stage.KEYED, key

    def open(self, payload: Payload) -> None:
        """Its payload is opened; a submission that has ended meanwhile stays ended."""
        if self.stage is Stage.KEYED:
            self.stage, self.payload = Stage.OPENED, payload


@dataclass(slots=True)
class Intake:
    """The submissions of one round, as one leader sees them; `seal` is the digest of the one that stands."""

    facts: RoundFacts
    submissions: Submissions
    errands: Errands
    offload: Offload
    peers: dict[bytes, Taken] = field(default_factory=dict)
    seal: bytes | None = None
    _reading: set[bytes] = field(default_factory=set)
    _told: set[bytes] = field(default_factory=set)
    _stores: Mapping[bytes, Store] = field(default_factory=dict)
    _order: Sequence[bytes] = ()
    _seats: int = 0
    _head: Block = field(default=Block(0, b""))
    _line: Sequence[bytes] = ()
    _workers: int = 0

    @property
    def _key(self) -> str:
        return paths.head(self.facts.run_id, self.facts.opening.round)

    async def look(self, stores: Mapping[bytes, Store], head: Block) -> list[bytes]:
        """Read the heads that are not surely known yet; returns the peers whose are since the last look, in key order.

        Raises:
            ChainError: the chain does not say when the look is over.
        """
        done = self._final() | self._reading
        todo = [public for public in sorted(stores) if public not in done]
        self._reading |= set(todo)
        started = {self.errands.start(self._read_head(public, stores[public])) for public in todo}
        await self.errands.wait(started, head)
        news = sorted(self._final() - self._told)  # among them what an earlier look has begun and not seen the end of
        self._told |= set(news)
        return news

    def _final(self) -> set[bytes]:
        return {public for public, taken in self.peers.items() if taken.head.final}

    async def _read_head(self, public: bytes, store: Store) -> None:
        try:
            data = _telling(await store.get_range(self._key, 0, MAX_HEAD_BYTES + 1))
            head = await self.offload(lambda: self.judge(public, data))
            if self.seal is None:  # what the seal lists are the very heads that were in when it was made
                self.peers[public] = Taken(head)
        except ObjectMissing:
            pass  # not there yet
        except StorageError as error:
            log.info("the bucket of a peer cannot be read: %s", error)
        finally:
            self._reading.discard(public)

    def judge(self, public: bytes, data: bytes) -> Head:
        """Judge a head by the one rule."""
        try:
            return Head(public, data, "", admit(self.facts, public, data))
        except WireError as error:
            return Head(public, data, error.reason, None)

    def close(self, seal: Seal, digest: bytes) -> None:
        """The seal, which has this digest, stands: only what it lists is taken further, with keys that answer it."""
        self.seal = digest
        listed = {public for public, _ in seal.headers}
        self.peers = {public: taken for public, taken in self.peers.items() if public in listed}
        for taken in self.peers.values():
            if taken.head.signed is None:
                taken.fail(taken.head.reason)

    async def reveal(
        self, stores: Mapping[bytes, Store], order: Sequence[bytes], seats: int, head: Block
    ) -> frozenset[bytes]:
        """Go on fetching keys and payloads; returns the peers that nothing more is awaited from.

        Keys are small, so all are looked for at once. For payloads there are seats + 8 places, which those that are in
        keep; expected peers come first, then everybody in the order given. Each that fails, or takes longer than a slow
        line would, lets the next one begin.

        Raises:
            ChainError: the chain does not say when the look is over.
            DiskFailed: this machine's disk takes no payload; that is no peer's fault, and the look is none.
        """
        self._stores, self._order, self._seats, self._head = stores, order, seats, head
        started = {
            self.errands.start(self._find(self.peers[public], stores.get(public)))
            for public in order
            if self._due(public, Stage.SEEN)
        }
        await self.errands.wait(started, head)
        expected = frozenset(self.facts.opening.expected)
        self._line = sorted(order, key=lambda public: public not in expected)
        free = min(seats + BEYOND_SEATS - self._workers, sum(self._due(public, Stage.KEYED) for public in order))
        workers = {self.errands.start(self._work()) for _ in range(free)}
        await self.errands.wait(workers, head)
        for public in sorted(self._likely()):
            if (fault := self.peers[public].hindered) is not None:
                raise fault
        return self.settled()

    @property
    def fetching(self) -> bool:
        """Whether payloads are under way."""
        return self._workers > 0

    @property
    def order(self) -> Sequence[bytes]:
        """The order by which the last look fetched."""
        return self._order

    def _due(self, public: bytes, stage: Stage) -> bool:
        taken = self.peers[public]
        return taken.stage is stage and not taken.busy and taken.again <= self._head.number

    async def _find(self, taken: Taken, store: Store | None) -> None:
        """Look for one peer's key."""
        assert taken.head.signed is not None and self.seal is not None
        taken.lacks(UNAVAILABLE)  # if its bucket never answers
        if store is None:
            return
        taken.busy = True
        try:
            taken.show(await self.submissions.key(store, taken.head.signed, self.seal))
        except ObjectMissing:
            taken.lacks(KEY_MISSING)
        except ObjectDamaged as damaged:
            taken.lacks(damaged.reason)
        except StorageError as error:
            log.info("a key cannot be fetched: %s", error)
        except WireError as error:
            taken.fail(error.reason)
        finally:
            taken.busy = False

    async def _work(self) -> None:
        """Fetch payloads until none is left to begin; where one loses its place, another worker goes on in it."""
        self._workers += 1
        place = Place()
        try:
            while not place.lost and (taken := self._next()) is not None:
                assert taken.head.signed is not None
                with self.submissions.place(taken.head.signed, self._replace) as place:
                    taken.place = place
                    await self._fetch(taken, self._stores[taken.head.public])
        finally:
            self._workers -= not place.lost

    def _replace(self) -> None:
        """A worker has lost its place."""
        self._workers -= 1
        self.errands.start(self._work())

    def _next(self) -> Taken | None:
        """The next peer in line whose payload can be fetched and is likely to be needed."""
        likely = self._likely()
        return next(
            (
                self.peers[public]
                for public in self._line
                if public in likely and public in self._stores and self._due(public, Stage.KEYED)
            ),
            None,
        )

    def _likely(self) -> set[bytes]:
        """The front of the order, until enough payloads are in or under way whatever some of these turn out to be."""
        found, opened, hoped = set(), 0, 0
        for public in self._order:
            if opened == self._seats or hoped == self._seats + BEYOND_SEATS:
                break
            taken = self.peers[public]
            found.add(public)
            opened += taken.stage is Stage.OPENED
            hoped += taken.stage is Stage.OPENED or (taken.place is not None and taken.place.held)
        return found

    async def _fetch(self, taken: Taken, store: Store) -> None:
        """Fetch and open one peer's payload."""
        assert taken.head.signed is not None and taken.key is not None
        taken.busy, taken.hindered = True, None
        taken.lacks(UNAVAILABLE)
        try:
            taken.open(await self.submissions.payload(store, taken.head.signed, taken.key))
        except ObjectDamaged as damaged:
            taken.retry(damaged.reason, self._head.number)
        except DiskFailed as error:
            taken.hindered, taken.again = error, self._head.number + 1
        except StorageError as error:
            log.info("a payload cannot be fetched: %s", error)
            taken.retry(UNAVAILABLE, self._head.number)
        except WireError as error:
            taken.fail(error.reason)
        finally:
            taken.busy = False

    def settled(self) -> frozenset[bytes]:
        """The peers that nothing more is awaited from: who has ended, and all that cannot get a seat any more.

        Those are behind as many opened ones as there are seats, whatever comes of who is still to come before these.
        """
        opened = [public for public in self._order if self.peers[public].stage is Stage.OPENED]
        if len(opened) < self._seats:
            return self.ended()
        return self.ended() | frozenset(self._order[self._order.index(opened[self._seats - 1]) :])

    def failures(self) -> dict[bytes, str]:
        """Time is up: why each peer has no payload in; who has one is not listed."""
        return {public: taken.problem for public, taken in self.peers.items() if taken.payload is None}

    def ended(self) -> frozenset[bytes]:
        """The peers whose submission is opened or has failed."""
        return frozenset(public for public, taken in self.peers.items() if taken.settled)

    def payload(self, public: bytes) -> Payload:
        """The opened submission of a peer that has one."""
        payload = self.peers[public].payload
        assert payload is not None, "only who has a payload in is accepted"
        return payload

    def admitted(self, owner: bytes, head: bytes) -> Signed:
        """What `admission.admit` said of a head when it was taken in; one that is not known is judged now.

        Raises:
            WireError: its reason.
        """
        taken = self.peers.get(owner)
        if taken is not None and taken.head.data == head:
            if taken.head.reason in HEAD_REASONS:
                raise WireError(taken.head.reason)
            if taken.head.signed is not None:
                return taken.head.signed
        return admit(replace(self.facts, peers=None), owner, head)

    def recheck(self, uids: Mapping[bytes, int]) -> None:
        """Heads are judged when they are seen, but a slot may pass on meanwhile: only its holder of now keeps it.

        Without this two accepted submissions could claim one slot, which makes a record that nobody applies.
        """
        for public, taken in self.peers.items():
            if taken.head.signed is None or taken.stage is Stage.FAILED:
                continue
            try:
                admit_registration(uids, public, taken.head.signed.header.uid)
            except WireError as error:
                taken.fail(error.reason)

    def candidates(self) -> list[bytes]:
        """The peers that are in the running for a seat, whatever came of their payloads, in key order."""
        return [
            public
            for public, taken in sorted(self.peers.items())
            if taken.stage is not Stage.FAILED or taken.problem in PAYLOAD_REASONS
        ]

    def heads(self) -> dict[bytes, bytes]:
        """The heads' bytes by peer, as they are sealed."""
        return {public: taken.head.data for public, taken in self.peers.items()}

    def load(self, heads: Mapping[bytes, bytes], seal: Seal) -> None:
        """Go on from the heads that another life of this leader sealed.

        Raises:
            ObjectDamaged: they are not those that the seal lists.
        """
        if tuple((public, wire.head_digest(heads[public])) for public in sorted(heads)) != seal.headers:
            raise ObjectDamaged("the saved heads are not those that the seal lists")
        self.peers = {public: Taken(self.judge(public, head)) for public, head in heads.items()}


def _telling(data: bytes) -> bytes:
    """What of an object in the place of a head tells what is wrong with it; all of it where it may be one.

    Nobody must make records larger by putting more than a head there.
    """
    try:
        size = wire.read_prefix(data, wire.Type.HEAD).total_bytes
    except WireError:
        return data[: wire.PREFIX_BYTES]
    return data[: size + 1] if size <= MAX_HEAD_BYTES else data[: wire.PREFIX_BYTES]
