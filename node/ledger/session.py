"""The one shell of the round machine: it looks at store and chain, and carries out what the machine says.

Miner, validator and aggregator, as daemons or in the simulator, differ only in the `Participant` they pass in. Time
is the chain's: the session waits for the next block, and looks before it only where the chain can tell it that somebody
has written something. Looking never acts, and what a look cannot
see (a store or a chain that fails, bytes damaged on the way) it sees at the next block.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Any

from muster.node.directory import Directory
from muster.node.ledger.participant import Errands, Participant
from muster.node.ledger.reader import Fetched, Pointer, Reader
from muster.node.ledger.seals import FoundSeal
from muster.node.ledger.tentative import Tentative
from muster.node.telemetry import events
from muster.protocol.chain.base import Chain
from muster.protocol.errors import ChainError, LedgerError, MusterError, StorageError
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import RESCUE, Applied
from muster.protocol.ledger.machine import RoundMachine, Transition
from muster.protocol.ledger.round import (
    Done,
    Duty,
    Event,
    Failed,
    Instruction,
    KeySettled,
    Looked,
    Opened,
    Overtaken,
    Phase,
    RecordFinal,
    RecordSeen,
    RoundState,
    SealSeen,
    SubmissionSeen,
    Tick,
    TurnCame,
    Unsure,
    comes,
)
from muster.protocol.types import Block

log = logging.getLogger(__name__)

CHAIN_RETRY = 2.0
"""Seconds before a chain that failed to say what block it is at is asked again; there is no other clock then."""


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """A valid record that the chain proves, for good if it is `final`; `fetched` is None where it is one's own."""

    applied: Applied
    fetched: Fetched | None
    final: bool


PUBLISHING = frozenset((Instruction.PUBLISH_SEAL, Instruction.PUBLISH_KEY, Instruction.PUBLISH_RECORD))
"""Instructions after which others have something to look at."""

UNDER_WAY = frozenset((Phase.SUBMIT, Phase.REVEAL, Phase.APPLY, Phase.UNDO))
"""Phases in which a round is the session's business; after them comes the next round, or an earlier one again."""


class Session:
    """Drives one participant from its tip to the end of the run."""

    def __init__(self, participant: Participant, chain: Chain, directory: Directory) -> None:
        self._participant = participant
        self._chain = chain
        self._reader = Reader(chain, directory, participant.saw, self._blamed)
        self._complaint = ""
        self.tentative = Tentative(self._reader, self.complain)

    async def run(self) -> None:
        """Take part in every round until the closing record has been applied and is final, or until cancelled."""
        async with asyncio.TaskGroup() as tasks, self._reader.ahead:
            tasks.create_task(self._participant.beside())
            await self._rounds()

    async def _rounds(self) -> None:
        me = self._participant
        while not me.tip.closed or self.tentative:
            if me.tip.closed:
                await self._await_final()
            else:
                async with asyncio.TaskGroup() as tasks:
                    errands = Errands(tasks, self._chain)
                    await self._play(_Round(self, me, errands))
                    errands.cancel()
            await self.tentative.go_back()

    async def _play(self, round_: _Round) -> None:
        """A round until it is over, which may be because a record before it has been overtaken."""
        await round_.play()
        if round_.phase is Phase.UNDONE:
            return
        assert self._participant.tip is not round_.tip, "a round that is over has moved the tip"
        if round_.phase is not Phase.CLOSED:
            self.tentative.add(round_)

    async def _await_final(self) -> None:
        """The run is over, and its last records may still be taken back."""
        head = await self.block_after(None)
        while not await self.tentative.look(head) and self.tentative:
            head = await self.block_after(head)

    async def newest_block(self) -> Block:
        """The newest block.

        Raises:
            ChainError: the chain does not say.
        """
        return await self._chain.head()

    async def block_after(self, head: Block | None) -> Block:
        """The newest block, once it is beyond `head`; a chain that fails is asked until it answers."""
        return await self._told(lambda: self._chain.head() if head is None else self._chain.next_block(head.number))

    async def news_after(self, head: Block) -> Block:
        """The newest block, once it is beyond `head` or there is something to look at."""
        return await self._told(lambda: self._chain.news(head.number))

    async def _told(self, ask: Callable[[], Coroutine[Any, Any, Block]]) -> Block:
        while True:
            try:
                return await ask()
            except ChainError as error:
                self.complain(f"the chain does not say what block it is at: {error}")
                await asyncio.sleep(CHAIN_RETRY)

    async def announce(self) -> None:
        """Say to who waits for news that something was written."""
        await self._chain.announce()

    async def find_record(self) -> FoundRecord | None:
        """The first record of the open round that is anchored, at hand and valid, in the order of fork choice."""
        me = self._participant
        try:
            pointers = await self._reader.go_on(me.tip, me.open_ahead)
        except (StorageError, ChainError, LedgerError) as error:
            self.complain(f"the record of round {me.tip.round} cannot be looked for: {error}")
            return None
        for pointer in pointers:
            own = me.known(pointer.digest)
            if own is not None:
                return FoundRecord(own, None, pointer.claim.final)
            found = await self._judged(pointer)
            if found is not None:
                return found
        return None

    async def _judged(self, pointer: Pointer) -> FoundRecord | None:
        """Fetch and judge one record; None where its bytes are not to be had yet, or it is not valid."""
        me, tip = self._participant, self._participant.tip
        try:
            fetched = self.tentative.take(pointer.digest) or await self._reader.fetch(pointer, tip)
            return FoundRecord(await me.judge(fetched), fetched, pointer.claim.final)
        except (StorageError, ChainError) as error:
            self.complain(f"the record of round {tip.round} is not to be had yet: {error}")
        except LedgerError as error:
            self._reader.refuse(tip, pointer.digest)
            log.error("the record of round %d is not valid and is not applied: %s", tip.round, error)
            me.note(events.Refused(tip.round, record=pointer.digest.hex(), problem=str(error)))
        return None

    async def find_seal(self) -> FoundSeal | None:
        """The open round's seal, where one can be seen that counts for this participant."""
        me = self._participant
        try:
            found = await self._reader.seals(me.tip)
            return await me.choose_seal(found, await self.newest_block()) if found else None
        except (StorageError, ChainError) as error:
            self.complain(f"the seal of round {self._participant.tip.round} cannot be looked for: {error}")
            return None

    def _blamed(self, owner: str, problem: str) -> None:
        self._participant.note(events.BadMirror(owner=owner, problem=problem))

    def is_lost(self) -> bool:
        """Whether the open round has been decided by others, by a record that is nowhere: who then closed it again
        would part from whoever has that record. It is looked for on, and where it is gone for good a rescue goes on.
        """
        lost = self._reader.lost
        if not lost or self._participant.public in lost:
            return False
        whose = ", ".join(sorted(map(hotkey_of, lost)))
        self.complain(f"round {self._participant.tip.round} is decided by {whose}, and its record is not to be had yet")
        return True

    def complain(self, problem: str) -> None:
        """Say what does not work, once for as long as it is the same."""
        if problem != self._complaint:
            self._complaint = problem
            log.warning("%s", problem)
            self._participant.note(events.Trouble(self._participant.tip.round, problem=problem))


