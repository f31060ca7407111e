"""What miner, validator and aggregator have in common: a replica that follows the ledger, and a place to live on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from muster.node import follow
from muster.node.journal import Journal
from muster.node.replica import Replica
from muster.protocol.chain.base import AnchorSeen, Chain
from muster.protocol.errors import LedgerError, StorageError, WireError
from muster.protocol.faults import Faults
from muster.protocol.history import SpecHistory
from muster.protocol.identity import Identity, hotkey_of
from muster.protocol.ledger import Applied, Tip
from muster.protocol.session import Participant
from muster.protocol.storage import Buckets, Meter, Store

log = logging.getLogger(__name__)
T = TypeVar("T")


class Offload(Protocol):
    """How heavy synchronous work is run: in a thread by daemons, in place by the simulator."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]:
        """Run `work` and return its result."""


async def in_thread(work: Callable[[], T]) -> T:
    """Run work beside the event loop."""
    return await asyncio.to_thread(work)


async def in_place(work: Callable[[], T]) -> T:
    """Run work on the event loop: nothing else moves meanwhile, so a simulation is one fixed order of events."""
    return work()


@dataclass(slots=True)
class Surroundings:
    """What a participant lives on. `location` is where its own bucket is, as committed on chain."""

    identity: Identity
    chain: Chain
    buckets: Buckets
    location: str
    journal: Journal
    offload: Offload = in_thread
    faults: Faults = field(default_factory=Faults)
    meter: Meter = field(default_factory=Meter)

    @property
    def bucket(self) -> Store:
        """The participant's own bucket."""
        return self.buckets.bucket(self.location)


async def join(history: SpecHistory, surroundings: Surroundings) -> tuple[Tip, Replica]:
    """Register, commit the location, and catch up to the newest checkpoint (or genesis).

    Raises:
        ChainError, StorageError, LedgerError: joining is not possible.
    """
    chain, identity = surroundings.chain, surroundings.identity
    await chain.register(identity)
    await commit_location(surroundings)
    start = await follow.genesis(history, chain)
    replica: Replica | None = None
    tip = start
    leader = (await chain.snapshot()).by_hotkey().get(hotkey_of(start.leader(0)))
    if leader is not None and leader.location is not None:
        tip, replica = await follow.catch_up(surroundings.buckets.bucket(leader.location), start)
    if replica is None:
        spec = history.genesis
        replica = await surroundings.offload(lambda: Replica.genesis(spec, history.run_id))
    surroundings.journal.event("joined", round=tip.round, hotkey=identity.hotkey)
    return tip, replica


async def commit_location(surroundings: Surroundings) -> None:
    """Publish where the bucket is, unless the chain has it already (a commitment would replace the newest anchor)."""
    peer = (await surroundings.chain.snapshot()).by_hotkey()[surroundings.identity.hotkey]
    if peer.location != surroundings.location:
        await surroundings.chain.commit(surroundings.identity, surroundings.location)


class Follower(Participant):
    """A participant whose replica follows the ledger; roles add what they do beyond that."""

    def __init__(self, surroundings: Surroundings, tip: Tip, replica: Replica) -> None:
        self.surroundings = surroundings
        self.public = surroundings.identity.public
        self.replica = replica
        self._tip = tip
        self._refused: set[bytes] = set()

    @property
    def tip(self) -> Tip:
        """Where the replica stands."""
        return self._tip

    async def apply(self, anchor: AnchorSeen, store: Store) -> bool:
        """Verify the anchored record and take its outer step."""
        tip = self._tip
        if anchor.anchor.digest in self._refused:
            return False
        try:
            self.surroundings.faults.trip("apply.before")
            fetched = await follow.fetch(store, tip)
            if fetched.digest != anchor.anchor.digest:
                raise LedgerError("the record is not the anchored one")
            await follow.check_beacons(self.surroundings.chain, tip, fetched)
            applied = await self.surroundings.offload(lambda: follow.judge(fetched, tip, self.replica))
        except StorageError as error:
            log.warning("the record of round %d is not to be had yet: %s", tip.round, error)
            return False
        except (LedgerError, WireError) as error:
            self._refused.add(anchor.anchor.digest)
            log.error("the record of round %d is not valid and is not applied: %s", tip.round, error)
            self.note("refused", round=tip.round, problem=str(error))
            return False
        await self.before_apply(applied)
        await self.surroundings.offload(lambda: self.replica.apply(applied, tip.spec))
        self._tip = applied.tip
        root = await self.surroundings.offload(self.replica.root)
        self.note(
            "applied",
            round=tip.round,
            kind=applied.record.kind.name.lower(),
            root=root.hex(),
            outer_step=self.replica.outer_step,
            accepted=[hotkey_of(entry.public) for entry in applied.record.accepted],
            rejected={hotkey_of(e.public): e.reason for e in applied.record.entries if e.reason},
            bytes_up=self.surroundings.meter.up,
            bytes_down=self.surroundings.meter.down,
        )
        await self.after_apply(applied)
        return True

    async def before_apply(self, applied: Applied) -> None:
        """Called with a verified record while the replica still holds the θ it was made from."""

    async def after_apply(self, applied: Applied) -> None:
        """Called once the replica has taken the step."""

    def note(self, event: str, /, **facts: Any) -> None:
        """Write to the journal."""
        self.surroundings.journal.event(event, **facts)
