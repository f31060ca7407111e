"""What the audit looks at: what is anchored on chain, and the objects in the leader's bucket, each as it was named.

The one place of the audit that reads the ledger; it shares the participants' own reading (`node/ledger/reader.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from muster.kernels import SparseUpdate
from muster.node.directory import Directory
from muster.node.ledger import catch_up, objects, reader
from muster.node.ledger.ahead import ROUNDS_AHEAD, ReadAhead
from muster.node.ledger.participant import judge, open_updates
from muster.node.ledger.reader import Fetched, Reader
from muster.node.replica import Replica
from muster.protocol import paths, wire
from muster.protocol.chain.base import Chain, Peer
from muster.protocol.errors import AuditError, LedgerError, ObjectDamaged, ObjectMissing, StorageError
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import Applied, Tip
from muster.protocol.spec import RunSpec
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage import Buckets, Store
from muster.protocol.storage.thread import in_thread
from muster.protocol.types import Anchor
from muster.protocol.wire import Record, Seal

MAX_BEYOND = 1_000
"""Records without an anchor that are counted; there is one at most in an honest run."""


@dataclass(frozen=True, slots=True)
class Found:
    """A record whose bytes are the anchored ones, and what it names; None for an object that is not to be had.

    `updates` are those in the bundle, where they were decoded ahead.
    """

    record: Record
    digest: bytes
    seal: tuple[Seal, bytes] | None
    bundle: bytes | None
    updates: Sequence[SparseUpdate] | None = None

    @property
    def whole(self) -> Fetched | None:
        """Everything a record names, where all of it is there."""
        if self.seal is None or self.bundle is None:
            return None
        return Fetched(self.record, self.digest, *self.seal, self.bundle, updates=self.updates)


class Evidence:
    """Reads one run's chain and its leader's bucket. `look` comes first.

    `last` is the newest anchored round, −1 before the first; `peers` are all who are registered, `validators` the
    hotkeys of those whose scores count.
    """

    def __init__(self, start: Tip, chain: Chain, buckets: Buckets) -> None:
        self._chain = chain
        self._buckets = buckets
        self.run_id = start.run_id
        self.validators = start.history.genesis.genesis.leaders
        self.slots = start.history.genesis.data.slots
        self._start = start
        self._reader = Reader(chain, Directory(chain, buckets))
        self._leader = hotkey_of(start.leader_in_turn)
        self._anchored: dict[int, tuple[bytes, ...]] = {}
        self._digests: dict[int, bytes] = {}
        self._store: Store | None = None
        self.last = -1
        self.peers: dict[str, Peer] = {}

    async def look(self, round_: int) -> None:
        """See what is anchored by now, and prove what lies between `round_` and the newest anchor.

        Raises:
            AuditError: something is anchored, and the leader has no bucket that can be opened.
            ChainError: the chain cannot be read.
        """
        self.peers = (await self._chain.snapshot()).by_hotkey()
        for seen in await self._chain.anchors(0):
            known = self._anchored.get(seen.anchor.round, ())
            if seen.hotkey == self._leader and seen.anchor.digest not in known:
                self._anchored[seen.anchor.round] = (*known, seen.anchor.digest)
        self.last = max(self._anchored, default=-1)
        if self._anchored:
            self._open()
            await self._trace(round_)

    def _open(self) -> None:
        peer = self.peers.get(self._leader)
        if peer is None or peer.location is None:
            raise AuditError(f"the leader {self._leader} has committed no bucket")
        try:
            self._store = self._buckets.bucket(peer.location)
        except StorageError as error:
            raise AuditError(f"the bucket of the leader {self._leader} cannot be opened: {error}") from error

    async def _trace(self, round_: int) -> None:
        """Where a chain shows only later anchors, a record proves the one before it (`protocol/ledger/lineage.py`)."""
        for newest in sorted(self._anchored, reverse=True):
            at = newest
            while at > round_ and at - 1 not in self._anchored:
                try:
                    record, _ = await self.record(at)
                except (StorageError, LedgerError):
                    break  # a fault of round `at`, which is told when it is its turn
                at -= 1
                self._anchored[at] = (record.parent,)

    def record_key(self, round_: int) -> str:
        """The name of a round's record, as far as it is known before it is read."""
        known = self.digest_of(round_)
        return paths.record(self.run_id, round_, known) if known else paths.records(self.run_id, round_)

    def digest_of(self, round_: int) -> bytes | None:
        """The digest of a round's record: of the one that was read, else as the next record or an anchor names it."""
        return self._digests.get(round_) or next(iter(self._anchored.get(round_, ())), None)

    def proven(self, round_: int) -> bool:
        """Whether an anchor names the record of a round, or leads back to it."""
        return round_ in self._anchored

    def after(self, round_: int) -> int:
        """The next round that something is anchored for; `last` + 1 where there is none."""
        return min((anchored for anchored in self._anchored if anchored > round_), default=self.last + 1)

    @property
    def store(self) -> Store:
        """The leader's bucket; there is one as soon as something is anchored."""
        assert self._store is not None
        return self._store

    async def record(self, round_: int) -> tuple[Record, bytes]:
        """The anchored record of a round, and its digest.

        Raises:
            StorageError: it is not there, or not the anchored one.
            LedgerError: it is the anchored one, and no record.
        """
        record, digest = await self._record(round_)
        self._digests[round_] = digest
        self._digests.setdefault(round_ - 1, record.parent)
        return record, digest

    async def _record(self, round_: int) -> tuple[Record, bytes]:
        anchored = self._anchored.get(round_)
        if anchored is None:
            here = await self._reader.siblings(self.store, self._start, round_)
            if not here:
                raise ObjectMissing("it is not there")
            return here[0]
        problems: list[StorageError] = []
        for digest in anchored:
            try:
                return (await self._reader.record(self.store, self._start, round_, digest))[0], digest
            except ObjectDamaged as damaged:
                problems.append(damaged)
        raise problems[0]

    def ahead(self) -> ReadAhead:
        """The context of what is read ahead: only within it can `go_on` be called."""
        return self._reader.ahead

    def go_on(self, round_: int, tip: Tip) -> None:
        """Have the rounds after this one read ahead, as far as anchors name their records."""
        after = range(round_ + 1, min(round_ + ROUNDS_AHEAD, self.last) + 1)
        later = [Anchor(number, digest) for number in after if (digest := self.digest_of(number)) is not None]
        self._reader.ahead.want(self.store, tip, later, self._anchored.get(round_, ()), _open_ahead)

    async def updates(self, digest: bytes) -> Sequence[SparseUpdate] | None:
        """The updates of the record with this digest, where they were decoded ahead; nothing is kept of it here."""
        found = await self._reader.ahead.updates(digest)
        self._reader.ahead.forget(digest)
        return found

    async def seal(self, record: Record, digest: bytes) -> tuple[Seal, bytes]:
        """The seal that a record, which has this digest, names, and the seal's digest; raises as `record` does."""
        return (await self._reader.seal_of(self.store, record, digest))[0], record.seal

    def bundle_size(self, record: Record, tip: Tip | None) -> int:
        """How large a record's bundle is by its heads, within what the rules allow (those of the start, without a tip).

        Raises:
            LedgerError: it is more than a round may have, or not what the record says.
        """
        return objects.bundle_size(record, tip or self._start)

    async def bundle(self, record: Record, digest: bytes, size: int) -> bytes:
        """The bundle a record, which has this digest, names, of `size` bytes; raises as `record` does."""
        return await self._reader.bundle_of(self.store, record, digest, size)

    async def check_heads(self, record: Record) -> None:
        """What lies beside the seal is that very seal, and the heads of the record; raises as `record` does."""
        data = await self.store.get(
            paths.heads(self.run_id, record.round, record.parent), max_bytes=wire.MAX_BODY_BYTES
        )
        seal, heads = wire.decode_sealed(data)
        if wire.decode_seal(seal, self.run_id)[1] != record.seal:
            raise LedgerError("it does not hold the seal of the record")
        if heads != {entry.public: entry.head for entry in record.entries}:
            raise LedgerError("it does not hold the heads of the record")

    async def check_beacons(self, tip: Tip, found: Found) -> None:
        """Every block and beacon of a record and its seal is the chain's own.

        Raises:
            LedgerError: one is not, or is of a block that the chain does not have yet.
        """
        assert found.seal is not None
        record, head = found.record, await self._chain.head()
        named = [found.seal[0].block]
        if record.opening is not None:
            named += [record.opening.open, record.opening.assign.block, record.opening.possess.block]
        newest = max(block.number for block in named)
        if newest > head.number:
            raise LedgerError(f"it names block {newest}, and the chain is at {head.number}")
        await self._reader.check_beacons(tip, record, found.seal[0])

    async def evaluation_beacon(self, spec: RunSpec, seal: Seal) -> bytes | None:
        """What validators draw by in the round of a seal, of this spec; None while the chain does not have its block.

        Raises:
            ChainError: the chain cannot be read.
        """
        at = seal.block.number + spec.clock.evaluate
        if at > (await self._chain.head()).number:
            return None
        return await self._chain.beacon(reader.EVALUATE, seal.round, at)

    async def weights(self, hotkey: str) -> Mapping[int, int] | None:
        """The weights that the chain shows of a validator; None where it shows none.

        Raises:
            ChainError: the chain cannot be read.
        """
        return await self._chain.weights(hotkey)

    def judge(self, fetched: Fetched, tip: Tip, replica: Replica) -> Applied:
        """Apply every rule; blocks on the processor.

        Raises:
            LedgerError: the first rule that is broken.
        """
        return judge(fetched, tip, replica)

    async def checkpoint(self, tip: Tip, record: Record) -> Replica:
        """θ before a record that pins a checkpoint; raises as `record` does."""
        return await catch_up.load_checkpoint(self.store, tip, record)

    async def beyond(self, round_: int) -> list[str]:
        """The names of the records, `MAX_BEYOND` at most, in the leader's bucket from `round_` on, one a round."""
        found: list[str] = []
        while self._store is not None and len(found) < MAX_BEYOND:
            here = await self._store.list(paths.records(self.run_id, round_ + len(found)), limit=1)
            if not here:
                break
            found.append(here[0].key)
        return found


async def _open_ahead(tip: Tip, record: Record, bundle: bytes) -> Sequence[SparseUpdate]:
    """Decode in a thread."""
    return await in_thread(lambda: open_updates(tip, record, bundle))


async def genesis(history: SpecHistory, chain: Chain) -> Tip:
    """The tip every run begins with."""
    return await reader.genesis_tip(history, chain)
