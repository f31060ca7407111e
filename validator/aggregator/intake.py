"""Taking in one round's submissions: heads before the seal, keys and payloads after it, each peer on its own.

Whatever a peer's bucket does (vanish, stall, lie about sizes) ends in that peer's own reason and in nobody else's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from muster.kernels import SparseUpdate
from muster.node.follow import BULK_DEADLINE
from muster.node.participant import Offload
from muster.protocol import paths, wire
from muster.protocol.admission import MAX_HEAD_BYTES, MAX_KEY_BYTES, RoundFacts, admit, admit_registration
from muster.protocol.bundle import Opened
from muster.protocol.errors import LedgerError, ObjectMissing, StorageError, WireError
from muster.protocol.identity import PUBLIC_BYTES
from muster.protocol.reasons import KEY_EARLY, KEY_MISSING, OBJECT_SIZE, UNAVAILABLE
from muster.protocol.storage import Store
from muster.protocol.wire import Signed

log = logging.getLogger(__name__)

CONCURRENCY = 32
"""Peers read from at the same time."""


@dataclass(frozen=True, slots=True)
class Head:
    """What was found in a peer's bucket: the head's bytes, and what is wrong with it ("" = nothing)."""

    public: bytes
    data: bytes
    reason: str
    signed: Signed | None


@dataclass(frozen=True, slots=True)
class Payload:
    """An opened submission."""

    opened: Opened
    update: SparseUpdate


class Intake:
    """The submissions of one round, as one leader saw them."""

    def __init__(self, facts: RoundFacts, offload: Offload) -> None:
        self.facts = facts
        self.heads: dict[bytes, Head] = {}
        self.payloads: dict[bytes, Payload] = {}
        self.failures: dict[bytes, str] = {}
        self._offload = offload
        self._gate = asyncio.Semaphore(CONCURRENCY)

    @property
    def _key(self) -> str:
        return paths.submission(self.facts.run_id, self.facts.opening.round)

    async def look(self, stores: Mapping[bytes, Store]) -> list[bytes]:
        """Read the heads that are new since the last look; returns their peers in key order."""
        fresh = [public for public in sorted(stores) if public not in self.heads]
        async with asyncio.TaskGroup() as tasks:
            found = [tasks.create_task(self._read_head(public, stores[public])) for public in fresh]
        heads = [head for head in (task.result() for task in found) if head is not None]
        self.heads |= {head.public: head for head in heads}
        return [head.public for head in heads]

    async def _read_head(self, public: bytes, store: Store) -> Head | None:
        async with self._gate:
            try:
                info = await store.head(self._key)
                if info is None:
                    return None
                data = await store.get_range(self._key, 0, wire.PREFIX_BYTES)
                size = _head_size(data)
                if size:
                    data = await store.get_range(self._key, 0, size)
            except ObjectMissing:
                return None
            except StorageError as error:
                log.warning("the bucket of a peer cannot be read: %s", error)
                return None
        return await self._offload(lambda: self.judge(public, data, info.size))

    def judge(self, public: bytes, data: bytes, size: int | None) -> Head:
        """Judge a head by the one rule; `size` is the object's, None where it is not at hand any more."""
        try:
            signed = admit(self.facts, public, data)
        except WireError as error:
            return Head(public, data, error.reason, None)
        if size is not None and size != len(data) + signed.ciphertext_bytes:
            return Head(public, data, OBJECT_SIZE, None)
        return Head(public, data, "", signed)

    async def early(self, stores: Mapping[bytes, Store]) -> tuple[bytes, ...]:
        """Peers with a good head whose key is public already."""
        key = paths.key(self.facts.run_id, self.facts.opening.round)
        early = []
        for public in sorted(self.heads):
            if self.heads[public].signed is None or public not in stores:
                continue
            try:
                if await stores[public].head(key) is not None:
                    early.append(public)
            except StorageError as error:
                log.warning("the bucket of a peer cannot be read: %s", error)
        return tuple(early)

    async def reveal(self, stores: Mapping[bytes, Store], early: Iterable[bytes]) -> list[bytes]:
        """Fetch the keys and payloads that are there by now; returns the peers settled by it, in key order."""
        before = set(self.payloads) | set(self.failures)
        for public in early:
            self.failures.setdefault(public, KEY_EARLY)
        waiting = [h for h in self.heads.values() if h.public not in self.payloads and h.public not in self.failures]
        async with asyncio.TaskGroup() as tasks:
            for head in waiting:
                tasks.create_task(self._settle(head, stores.get(head.public)))
        return sorted((set(self.payloads) | set(self.failures)) - before)

    async def _settle(self, head: Head, store: Store | None) -> None:
        if head.signed is None:
            self.failures[head.public] = head.reason
            return
        if store is None:
            return
        signed, facts = head.signed, self.facts
        async with self._gate:
            try:
                name = paths.key(facts.run_id, facts.opening.round)
                data = await store.get(name, max_bytes=MAX_KEY_BYTES)
                key = wire.decode_key(data, facts.run_id, facts.opening.round, head.public)
                ciphertext = await store.get_range(
                    self._key, len(head.data), signed.ciphertext_bytes, deadline=BULK_DEADLINE
                )
                update = await self._offload(
                    lambda: wire.open(signed.header, ciphertext, key, facts.layout, facts.spec.sparse.k)
                )
            except ObjectMissing:
                return
            except StorageError as error:
                log.warning("a payload cannot be fetched: %s", error)
                return
            except WireError as error:
                self.failures[head.public] = error.reason
                return
        self.payloads[head.public] = Payload(Opened(signed, key, ciphertext), update)

    async def give_up(self, stores: Mapping[bytes, Store]) -> None:
        """Time is up: whoever is not settled has not shown his key, or not his payload."""
        for public, head in self.heads.items():
            if public in self.payloads or public in self.failures:
                continue
            if head.signed is None:
                self.failures[public] = head.reason
                continue
            self.failures[public] = KEY_MISSING
            store = stores.get(public)
            try:
                if store is None or await store.head(self._key) is None:
                    self.failures[public] = UNAVAILABLE
            except StorageError:
                self.failures[public] = UNAVAILABLE

    def recheck(self, peers: Mapping[bytes, int]) -> None:
        """Heads are judged when they are seen, but a slot may pass on meanwhile: only its holder of now keeps it.

        Without this two accepted submissions could claim one slot, which makes a record that nobody applies.
        """
        for public, head in self.heads.items():
            if head.signed is None or public in self.failures:
                continue
            try:
                admit_registration(peers, public, head.signed.header.uid)
            except WireError as error:
                self.payloads.pop(public, None)
                self.failures[public] = error.reason

    def save(self) -> bytes:
        """The heads as bytes, for a leader that is restarted after its seal."""
        return wire.counted(public + self.heads[public].data for public in sorted(self.heads))

    def load(self, data: bytes) -> None:
        """The heads another life of this leader had sealed.

        Raises:
            LedgerError: not what `save` wrote.
        """
        try:
            items = wire.whole(data, lambda cursor: cursor.items(wire.MAX_SEALED))
        except WireError as error:
            raise LedgerError("the saved heads are not readable") from error
        for item in items:
            public, head = item[:PUBLIC_BYTES], item[PUBLIC_BYTES:]
            self.heads[public] = self.judge(public, head, None)


def _head_size(prefix: bytes) -> int:
    """Bytes of the head a prefix announces, 0 where it is not a prefix or announces too much."""
    try:
        size = wire.read_prefix(prefix, wire.Type.SUBMISSION).head_bytes
    except WireError:
        return 0
    return size if size <= MAX_HEAD_BYTES else 0
