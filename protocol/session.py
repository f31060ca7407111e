"""The one asyncio driver of the round machine: it looks at the store and the chain, and does what the machine says.

Miner, validator and aggregator, as daemons or in the simulator, differ only in the `Participant` they pass in. Time
is the chain's: the session waits for the next block and for nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from dataclasses import replace

from muster.protocol import paths, wire
from muster.protocol.chain.base import Anchor, AnchorSeen, Block, Chain
from muster.protocol.errors import (
    ChainUnreachable,
    LedgerError,
    ObjectMissing,
    RateLimited,
    StaleChain,
    StorageError,
    WireError,
)
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import Tip
from muster.protocol.lineage import Lineage
from muster.protocol.round import (
    Event,
    Instruction,
    Opened,
    Phase,
    RecordSeen,
    Role,
    RoundState,
    SealSeen,
    Tick,
    Undone,
    step,
)
from muster.protocol.storage import Buckets, Store
from muster.protocol.wire import Seal

log = logging.getLogger(__name__)

MAX_SEAL_BYTES = 8 * 2**20
"""Cap of a seal: 64 bytes for each of 65,536 peers, and their frame."""


class Participant(ABC):
    """What a daemon adds to the round machine: its role, and how it carries out each instruction."""

    public: bytes

    @property
    @abstractmethod
    def tip(self) -> Tip:
        """Where this participant's replica stands in the ledger."""

    @abstractmethod
    def role(self) -> Role:
        """What it does in the open round."""

    @abstractmethod
    async def apply(self, anchor: AnchorSeen, store: Store) -> bool:
        """Fetch, verify and apply the anchored record, so that `tip` moves on.

        Returns False where its bytes are not to be had yet, or not valid.
        """

    async def train(self) -> None:
        """Do the open round's work and submit it. Runs beside the session; is cancelled when the record is there."""

    async def publish_key(self, seal: Seal) -> None:
        """Show the payload's key: the seal is public."""

    async def observe(self, state: RoundState, head: Block) -> list[Event]:  # noqa: ARG002
        """What a leader sees in the peers' buckets since it last looked."""
        return []

    async def publish_seal(self, head: Block) -> None:
        """Close the round to submissions."""

    async def publish_record(self, head: Block) -> None:
        """Decide the round."""


class Session:
    """Drives one participant from its tip to the end of the run."""

    def __init__(self, participant: Participant, chain: Chain, buckets: Buckets) -> None:
        self._participant = participant
        self._chain = chain
        self._buckets = buckets
        self._seal: Seal | None = None
        self._lineage = Lineage()

    async def run(self) -> None:
        """Take part in every round until the closing record has been applied, or until cancelled."""
        head = await self._chain.head()
        while not self._participant.tip.closed:
            head = await self._round(head)

    async def _round(self, head: Block) -> Block:
        """One round, from its opening (or from wherever it is by now) to its record."""
        me, tip = self._participant, self._participant.tip
        state = RoundState(me.role(), me.public, tip.opening, tip.spec.clock, tip.spec.gauntlet.score_wait)
        self._seal = None
        events: list[Event] = [Tick(head.number), *await self._look(state), Opened()]
        async with asyncio.TaskGroup() as tasks:
            work: list[asyncio.Task[None]] = []
            while state.phase is not Phase.CLOSED:
                undone: list[Event] = []
                for event in events:
                    state, instructions = step(state, event)
                    for instruction in instructions:
                        if instruction is Instruction.TRAIN:
                            work.append(tasks.create_task(me.train()))
                        elif not await self._execute(instruction, head):
                            undone.append(Undone())
                if state.phase is Phase.CLOSED:
                    break
                events = await self._look(state) or await me.observe(state, head)
                if not events:
                    head = await self._chain.next_block(head.number)
                    events = [*undone, Tick(head.number)]
            for task in work:
                task.cancel()
        return head

    async def _execute(self, instruction: Instruction, head: Block) -> bool:
        """Do what the machine says; False where store or chain did not take it and it must be tried again."""
        me = self._participant
        try:
            match instruction:
                case Instruction.PUBLISH_SEAL:
                    await me.publish_seal(head)
                case Instruction.PUBLISH_RECORD:
                    await me.publish_record(head)
                case Instruction.PUBLISH_KEY:
                    assert self._seal is not None
                    await me.publish_key(self._seal)
        except (StorageError, RateLimited, ChainUnreachable, StaleChain) as error:
            log.warning("%s failed and will be tried again: %s", instruction.name.lower(), error)
            return False
        return True

    async def _look(self, state: RoundState) -> list[Event]:
        """What every participant looks for: the round's record, and before it its seal."""
        if await self._applied():
            return [RecordSeen()]
        if state.phase is Phase.SUBMIT and self._seal is None:
            self._seal = await self._find_seal()
            if self._seal is not None:
                return [SealSeen(frozenset(peer for peer, _ in self._seal.headers), self._seal.block.number)]
        return []

    async def _applied(self) -> bool:
        """Apply the first anchored record of the open round that is valid, in chain order.

        Where the chain shows only a later anchor of the leader, that one proves the open round's record.
        """
        me, tip = self._participant, self._participant.tip
        leader = hotkey_of(tip.leader(0))
        shown = [seen for seen in await self._chain.anchors(tip.round) if seen.hotkey == leader]
        store = await self._store_of(leader) if shown else None
        if store is None:
            return False
        for seen in [seen for seen in shown if seen.anchor.round == tip.round] or shown[-1:]:
            anchor = await self._trace(seen.anchor, tip, store)
            if anchor.round == tip.round and await me.apply(replace(seen, anchor=anchor), store):
                return True
        return False

    async def _trace(self, newest: Anchor, tip: Tip, store: Store) -> Anchor:
        """Read records back from an anchor to the open round's; gives up for now at one that cannot be used."""
        at = self._lineage.trace(newest, tip.round)
        while at.round > tip.round:
            try:
                data = await store.get(paths.record(tip.run_id, at.round), max_bytes=wire.MAX_BODY_BYTES)
                self._lineage.take(at, *wire.decode_record(data, tip.run_id, len(tip.layout.shapes)))
            except (StorageError, WireError, LedgerError) as error:
                log.warning("the anchor of round %d cannot be followed back yet: %s", newest.round, error)
                break
            at = self._lineage.trace(at, tip.round)
        return at

    async def _find_seal(self) -> Seal | None:
        tip = self._participant.tip
        store = await self._store_of(hotkey_of(tip.leader(0)))
        if store is None:
            return None
        try:
            data = await store.get(paths.seal(tip.run_id, tip.round), max_bytes=MAX_SEAL_BYTES)
            seal, _ = wire.decode_seal(data, tip.run_id)
        except ObjectMissing:
            return None
        except (StorageError, WireError) as error:
            log.warning("the seal of round %d cannot be used: %s", tip.round, error)
            return None
        if seal.leader != tip.leader(seal.turn) or seal.round != tip.round or seal.parent != tip.parent:
            log.warning("the seal of round %d is not of this ledger", tip.round)
            return None
        return seal

    async def _store_of(self, hotkey: str) -> Store | None:
        peer = (await self._chain.snapshot()).by_hotkey().get(hotkey)
        return None if peer is None or peer.location is None else self._buckets.bucket(peer.location)
