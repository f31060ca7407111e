"""What the audit looks at: what is anchored on chain, and the objects in the aggregators' buckets, as they were named.

Whose copy an object is does not matter where a digest names it: the first bucket that has the very bytes will do. The
one place of the audit that reads the ledger; it shares the participants' own reading (`node/ledger/reader.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from muster.audit.proven import Proven
from muster.kernels import SparseUpdate
from muster.node.directory import Directory
from muster.node.ledger import catch_up, objects, reader
from muster.node.ledger.ahead import ROUNDS_AHEAD, ReadAhead
from muster.node.ledger.mirrors import BULK_HEDGE_SECONDS, Conduct, Mirrors
from muster.node.ledger.participant import judge, open_updates
from muster.node.ledger.reader import Fetched, Reader
from muster.node.ledger.siblings import listing, siblings
from muster.node.replica import Replica
from muster.protocol import ledger, paths, wire
from muster.protocol.chain.base import Chain, Peer
from muster.protocol.errors import AuditError, LedgerError, ObjectDamaged, ObjectMissing, StorageError
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import Applied, Tip, kept_under
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
    """Reads one run's chain and its aggregators' buckets. `look` comes first.

    `last` is the newest round that is proven, −1 before the first; `peers` are all who are registered, `validators` the
    hotkeys of those whose scores count: of the list in force where the replay stands.
    """

    def __init__(self, start: Tip, chain: Chain, buckets: Buckets) -> None:
        self._chain = chain
        self.run_id = start.run_id
        self.slots = start.history.genesis.data.slots
        self._start = start
        self._tip = start
        self._directory = Directory(chain, buckets, start.run_id)
        self._reader = Reader(chain, self._directory)
        self.proven_by = Proven(chain, self._reader)
        self._digests: dict[int, bytes] = {}
        self._stores: dict[bytes, Store] = {}
        self.peers: dict[str, Peer] = {}

    @property
    def last(self) -> int:
        """The newest proven round."""
        return self.proven_by.last

    def bucket_of(self, hotkey: str) -> Store:
        """The bucket of who is registered under an address.

        Raises:
            ObjectMissing: nobody is, or has committed one that can be opened.
        """
        peer = self.peers.get(hotkey)
        store = None if peer is None else self._directory.store(peer)
        if store is None:
            raise ObjectMissing(f"{hotkey} has committed no bucket that can be opened")
        return store

    @property
    def validators(self) -> tuple[str, ...]:
        """Whose scores count."""
        return self._tip.spec.genesis.leaders

    async def follow(self, tip: Tip) -> bool:
        """The replay has come to this tip; whether its list is another than before, which is looked at then.

        Raises:
            ChainError: the chain cannot be read.
        """
        changed, self._tip = tip.leaders != self._tip.leaders, tip
        if changed:
            await self.look(tip.round)
        return changed

    @property
    def tip(self) -> Tip:
        """Where the replay stands, as far as is known."""
        return self._tip

    async def look(self, round_: int) -> None:
        """See what is anchored by now, and prove what lies between `round_` and the newest anchor.

        Raises:
            AuditError: something is anchored, and no aggregator has a bucket that can be opened.
            ChainError: the chain cannot be read.
        """
        self.peers = (await self._chain.snapshot()).by_hotkey()
        self._stores |= await self._directory.stores_of((*self._tip.leaders, *self._tip.listed))
        await self.proven_by.look(self._tip, self._stores)
        if self.proven_by.seen and not self._stores:
            raise AuditError("no aggregator of the run has committed a bucket that can be opened")
        await self.proven_by.trace(round_, self.record)

    async def decide(self, tip: Tip) -> None:
        """See whether the open round is decided by less than half of the list, or rescued.

        Raises:
            ChainError: the chain cannot be read.
        """
        await self.proven_by.decide(tip)
        self._stores |= await self._reader.stores(tip)

    def record_key(self, round_: int) -> str:
        """The name of a round's record, as far as it is known before it is read."""
        known = self.digest_of(round_)
        return paths.record(self.run_id, round_, known) if known else paths.records(self.run_id, round_)

    def digest_of(self, round_: int) -> bytes | None:
        """The digest of a round's record: of the one that was read, else as the next record or an anchor names it."""
        return self._digests.get(round_) or next(iter(self.proven_by.of(round_)), None)

    def proven(self, round_: int) -> bool:
        """Whether an anchor names the record of a round, or leads back to it."""
        return bool(self.proven_by.of(round_))

    def anchored(self, round_: int) -> list[tuple[str, bytes]]:
        """What the list anchored for a round, with each one's hotkey, in chain order."""
        return [(seen.hotkey, seen.anchor.digest) for seen in self.proven_by.seen if seen.anchor.round == round_]

    @property
    def stores(self) -> tuple[Store, ...]:
        """The aggregators' buckets; there is one as soon as something is anchored."""
        return tuple(self._stores.values())

    @property
    def places(self) -> Mirrors:
        """The same, to read from whichever has an object."""
        return self._reader.mirrors(self.stores)

    @property
    def conduct(self) -> Conduct:
        """How they have behaved."""
        return self._reader.conduct

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
        proven = self.proven_by.of(round_)
        if not proven:
            here, in_the_way = await siblings(self.stores, self._start, round_, self.conduct)
            if not here:
                raise next(iter(in_the_way.values()), ObjectMissing("it is not there"))
            return here[0]
        problems: list[StorageError] = []
        for digest in proven:
            try:
                return (await self._reader.record(self.places, self._start, round_, digest))[0], digest
            except StorageError as problem:
                problems.append(problem)
        raise problems[0]

    def ahead(self) -> ReadAhead:
        """The context of what is read ahead: only within it can `go_on` be called."""
        return self._reader.ahead

    def go_on(self, round_: int, tip: Tip) -> None:
        """Have the rounds after this one read ahead, as far as anchors name their records."""
        after = range(round_ + 1, min(round_ + ROUNDS_AHEAD, self.last) + 1)
        later = [Anchor(number, digest) for number in after if (digest := self.digest_of(number)) is not None]
        self._reader.ahead.want(self.places, tip, later, self.proven_by.of(round_), _open_ahead)

    async def updates(self, digest: bytes) -> Sequence[SparseUpdate] | None:
        """The updates of the record with this digest, where they were decoded ahead; nothing is kept of it here."""
        found = await self._reader.ahead.updates(digest)
        self._reader.ahead.forget(digest)
        return found

    async def seal(self, record: Record, digest: bytes) -> tuple[Seal, bytes]:
        """The seal that a record, which has this digest, names, and the seal's digest; raises as `record` does."""
        return (await self._reader.seal_of(self.places, record, digest))[0], record.seal

    def bundle_size(self, record: Record, tip: Tip | None) -> int:
        """How large a record's bundle is by its heads, within what the rules allow (those of the start, without a tip).

        Raises:
            LedgerError: it is more than a round may have, or not what the record says.
        """
        return objects.bundle_size(record, tip or self._start)

    async def bundle(self, record: Record, digest: bytes, size: int) -> bytes:
        """The bundle a record, which has this digest, names, of `size` bytes; raises as `record` does."""
        return await self._reader.bundle_of(self.places, record, digest, size)

    async def check_heads(self, record: Record, sealed_by: bytes) -> None:
        """What lies beside the seal, in its signer's bucket, is that very seal, and the heads of the record.

        Raises:
            StorageError: it is not to be had.
            LedgerError: it holds something else.
            WireError: it holds nothing of the kind.
        """
        store = await self._directory.store_of(hotkey_of(sealed_by))
        if store is None:
            raise ObjectMissing("who signed the seal has committed no bucket that can be opened")
        name = paths.heads(self.run_id, record.round, kept_under(record.parent, record.turn))
        data = await store.get(name, max_bytes=wire.MAX_BODY_BYTES)
        seal, heads = wire.decode_sealed(data)
        if wire.decode_seal(seal, self.run_id)[1] != record.seal:
            raise LedgerError("it does not hold the seal of the record")
        if heads != {entry.public: entry.head for entry in record.sealed}:
            raise LedgerError("it does not hold the heads of the record")

    async def check_same(self, key: str, size: int, same: Callable[[bytes], bool]) -> None:
        """There is an object of so many bytes that `same` finds to be what it must be.

        Raises:
            StorageError: it is not to be had.
            ObjectDamaged: what is there is something else.
        """

        async def read(store: Store) -> None:
            if not same(await store.get(key, max_bytes=size, deadline=objects.BULK_DEADLINE)):
                raise ObjectDamaged("its bytes are not those of θ and the tip at this round")

        await self.places.read(read, BULK_HEDGE_SECONDS)

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

    async def checkpoint(self, tip: Tip, record: Record) -> tuple[Tip, Replica]:
        """The tip, with what it lacks where θ was not known, and θ before a record that pins a checkpoint; raises as
        `record` does."""
        manifest = await catch_up.read_pinned(self.places, tip, record)
        replica = await catch_up.load_checkpoint(self.places, tip, record, manifest)
        return ledger.with_held(tip, manifest), replica

    async def beyond(self, round_: int) -> list[str]:
        """The names of the records, `MAX_BEYOND` at most, in the aggregators' buckets from `round_` on, one a round.

        Raises:
            StorageError: none of them can be looked at.
        """
        found: list[str] = []
        stores = self.stores
        while len(found) < MAX_BEYOND:
            listed, problems = await listing(stores, paths.records(self.run_id, round_ + len(found)))
            stores = tuple(store for store in stores if store not in problems)
            if problems and not stores:
                raise next(iter(problems.values()))
            if not listed:
                break
            found.append(next(iter(listed)))
        return found


async def _open_ahead(tip: Tip, record: Record, bundle: bytes) -> Sequence[SparseUpdate]:
    """Decode in a thread."""
    return await in_thread(lambda: open_updates(tip, record, bundle))


async def genesis(history: SpecHistory, chain: Chain) -> Tip:
    """The tip every run begins with."""
    return await reader.genesis_tip(history, chain)