class _Round:
    """One round of a session, from its opening (or from wherever it is by now) to its record, and till that is final.

    `tip` is where the ledger stood before it.
    """

    def __init__(self, session: Session, participant: Participant, errands: Errands) -> None:
        self.tip = tip = participant.tip
        clock, score_wait = tip.spec.clock, tip.spec.gauntlet.score_wait
        duty = participant.duty()
        state = RoundState(
            duty,
            participant.public,
            tip.opening,
            clock,
            score_wait,
            closing=participant.closing,
            unsure=len(session.tentative),
        )
        self._session = session
        self._me = participant
        self._errands = errands
        self._machine = RoundMachine(state, self._tell)
        self._ended: deque[Event] = deque()
        self._seal: FoundSeal | None = None
        self._record: FoundRecord | None = None
        participant.begin(errands)

    @property
    def phase(self) -> Phase:
        """How far it is."""
        return self._machine.state.phase

    @property
    def record(self) -> bytes:
        """The digest of the record that has been applied."""
        assert self._record is not None
        return self._record.applied.digest

    async def play(self) -> None:
        """Until the round is over: its record has been applied, or one before it is to be taken back."""
        head = await self._session.block_after(None)
        await self.feed([Tick(head.number), *await self._look(head, first=True), Opened()])
        while self.phase in UNDER_WAY:
            news = [*self._drain(), *(await self._look(head) or await self._observe(head))]
            acted = await self.feed(news)
            if self.phase in UNDER_WAY:
                # Acting takes time, and what is decided next is decided by the time of now.
                idle = not acted and all(isinstance(event, Looked) for event in news)
                head = await (self._session.news_after(head) if idle else self._session.block_after(None))
                await self.feed([Tick(head.number)])
        if self._record is not None:
            self._record = replace(self._record, fetched=None)  # a bundle is large
            if self._record.final:
                await self.feed([RecordFinal()])

    async def take_back(self) -> None:
        """Take the record back; returns once that is done."""
        await self.feed([Overtaken()])
        head = None
        while self.phase is not Phase.UNDONE:
            head = await self._session.block_after(head)
            await self.feed([Tick(head.number)])

    def _drain(self) -> Iterable[Event]:
        while self._ended:
            yield self._ended.popleft()

    async def feed(self, events: Iterable[Event]) -> bool:
        """Feed events and whatever follows from them; says whether anything was carried out."""
        waiting, acted = deque(events), False
        while waiting:
            for instruction in self._machine.feed(waiting.popleft()):
                acted = True
                waiting.extend(await self._carry_out(instruction))
        return acted

    async def _carry_out(self, instruction: Instruction) -> list[Event]:
        """Do what the machine says; what came of it, by name."""
        if instruction is Instruction.TRAIN:
            self._errands.start(self._train())
            return []
        try:
            events = await self._do(instruction)
        except (StorageError, ChainError) as error:
            return [self._failed(instruction, error)]
        if instruction in PUBLISHING:
            await self._session.announce()
        return [Done(instruction), *events]

    async def _do(self, instruction: Instruction) -> list[Event]:
        me = self._me
        match instruction:
            case Instruction.PUBLISH_SEAL:
                return [self._sealed(await me.publish_seal(await self._session.newest_block()))]
            case Instruction.PUBLISH_KEY:
                assert self._seal is not None
                await me.publish_key(self._seal)
            case Instruction.PUBLISH_RECORD:
                await me.publish_record(await self._session.newest_block())
            case Instruction.APPLY:
                assert self._record is not None
                await me.apply(self._record.applied, self._record.fetched)
            case Instruction.UNDO:
                await me.undo(self.tip.round)
            case Instruction.FINAL:
                await me.finalise(self.tip.round)
        return []

    async def _train(self) -> None:
        """Train beside the session, and report how it went when the session looks next."""
        try:
            await self._me.train()
        except (StorageError, ChainError) as error:
            self._ended.append(self._failed(Instruction.TRAIN, error))
            return
        self._ended.append(Done(Instruction.TRAIN))
        await self._session.announce()

    def _failed(self, instruction: Instruction, error: MusterError) -> Failed:
        log.warning("round %d: %s failed and will be given again: %s", self.tip.round, instruction.value, error)
        return Failed(instruction, str(error))

    async def _look(self, head: Block, first: bool = False) -> list[Event]:
        """What every participant looks for: the round's record, and before it its seal where that matters.

        Nobody but a miner acts on a seal, and it only once its submission is made; a leader makes it, and looks once,
        in case an earlier life of this process has.
        """
        state = self._machine.state
        if state.phase is Phase.UNDO:
            return []
        if self._session.tentative and await self._session.tentative.look(head):
            return [Overtaken()]
        if state.phase is Phase.APPLY:
            return []
        self._record = await self._session.find_record()
        if self._record is not None:
            return [RecordSeen(self._record.applied.digest)]
        concerned = self._me.awaits_seal or (first and state.duty in (Duty.MINE, Duty.LEAD))
        if state.phase is Phase.SUBMIT and concerned:
            seal = await self._session.find_seal()
            return [] if seal is None else [self._sealed(seal)]
        return []

    def _sealed(self, found: FoundSeal) -> SealSeen:
        self._seal = found
        return SealSeen(frozenset(peer for peer, _ in found.seal.headers), found.seal.block.number)

    async def _observe(self, head: Block) -> list[Event]:
        """What a leader sees of the peers; a look that fails is none, and is made again at the next block."""
        state, unsure = self._machine.state, len(self._session.tentative)
        if state.phase not in (Phase.SUBMIT, Phase.REVEAL):
            return []
        news: list[Event] = [] if unsure == state.unsure else [Unsure(unsure)]
        try:
            turn = await self._me.turn(head) if state.phase is Phase.SUBMIT else None
            if turn is not None and comes(state, turn):
                return [*news, TurnCame(turn)]
            if state.duty is Duty.LEAD and state.turn != RESCUE and self._session.is_lost():
                return news
            return [*news, *await self._me.observe(state, head), Looked()]
        except (StorageError, ChainError) as error:
            self._session.complain(f"round {self.tip.round} cannot be looked at: {error}")
            return []

    def _tell(self, transition: Transition) -> None:
        event = transition.event
        told = events.Transition(
            self.tip.round,
            block=transition.block,
            what=type(event).__name__,
            phase=transition.phase,
            given=transition.given,
        )
        match event:
            case Done(instruction):
                told = replace(told, instruction=instruction)
            case Failed(instruction, problem):
                told = replace(told, instruction=instruction, problem=problem)
            case SubmissionSeen(peer) | KeySettled(peer):
                told = replace(told, peers=(hotkey_of(peer),))
            case SealSeen(peers, block):
                told = replace(told, peers=tuple(hotkey_of(peer) for peer in sorted(peers)), sealed_block=block)
            case RecordSeen(digest):
                told = replace(told, record=digest.hex())
        self._me.note(told)
