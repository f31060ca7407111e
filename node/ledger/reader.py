"""The one reader of the ledger: find the anchored record, fetch what it names, check it against chain and rules.

Live rounds, catch-up after a restart, joining a year late and the audit are this one path. Bytes are taken for what a
digest says they are or not at all: those that are not are a fault of the transport (`ObjectDamaged`), to be read
again; missing ones are unknown, never invalid. Only a record whose very bytes have been judged can be refused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from muster.kernels import SparseUpdate
from muster.node.directory import Directory
from muster.node.ledger.ahead import ROUNDS_AHEAD, Open, ReadAhead
from muster.node.ledger.objects import (
    MAX_SEAL_BYTES,
    about,
    bundle_size,
    check_round,
    read_bundle,
    read_record,
    read_seal,
)
from muster.protocol import ledger, paths, wire
from muster.protocol.chain.base import Chain
from muster.protocol.errors import LedgerError, ObjectDamaged, ObjectMissing, StorageError, WireError
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import Tip
from muster.protocol.ledger.forkchoice import Claim, Vote, claims
from muster.protocol.ledger.lineage import Lineage
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage import Store
from muster.protocol.types import Anchor, Beacon
from muster.protocol.wire import Record, Seal

log = logging.getLogger(__name__)

MAX_SIBLINGS = 4
"""Seals, or records, of one round that are looked at in one bucket; an honest leader makes one."""

STEPS_BACK = 64
"""Records read back from the newest anchor in one look; the next look goes on where this one stopped."""

ASSIGN, POSSESS, EVALUATE = "assign", "possess", "evaluate"
"""The purposes beacons are drawn for."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """A record that the chain proves, and the bucket it is read from."""

    claim: Claim
    hotkey: str
    store: Store

    @property
    def digest(self) -> bytes:
        """The record's."""
        return self.claim.digest


@dataclass(frozen=True, slots=True)
class Fetched:
    """A record and everything it names, each the very bytes that a digest names; rules not yet checked.

    `record_data` and `seal_data` are the objects as they were read, for who keeps copies of them. `updates` are those
    in the bundle, in record order, where they were decoded ahead by the spec that the record names.
    """

    record: Record
    digest: bytes
    seal: Seal
    seal_digest: bytes
    bundle: bytes
    record_data: bytes = b""
    seal_data: bytes = b""
    updates: Sequence[SparseUpdate] | None = None


@dataclass(frozen=True, slots=True)
class FoundSeal:
    """A seal with its digest and its object as it was read."""

    seal: Seal
    digest: bytes
    data: bytes


async def draw(chain: Chain, purpose: str, round_: int, block: int) -> Beacon:
    """A beacon as records carry it: the block it comes from and its value.

    Raises:
        ChainError: the block lies in the future, or the chain does not say.
    """
    return Beacon(await chain.block(block), await chain.beacon(purpose, round_, block))


async def genesis_tip(history: SpecHistory, chain: Chain) -> Tip:
    """The tip every run begins with.

    Raises:
        ConfigError: the chain is not the run's: whatever it says would be of another ledger.
        ChainError: it does not say.
    """
    history.genesis.genesis.chain.check(await chain.origin())
    block = history.genesis.genesis.block
    return ledger.genesis_tip(history, await draw(chain, ASSIGN, 0, block), await draw(chain, POSSESS, 0, block))


