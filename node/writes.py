"""A hotkey's writes to the chain, one at a time: its processes share a nonce, and one commitment that holds two things.

The chain keeps a hotkey's location and newest anchor together and each write replaces both. So a commitment is read,
merged, written and read again while this process has its turn (`muster.node.turns`), and neither of an operator's two
daemons can undo what the other has written. What was not seen on the chain was not done: its owner tries it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from muster.node.drain import Drain
from muster.node.telemetry.ailments import Ailments
from muster.node.turns import Lane, Turn, Turns
from muster.protocol.chain.base import AnchorSeen, Chain, Snapshot
from muster.protocol.chain.commitments import CommitSpace
from muster.protocol.errors import RateLimited
from muster.protocol.identity import Identity
from muster.protocol.types import Anchor, Block, Origin

log = logging.getLogger(__name__)
T = TypeVar("T")

SHOW_SECONDS = 60.0
"""How long the chain may take to show what it has taken: another of its nodes may be some blocks behind."""

BEHIND_BLOCKS = 10
"""A node further behind the last write is not used at all; then the note is of a chain that was begun anew."""

FINISH_SECONDS = 5.0
"""What a cancelled write is given to end by itself: a thread that writes to a file goes on anyway."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the chain shows of a hotkey at a block: its location, and its newest anchor not older than one asked for."""

    location: str | None
    anchor: Anchor | None
    block: Block


@dataclass(frozen=True, slots=True)
class Wish:
    """What a process wants to be committed."""

    location: str
    anchor: Anchor | None

    def merged(self, standing: Standing) -> tuple[str, Anchor | None]:
        """The commitment that does this wish justice, and what stands.

        Who writes a location alone means it. Who writes an anchor has its location from when it began, and another
        process may have moved since: an anchor leaves a location that stands. A newer anchor stays.
        """
        if self.anchor is None:
            return self.location, standing.anchor
        newer = standing.anchor is not None and standing.anchor.round > self.anchor.round
        return standing.location or self.location, standing.anchor if newer else self.anchor

    def fulfilled(self, standing: Standing) -> bool:
        """Whether there is nothing left to write."""
        return self.merged(standing) == (standing.location, standing.anchor)


