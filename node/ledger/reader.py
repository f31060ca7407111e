"""The one reader of the ledger: find the anchored record, fetch what it names, check it against chain and rules.

Live rounds, catch-up after a restart, joining a year late and the audit are this one path. Bytes are taken for what a
digest says they are or not at all: those that are not are a fault of the transport (`ObjectDamaged`), to be read
again; missing ones are unknown, never invalid. Only a record whose very bytes have been judged can be refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from muster.kernels import SparseUpdate
from muster.node.amendments import Rescue
from muster.node.directory import Directory
from muster.node.ledger.ahead import ROUNDS_AHEAD, Open, ReadAhead
from muster.node.ledger.ballot import Ballot
from muster.node.ledger.mirrors import Conduct, Mirrors, Places, likeliest
from muster.node.ledger.objects import (
    about,
    bundle_size,
    check_round,
    read_bundle,
    read_record,
    read_seal,
)
from muster.node.ledger.rescuers import Rescuers
from muster.node.ledger.seals import FoundSeal, Seals
from muster.protocol import ledger, paths
from muster.protocol.chain.base import AnchorSeen, Chain
from muster.protocol.errors import LedgerError, StorageError
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import RESCUE, Tip
from muster.protocol.ledger.forkchoice import MEMORY, Claim, claims
from muster.protocol.ledger.lineage import Lineage
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage import Store
from muster.protocol.types import Anchor, Beacon
from muster.protocol.wire import Record, Seal

log = logging.getLogger(__name__)

STEPS_BACK = 64
"""Records read back from the newest anchor in one look; the next look goes on where this one stopped."""

ASSIGN, POSSESS, EVALUATE = "assign", "possess", "evaluate"
"""The purposes beacons are drawn for."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """A record that the chain proves, and the buckets it can be read from: of those first who stand on it."""

    claim: Claim
    places: Mirrors

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
class _Count:
    """One count of a round's votes: the records that the chain proves, the anchors of this round or later ones, the
    final block that decides it, who has decided it by a record that is not to be had, and what was in the way."""

    found: list[Pointer] = field(default_factory=list)
    shown: list[Anchor] = field(default_factory=list)
    decided: int | None = None
    lost: frozenset[bytes] = frozenset()
    problem: StorageError | LedgerError | None = None


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
    """Reads one run's ledger from its leaders' buckets, as the chain proves it; `saw` gets every seal and record that
    it reads, as it is, `told` each aggregator (by hotkey) whose bucket is asked last from now on, and why."""

    def __init__(
        self,
        chain: Chain,
        directory: Directory,
        saw: Callable[[bytes], None] = lambda _data: None,
        told: Callable[[str, str], None] = lambda _owner, _problem: None,
    ) -> None:
        self._chain = chain
        self._directory = directory
        self._saw = saw
        self._told = told
        self._owners: dict[Store, str] = {}
        self.conduct = Conduct(self._blamed)
        self.lineage = Lineage()
        self.rescuers = Rescuers(chain, directory)
        self.ahead = ReadAhead()
        self.lost: frozenset[bytes] = frozenset()
        """Who has decided the round that `go_on` was last asked for, by a record that is not to be had."""
        self.refused: set[Anchor] = set()
        """Records that were judged and are not valid, each in the round that it was anchored for: no votes."""
        self._records: dict[bytes, tuple[Record, bytes]] = {}
        self._seals = Seals(chain, directory, saw)

    async def anchored(self, tip: Tip) -> list[Pointer]:
        """The records of the open round that the chain proves, the one to stand on first; empty before the first.

        Where the chain shows only later anchors, the records between them and this round prove this one.

        Raises:
            ChainError, StorageError: what there is cannot be looked at now.
        """
        return (await self._proven(tip)).found

    async def go_on(self, tip: Tip, how: Open) -> list[Pointer]:
        """As `anchored`; and where the chain proves records of later rounds, too, the next of them are read ahead.

        What is not ahead of this tip any more is dropped. `how` decodes bundles (`ReadAhead.want`).
        """
        count = await self._proven(tip)
        found, self.lost = count.found, count.lost
        if found:
            later = self._later(tip.round, count.shown)
            self.ahead.want(found[0].places, tip, later, [pointer.digest for pointer in found], how)
        return found

    def _later(self, round_: int, shown: Sequence[Anchor]) -> list[Anchor]:
        """The records of the rounds after this one that the chain proves, as far as is read ahead, ascending.

        Of several of a round the one that is anchored first: that is the one to stand on.
        """
        newest = max(shown, key=lambda anchor: anchor.round)
        first, last = round_ + 1, min(round_ + ROUNDS_AHEAD, newest.round)
        of = {at.round: at for at in self.lineage.between(newest, first, last)}
        of |= {at.round: at for at in reversed(shown) if first <= at.round <= last}
        return [of[number] for number in sorted(of)]

    async def _proven(self, tip: Tip) -> _Count:
        """What `anchored` gives, and what else is known of the round by that."""
        count = await self._counted(tip, {})
        if count.decided is None or count.decided >= tip.turn_begins(RESCUE):
            rescuers = await self.rescuers.of(tip)
            count = await self._counted(tip, rescuers) if rescuers else count
        if not count.found and count.problem is not None:
            self.lost = count.lost
            raise count.problem
        return count

    async def _counted(self, tip: Tip, rescuers: Mapping[bytes, Rescue]) -> _Count:
        members = {hotkey_of(public): public for public in (*tip.leaders, *rescuers)}
        oldest = max(0, tip.round - MEMORY)
        first = oldest if len(members) > 1 else tip.round  # with a list of one nobody is out of touch
        seen = [one for one in await self._chain.anchors(first) if one.hotkey in members]
        shown = [one.anchor for one in seen if one.anchor.round >= tip.round]
        if not shown:
            return _Count()
        self.lineage.forget(oldest)
        self.refused = {at for at in self.refused if at.round >= oldest}
        stores = await self.stores(tip)
        if not stores:
            return _Count()
        final = await self._chain.final()
        ballot = Ballot(self, tip, self.mirrors(stores.values()), rescuers)
        cast = [(members[one.hotkey], one.block, one.anchor) for one in seen]
        votes = await ballot.votes(cast)
        roll = replace(tip.roll, rescues=ballot.rescues(cast))
        settle = tip.spec.clock.turn if len(members) > 1 and not self._chain.remembers else 0
        on: dict[bytes | None, list[Store]] = {}
        for one in votes:
            on.setdefault(one.stands, []).extend([stores[one.voter]] if one.voter in stores else ())
        ordered = claims(votes, roll, final, self.lineage.turns(tip.round), settle)
        found = [Pointer(claim, likeliest(stores.values(), on[claim.digest], self.conduct)) for claim in ordered]
        poll = roll.decided(votes, final, roll.patience(votes), settle)
        block, lost = None if poll is None else poll.block, frozenset[bytes]()
        if ballot.lost and len(roll.voters) > 1:
            shown_votes = ballot.with_lost(votes)
            poll = roll.decided(shown_votes, final, roll.patience(shown_votes), settle)
            if poll is not None and poll.winner in ballot.lost.values():
                lost = frozenset(voter for voter, stands in poll.stands.items() if stands == poll.winner)
        return _Count(found, shown, block, lost, ballot.problem)

    async def stores(self, tip: Tip) -> dict[bytes, Store]:
        """The buckets of a tip's list and its rescuers, by key, of those who have one that can be opened; ChainError
        where the chain does not say."""
        found = await self._directory.stores_of((*tip.leaders, *self.rescuers.known(tip)))
        self._owners = {store: hotkey_of(public) for public, store in found.items()}
        return found

    def mirrors(self, stores: Iterable[Store]) -> Mirrors:
        """Buckets to read from, by what is known of them here."""
        return Mirrors(tuple(stores), self.conduct)

    def _blamed(self, store: Store, problem: str) -> None:
        owner = self._owners.get(store, "")
        log.warning("the bucket of %s is asked last for a while: %s", owner or "an aggregator", problem)
        self._told(owner, problem)

    async def newest_anchors(self, tip: Tip) -> list[tuple[bytes, Anchor]]:
        """The newest final anchor of each member of a tip's list that is in touch, those of the lowest rounds first.

        Out of touch is who has been silent for `clock.touch` blocks, and for the rounds that these have room for,
        `MEMORY` at most: after a break of the whole run all are waited for.

        Raises:
            ChainError: the chain does not say.
        """
        members = {hotkey_of(public): public for public in tip.leaders}
        final = await self._chain.final()
        newest: dict[str, AnchorSeen] = {}
        for one in await self._chain.anchors(0):
            if one.hotkey in members and one.block <= final:
                newest[one.hotkey] = one
        clock = tip.spec.clock
        block = max((one.block for one in newest.values()), default=0) - clock.touch
        rounds = min(clock.touch // clock.shortest + 1, MEMORY)
        round_ = max((one.anchor.round for one in newest.values()), default=0) - rounds
        found = [one for one in newest.values() if one.block >= block or one.anchor.round >= round_]
        return [(members[one.hotkey], one.anchor) for one in sorted(found, key=lambda one: one.anchor.round)]

    async def traced(self, newest: Anchor, tip: Tip, places: Places, until: int | None = None) -> Anchor:
        """Read records back from an anchor towards that of a round (None: the open one), as far as one look goes.

        Raises:
            StorageError, LedgerError: one of them is not to be had, or is none.
        """
        last = tip.round if until is None else until
        at = self.lineage.trace(newest, last)
        for _ in range(STEPS_BACK):
            if at.round <= last:
                break
            await self.learn(at, tip, places)
            at = self.lineage.trace(at, last)
        return at

    async def learn(self, at: Anchor, tip: Tip, places: Places) -> None:
        """Read a record for what it says of its parent and turn; raises as `traced` does."""
        with about(paths.record(tip.run_id, at.round, at.digest)):
            record, _ = await self.record(places, tip, at.round, at.digest)
            self.lineage.take(at, record, at.digest)

    def refuse(self, tip: Tip, digest: bytes) -> None:
        """The open round's record with this digest was judged and is not valid: it is no vote any more.

        One that comes after another record than this tip's may be valid there, and is only none of this ledger.
        """
        at = Anchor(tip.round, digest)
        if self.lineage.parent(at) in (None, tip.parent):
            self.refused.add(at)

    async def record(self, places: Places, tip: Tip, round_: int, digest: bytes) -> tuple[Record, bytes]:
        """The record with this digest, and its bytes; what was read ahead is not read again.

        Raises:
            StorageError: it is missing, damaged (`ObjectDamaged`) or cannot be read.
            LedgerError: its bytes are the right ones, and no record of this round.
        """
        found = self._records.get(digest)
        if found is None:
            found = await self.ahead.record(digest) or await read_record(places, tip, round_, digest)
            self._saw(found[1])
        check_round(found[0], round_)
        if round_ == tip.round:
            self._records = {at: kept for at, kept in self._records.items() if kept[0].round == round_}
            self._records[digest] = found
        return found

    async def fetch(self, pointer: Pointer, tip: Tip) -> Fetched:
        """The open round's record, and the seal and the bundle that it names; the bundle, which is large, comes last.

        Raises:
            StorageError: something is missing, damaged or cannot be read.
            ChainError: a block it names is not there yet, or the chain does not say.
            LedgerError: the record is not a record, names what the chain does not have, or asks for more than a round
                may hold.
        """
        store, run_id, round_ = pointer.places, tip.run_id, tip.round
        with about(paths.record(run_id, round_, pointer.digest)):
            record, record_data = await self.record(store, tip, round_, pointer.digest)
            self.lineage.take(Anchor(round_, pointer.digest), record, pointer.digest)
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

    async def seal_of(self, places: Places, record: Record, digest: bytes) -> tuple[Seal, bytes]:
        """The seal that a record, which has this digest, names, and its bytes; what was read ahead is not read again.

        Raises:
            StorageError: it is missing, damaged or cannot be read.
            LedgerError: its bytes are the right ones, and no seal.
        """
        found = await self.ahead.seal(digest) or await read_seal(places, record)
        self._saw(found[1])
        return found

    async def bundle_of(self, places: Places, record: Record, digest: bytes, size: int) -> bytes:
        """The bundle, of `size` bytes, that a record with this digest names; what was read ahead is not read again.

        Raises:
            StorageError: it is missing, damaged or cannot be read.
        """
        return await self.ahead.bundle(digest) or await read_bundle(places, record, digest, size)

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
        """The open round's seals; see `Seals.of`."""
        return await self._seals.of(tip)