class Reader:
    """Reads one run's ledger from its leaders' buckets, as the chain proves it."""

    def __init__(self, chain: Chain, directory: Directory) -> None:
        self._chain = chain
        self._directory = directory
        self._lineage = Lineage()
        self.ahead = ReadAhead()
        self._records: dict[bytes, tuple[Record, bytes]] = {}
        self._seals: dict[str, FoundSeal] = {}

    async def anchored(self, tip: Tip) -> list[Pointer]:
        """The records of the open round that the chain proves, the one to stand on first; empty before the first.

        Where the chain shows only a later anchor of the leader, the records between it and this round prove this one.

        Raises:
            ChainError, StorageError: what there is cannot be looked at now.
        """
        return (await self._proven(tip))[0]

    async def go_on(self, tip: Tip, how: Open) -> list[Pointer]:
        """As `anchored`; and where the chain proves records of later rounds, too, the next of them are read ahead.

        What is not ahead of this tip any more is dropped. `how` decodes bundles (`ReadAhead.want`).
        """
        found, shown = await self._proven(tip)
        if found:
            later = self._later(tip.round, shown)
            self.ahead.want(found[0].store, tip, later, [pointer.digest for pointer in found], how)
        return found

    def _later(self, round_: int, shown: Sequence[Anchor]) -> list[Anchor]:
        """The records of the rounds after this one that the chain proves, as far as is read ahead, ascending.

        Of several of a round the one that is anchored first: that is the one to stand on.
        """
        newest = max(shown, key=lambda anchor: anchor.round)
        first, last = round_ + 1, min(round_ + ROUNDS_AHEAD, newest.round)
        of = {at.round: at for at in self._lineage.between(newest, first, last)}
        of |= {at.round: at for at in reversed(shown) if first <= at.round <= last}
        return [of[number] for number in sorted(of)]

    async def _proven(self, tip: Tip) -> tuple[list[Pointer], list[Anchor]]:
        """What `anchored` gives, and the leader's anchors of this round or later ones, in chain order."""
        leader = hotkey_of(tip.leader_in_turn)
        shown = [seen for seen in await self._chain.anchors(tip.round) if seen.hotkey == leader]
        store = await self._directory.store_of(leader) if shown else None
        if store is None:
            return [], []
        votes: list[Vote] = []
        for seen in [seen for seen in shown if seen.anchor.round == tip.round] or shown[-1:]:
            at = await self._traced(seen.anchor, tip, store)
            if at.round == tip.round:
                votes.append(Vote(at.digest, seen.block))
        found = claims(votes, await self._chain.final())
        return [Pointer(claim, leader, store) for claim in found], [seen.anchor for seen in shown]

    async def newest_anchor(self, tip: Tip) -> Anchor | None:
        """The anchor of the tip's leader for the latest round that is final; None before the first.

        Raises:
            ChainError: the chain does not say.
        """
        leader = hotkey_of(tip.leader_in_turn)
        final = await self._chain.final()
        shown = [seen.anchor for seen in await self._chain.anchors(0) if seen.hotkey == leader and seen.block <= final]
        return max(shown, key=lambda anchor: anchor.round, default=None)

    async def _traced(self, newest: Anchor, tip: Tip, store: Store) -> Anchor:
        """Read records back from an anchor towards the open round's, as far as one look goes."""
        at = self._lineage.trace(newest, tip.round)
        for _ in range(STEPS_BACK):
            if at.round <= tip.round:
                break
            with about(paths.record(tip.run_id, at.round, at.digest)):
                record, _ = await self.record(store, tip, at.round, at.digest)
                self._lineage.take(at, record, at.digest)
            at = self._lineage.trace(at, tip.round)
        return at

    async def record(self, store: Store, tip: Tip, round_: int, digest: bytes) -> tuple[Record, bytes]:
        """The record with this digest, and its bytes; what was read ahead is not read again.

        Raises:
            StorageError: it is missing, damaged (`ObjectDamaged`) or cannot be read.
            LedgerError: its bytes are the right ones, and no record of this round.
        """
        found = self._records.get(digest) or await self.ahead.record(digest)
        found = found or await read_record(store, tip, round_, digest)
        check_round(found[0], round_)
        if round_ == tip.round:
            self._records = {digest: found}
        return found

    async def siblings(self, store: Store, tip: Tip, round_: int) -> list[tuple[Record, bytes]]:
        """A round's records as a bucket has them, each with its digest, whoever vouches for them.

        Raises:
            StorageError: one is damaged or cannot be read.
        """
        found = []
        for info in await store.list(paths.records(tip.run_id, round_), limit=MAX_SIBLINGS):
            data = await store.get(info.key, max_bytes=wire.MAX_BODY_BYTES)
            try:
                record, digest = wire.decode_record(data, tip.run_id, len(tip.layout.shapes))
            except WireError as error:
                raise ObjectDamaged(f"{info.key} is not readable: {error}") from error
            if info.key != paths.record(tip.run_id, record.round, digest):
                raise ObjectDamaged(f"{info.key} is another record than its name says")
            found.append((record, digest))
        return found

    async def following(self, store: Store, tip: Tip) -> tuple[Record, bytes]:
        """The open round's record as a bucket has it, with its digest; of several the one that the chain proves.

        Raises:
            ObjectMissing: none is there that continues the ledger.
            ChainError, StorageError: one is damaged, something cannot be read, or the chain proves none of several yet.
        """
        here = [one for one in await self.siblings(store, tip, tip.round) if one[0].parent == tip.parent]
        if len(here) > 1:
            proven = {pointer.digest for pointer in await self.anchored(tip)}
            here = [one for one in here if one[1] in proven]
            if not here:
                raise StorageError(f"round {tip.round} has several records, and the chain proves none of them yet")
        if not here:
            raise ObjectMissing(f"there is no record of round {tip.round} that continues this ledger")
        return here[0]

    async def fetch(self, pointer: Pointer, tip: Tip) -> Fetched:
        """The open round's record, and the seal and the bundle that it names; the bundle, which is large, comes last.

        Raises:
            StorageError: something is missing, damaged or cannot be read.
            ChainError: a block it names is not there yet, or the chain does not say.
            LedgerError: the record is not a record, names what the chain does not have, or asks for more than a round
                may hold.
        """
        store, run_id, round_ = pointer.store, tip.run_id, tip.round
        with about(paths.record(run_id, round_, pointer.digest)):
            record, record_data = await self.record(store, tip, round_, pointer.digest)
            ledger.check_link(tip, record, None)
            known = self.ahead.size(pointer.digest)  # by the spec that it names, which is this one
            size = bundle_size(record, tip) if known is None else known
        with about(paths.seal(run_id, round_, record.seal)):
            seal, seal_data = await self.seal_of(store, record, pointer.digest)
            ledger.check_seal(tip, record, seal, record.seal)
        await self.check_beacons(tip, record, seal)
        with about(paths.bundle(run_id, round_, pointer.digest)):
            bundle = await self.bundle_of(store, record, pointer.digest, size)
        updates = await self.ahead.updates(pointer.digest)
        self.ahead.forget(pointer.digest)
        return Fetched(record, pointer.digest, seal, record.seal, bundle, record_data, seal_data, updates)

    async def seal_of(self, store: Store, record: Record, digest: bytes) -> tuple[Seal, bytes]:
        """The seal that a record, which has this digest, names, and its bytes; what was read ahead is not read again.

        Raises:
            StorageError: it is missing, damaged or cannot be read.
            LedgerError: its bytes are the right ones, and no seal.
        """
        return await self.ahead.seal(digest) or await read_seal(store, record)

    async def bundle_of(self, store: Store, record: Record, digest: bytes, size: int) -> bytes:
        """The bundle, of `size` bytes, that a record with this digest names; what was read ahead is not read again.

        Raises:
            StorageError: it is missing, damaged or cannot be read.
        """
        return await self.ahead.bundle(digest) or await read_bundle(store, record, digest, size)

    async def check_beacons(self, tip: Tip, record: Record, seal: Seal) -> None:
        """Every block and beacon of a record is the chain's own.

        Raises:
            LedgerError: one is not.
            ChainError: one is of a block that is not there yet, or the chain does not say: nothing is known then.
        """
        if (await self._chain.block(seal.block.number)) != seal.block:
            raise LedgerError("the seal names a block the chain does not have")
        if record.opening is None:
            return
        round_ = tip.round + 1
        for purpose, beacon in ((ASSIGN, record.opening.assign), (POSSESS, record.opening.possess)):
            if await draw(self._chain, purpose, round_, beacon.block.number) != beacon:
                raise LedgerError(f"the {purpose} beacon of round {round_} is not the chain's")

    async def seals(self, tip: Tip) -> list[FoundSeal]:
        """The open round's seals in its leader's bucket: of this ledger, and of a block that the chain has.

        Raises:
            ChainError, StorageError: the bucket or the chain cannot be looked at now, or what was read is damaged.
        """
        store = await self._directory.store_of(hotkey_of(tip.leader_in_turn))
        if store is None:
            return []
        listed = await store.list(paths.seals(tip.run_id, tip.round), limit=MAX_SIBLINGS)
        keys = [info.key for info in listed if info.size <= MAX_SEAL_BYTES]
        self._seals = {key: self._seals.get(key) or await self._read_seal(store, tip, key) for key in keys}
        return [found for found in self._seals.values() if await self._usable(tip, found)]

    async def _read_seal(self, store: Store, tip: Tip, key: str) -> FoundSeal:
        data = await store.get(key, max_bytes=MAX_SEAL_BYTES)
        try:
            seal, digest = wire.decode_seal(data, tip.run_id)
        except WireError as error:
            raise ObjectDamaged(f"{key} is not readable: {error}") from error
        if key != paths.seal(tip.run_id, seal.round, digest):
            raise ObjectDamaged(f"{key} is another seal than its name says")
        return FoundSeal(seal, digest, data)

    async def _usable(self, tip: Tip, found: FoundSeal) -> bool:
        """Whether a seal is of this ledger's open round, and names a block of the chain."""
        if not ledger.continues(tip, found.seal):
            log.warning("a seal of round %d is not of this ledger", tip.round)
            return False
        return await self._chain.block(found.seal.block.number) == found.seal.block