class QueuedWrites(Chain):
    """A chain whose writes wait for their turn among all processes of one hotkey; reads go straight through."""

    def __init__(
        self,
        chain: Chain,
        turns: Turns,
        drain: Drain | None = None,
        ailments: Ailments | None = None,
        *,
        show_seconds: float = SHOW_SECONDS,
    ) -> None:
        """Write to `chain` when it is one's turn.

        `drain` lets the process stop between two writes only, `ailments` is told when the line cannot be stood in.
        """
        self._chain = chain
        self.remembers = chain.remembers
        self._turns = turns
        self._drain = drain or Drain()
        self._ailments = ailments or Ailments()
        self._show_seconds = show_seconds

    async def origin(self) -> Origin:
        """Which chain it is."""
        return await self._chain.origin()

    async def head(self) -> Block:
        """The newest block."""
        return await self._chain.head()

    async def final(self) -> int:
        """The newest final block's height."""
        return await self._chain.final()

    async def next_block(self, after: int) -> Block:
        """Wait for a block beyond `after`."""
        return await self._chain.next_block(after)

    async def news(self, after: int) -> Block:
        """Wait for a block beyond `after`, or for what is announced."""
        return await self._chain.news(after)

    async def announce(self) -> None:
        """Say that something was written."""
        await self._chain.announce()

    async def block(self, number: int) -> Block:
        """The block at a height."""
        return await self._chain.block(number)

    async def beacon(self, purpose: str, round_: int, block: int) -> bytes:
        """32 unpredictable bytes."""
        return await self._chain.beacon(purpose, round_, block)

    async def snapshot(self) -> Snapshot:
        """Everybody registered now."""
        return await self._chain.snapshot()

    async def anchors(self, round_: int) -> tuple[AnchorSeen, ...]:
        """The anchors for `round_` or later."""
        return await self._chain.anchors(round_)

    async def weights(self, hotkey: str) -> Mapping[int, int] | None:
        """The weights that a hotkey set last."""
        return await self._chain.weights(hotkey)

    async def commit_space(self) -> CommitSpace | None:
        """How much the hotkey may commit."""
        return await self._chain.commit_space()

    async def register(self, identity: Identity) -> int:
        """Register a hotkey; returns its uid.

        Raises:
            RateLimited, StorageError: as `commit`.
            ChainError: refused.
        """
        async with self._turn(Lane.OTHER, "registering"):
            return await _to_the_end(self._chain.register(identity))

    async def commit(self, identity: Identity, location: str, anchor: Anchor | None = None) -> None:
        """Have the chain show a location or an anchor; returns once it does.

        An anchor brings its location only where none stands, and is dropped where a newer one stands.

        Raises:
            RateLimited: the turn did not come, or the chain did not show it, in time: to be tried again.
            StorageError: the queue's folder cannot be used: to be tried again.
            ChainError: refused.
        """
        lane = Lane.OTHER if anchor is None else Lane.ANCHOR
        what = "committing the location" if anchor is None else f"anchoring the record of round {anchor.round}"
        async with self._turn(lane, what) as turn:
            await _to_the_end(self._commit(turn, identity, Wish(location, anchor)))

    async def set_weights(self, identity: Identity, weights: Mapping[int, int]) -> None:
        """Publish weights.

        Raises:
            RateLimited: too soon, or the turn did not come in time.
            StorageError: the queue's folder cannot be used.
            ChainError: refused.
        """
        async with self._turn(Lane.OTHER, "setting weights"):
            await _to_the_end(self._chain.set_weights(identity, weights))

    async def close(self) -> None:
        """Close the chain's client."""
        await self._chain.close()

    @asynccontextmanager
    async def _turn(self, lane: Lane, what: str) -> AsyncIterator[Turn]:
        with self._ailments.writing("the queue of writes to the chain"):
            async with AsyncExitStack() as stack:
                turn = await stack.enter_async_context(self._turns.turn(lane))
                if self._drain.stopping.is_set():
                    await stack.aclose()  # what follows only waits for the end, and others need not
                await stack.enter_async_context(self._drain.uncut(what))
                yield turn

    async def _commit(self, turn: Turn, identity: Identity, wish: Wish) -> None:
        await self._soon(self._reach(await asyncio.to_thread(turn.block)), "the last commitment")
        standing = await self._standing(identity.hotkey, wish)
        location, anchor = wish.merged(standing)
        if anchor != wish.anchor:
            log.warning(
                "the anchor of round %s is not written: the chain shows a newer one of this hotkey",
                wish.anchor and wish.anchor.round,
            )
        if wish.fulfilled(standing):
            return
        # Without an anchor a client keeps the one that stands, and it may read newer blocks than were shown here.
        await self._chain.commit(identity, location, wish.anchor if anchor == wish.anchor else None)
        shown = await self._soon(self._shown(identity.hotkey, wish), "this commitment")
        await asyncio.to_thread(turn.confirm, shown.number)

    async def _reach(self, block: int) -> None:
        """Wait until this client's node has the block in which the last write was seen."""
        if 0 < block - (await self._chain.head()).number <= BEHIND_BLOCKS:
            await self._chain.next_block(block - 1)

    async def _standing(self, hotkey: str, wish: Wish) -> Standing:
        snapshot = await self._chain.snapshot()
        peer, newest = snapshot.by_hotkey().get(hotkey), None
        for seen in () if wish.anchor is None else await self._chain.anchors(wish.anchor.round):
            if seen.hotkey == hotkey and (newest is None or seen.anchor.round >= newest.round):
                newest = seen.anchor
        return Standing(peer.location if peer else None, newest, snapshot.block)

    async def _shown(self, hotkey: str, wish: Wish) -> Block:
        """Wait until the chain shows what was wished; returns the block it was seen at."""
        while not wish.fulfilled(standing := await self._standing(hotkey, wish)):
            await self._chain.next_block(standing.block.number)
        return standing.block

    async def _soon(self, work: Coroutine[Any, Any, T], what: str) -> T:
        try:
            async with asyncio.timeout(self._show_seconds):
                return await work
        except TimeoutError:
            raise RateLimited(
                f"the chain does not show {what} of this hotkey after {self._show_seconds:g} s; it is to be tried "
                f"again (if it stays so: does another machine commit with this hotkey?)"
            ) from None


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Do a write; if cancelled, keep the turn until nothing of it is under way any more."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    finally:
        if not task.done():
            await asyncio.wait({task}, timeout=FINISH_SECONDS)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
