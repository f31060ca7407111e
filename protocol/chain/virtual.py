"""A chain in memory whose clock a test or the simulator turns, so that a run takes no longer than its work.

Nothing here reads a clock. `drive` adds a block only when every participant waits for one: whoever still computes, on
the loop or in a thread, holds time still, however slow the machine is. `drive_by_clock` adds one every so many seconds
of the event loop, whatever anybody does: for what must happen in time. Used from one event loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from muster.protocol.chain import rules
from muster.protocol.chain.base import AnchorSeen, Chain, Snapshot
from muster.protocol.chain.rules import Call, ChainGenesis, ChainState, Commit, Register, SetWeights
from muster.protocol.identity import Identity
from muster.protocol.types import Anchor, Block, Origin


@dataclass(frozen=True, slots=True, eq=False)
class _Participant:
    """Somebody the clock waits for; known by identity."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """A task parked in `next_block`, and the participant it belongs to (None: an onlooker)."""

    after: int
    participant: _Participant | None
    woken: asyncio.Future[None]


_current: ContextVar[_Participant | None] = ContextVar("participant", default=None)
"""Whose task this is: set by `participant`, inherited by the tasks that it starts."""


class VirtualChain(Chain):
    """The local chain's rules over memory and a clock that only `advance` and those who call it move."""

    def __init__(self, genesis: ChainGenesis, final_after: int = 0) -> None:
        """A chain at height 0, of which a block is final once `final_after` further ones are there."""
        self.genesis = genesis
        self._final_after = final_after
        self._state = ChainState()
        self._anchors: list[AnchorSeen] = []
        self._waiters: list[_Waiter] = []
        self._participants: list[_Participant] = []
        self._joined = 0
        self._holds = 0
        self._changed = asyncio.Event()

    @property
    def height(self) -> int:
        """The number of the block the clock stands at."""
        return self._state.height

    async def origin(self) -> Origin:
        """This chain."""
        return self.genesis.origin

    async def head(self) -> Block:
        """The block the clock stands at."""
        return self.genesis.block(self._state.height)

    async def final(self) -> int:
        """The newest block that is old enough; −1 before the first."""
        return self._state.height - self._final_after

    async def next_block(self, after: int) -> Block:
        """Park until the clock has been moved beyond `after`."""
        while self._state.height <= after:
            waiter = _Waiter(after, _current.get(), asyncio.get_running_loop().create_future())
            self._waiters.append(waiter)
            self._changed.set()
            try:
                await waiter.woken
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return await self.head()

    async def block(self, number: int) -> Block:
        """The block at a height that has been reached; `ChainError` for any other."""
        rules.check_reached(number, self._state.height)
        return self.genesis.block(number)

    async def beacon(self, purpose: str, round_: int, block: int) -> bytes:
        """The seed's beacon for (`purpose`, `round_`); `ChainError` before `block`, as on a real chain."""
        rules.check_reached(block, self._state.height)
        return self.genesis.beacon(purpose, round_)

    async def snapshot(self) -> Snapshot:
        """Everybody registered at the newest block, its epoch paid."""
        return rules.snapshot(self.genesis, self._state)

    async def register(self, identity: Identity) -> int:
        """Register a hotkey, or find it registered; returns its uid."""
        self._submit(identity, Register())
        return rules.registered(self._state, identity.hotkey).uid

    async def commit(self, identity: Identity, location: str, anchor: Anchor | None = None) -> None:
        """Publish a location and maybe an anchor; every anchor stays in the history."""
        self._submit(identity, Commit(location, anchor))

    async def anchors(self, round_: int) -> tuple[AnchorSeen, ...]:
        """All anchors ever committed for a round or a later one, in chain order."""
        return tuple(seen for seen in self._anchors if seen.anchor.round >= round_)

    async def set_weights(self, identity: Identity, weights: Mapping[int, int]) -> None:
        """Replace a validator's weights."""
        self._submit(identity, SetWeights(tuple(sorted(weights.items()))))

    async def weights(self, hotkey: str) -> dict[int, int]:
        """The weights that a hotkey set last; none of one that is not registered."""
        return rules.weights_of(self._state, hotkey)

    def advance(self, blocks: int = 1) -> None:
        """Add `blocks` ≥ 1 blocks and wake who waited for one of them, in the order participants joined."""
        assert blocks >= 1
        self._state = rules.reach(self.genesis, self._state, self._state.height + blocks)
        due = [waiter for waiter in self._waiters if waiter.after < self._state.height]
        self._waiters = [waiter for waiter in self._waiters if waiter.after >= self._state.height]
        turn: dict[_Participant | None, int] = {me: turn for turn, me in enumerate(self._participants)}
        for waiter in sorted(due, key=lambda waiter: turn.get(waiter.participant, -1)):
            if not waiter.woken.done():
                waiter.woken.set_result(None)

    @contextmanager
    def participant(self) -> Iterator[None]:
        """Within, the clock waits for this task and those it starts, until one of them parks in `next_block`.

        A participant that parks one task while another still works must `hold` the clock for the latter.
        """
        me = _Participant()
        self._participants.append(me)
        self._joined += 1
        self._changed.set()
        token = _current.set(me)
        try:
            yield
        finally:
            _current.reset(token)
            self._participants.remove(me)
            self._changed.set()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Within, `drive` adds no block: for work beside a parked task (a thread, say)."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._changed.set()

    async def drive(self, participants: int = 1) -> Block:
        """Add a block each time all participants are parked; returns the head when none is left.

        Starts once `participants` have joined in all, so that the first see no block pass before the rest are
        there. Later ones may join and leave at any time.
        """
        while self._joined < participants or self._participants:
            if self._joined >= participants and self._idle():
                self.advance()
                # Perhaps nobody waited for just this block: other tasks (and a cancellation) get their turn.
                await asyncio.sleep(0)
            else:
                self._changed.clear()
                await self._changed.wait()
        return await self.head()

    async def drive_by_clock(self, seconds: float, participants: int = 1) -> Block:
        """Add a block every `seconds` > 0 of the event loop's time; returns the head when no participant is left.

        Starts once `participants` have joined in all. Nobody is waited for: who is still at work when the block
        comes has missed it, so a store that hangs costs blocks. Meant for a loop whose clock jumps.
        """
        assert seconds > 0
        while self._joined < participants:
            self._changed.clear()
            await self._changed.wait()
        while True:
            await asyncio.sleep(seconds)
            if not self._participants:
                return await self.head()
            self.advance()

    def _idle(self) -> bool:
        parked = {waiter.participant for waiter in self._waiters if not waiter.woken.done()}
        return not self._holds and parked.issuperset(self._participants)

    def _submit(self, identity: Identity, call: Call) -> None:
        extrinsic = rules.sign(self.genesis, self._state, identity, call)
        self._state, seen = rules.apply(self.genesis, self._state, extrinsic, self._state.height)
        if seen:
            self._anchors.append(seen)
