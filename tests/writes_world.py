"""A chain as a hotkey's queued writes meet it: one commitment, shown late, written where a gate is open."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hotkey_process import LEDGER, OPERATOR

from muster.node.turns import Turns
from muster.node.writes import QueuedWrites
from muster.protocol.chain.base import AnchorSeen, Chain, Peer, Snapshot
from muster.protocol.identity import Identity
from muster.protocol.types import Anchor, Block, Origin


@dataclass
class Ground:
    """A chain as Bittensor is: a hotkey has one commitment, replaced whole. Whoever waits for a block makes it.

    `commitments` holds (height, location, anchor), `calls` every write begun; writes pass where `gate` is open.
    """

    height: int = 0
    commitments: list[tuple[int, str, Anchor | None]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()


class Client(Chain):
    """A client of it, whose node is `behind` by so many blocks."""

    def __init__(self, ground: Ground, behind: int = 0) -> None:
        self.ground = ground
        self.behind = behind

    async def origin(self) -> Origin:
        return Origin("local", bytes(32))

    async def head(self) -> Block:
        return Block(max(0, self.ground.height - self.behind), bytes(32))

    async def final(self) -> int:
        return (await self.head()).number

    async def next_block(self, after: int) -> Block:
        while (head := await self.head()).number <= after:
            self.ground.height += 1
            await asyncio.sleep(0)
        return head

    async def block(self, number: int) -> Block:
        return Block(number, bytes(32))

    async def beacon(self, purpose: str, round_: int, block: int) -> bytes:
        return bytes(32)

    async def _visible(self) -> list[tuple[int, str, Anchor | None]]:
        height = (await self.head()).number
        return [each for each in self.ground.commitments if each[0] <= height]

    async def snapshot(self) -> Snapshot:
        shown = await self._visible()
        peer = Peer(0, OPERATOR.hotkey, 1, True, 0.0, 0, shown[-1][1] if shown else None)
        return Snapshot(await self.head(), (peer,))

    async def anchors(self, round_: int) -> tuple[AnchorSeen, ...]:
        shown = await self._visible()
        anchor = shown[-1][2] if shown else None
        seen = anchor is not None and anchor.round >= round_
        return (AnchorSeen(OPERATOR.hotkey, anchor, shown[-1][0], 0),) if seen and anchor else ()

    async def register(self, identity: Identity) -> int:
        await self._write("register")
        return 0

    async def commit(self, identity: Identity, location: str, anchor: Anchor | None = None) -> None:
        await self._write(f"commit {location} {anchor.round}" if anchor else f"commit {location}")
        stands = self.ground.commitments[-1][2] if self.ground.commitments else None
        self.ground.height += 1
        self.ground.commitments.append((self.ground.height, location, anchor or stands))

    async def set_weights(self, identity: Identity, weights: Mapping[int, int]) -> None:
        await self._write("weights")

    async def _write(self, call: str) -> None:
        self.ground.calls.append(call)
        await self.ground.gate.wait()
        await asyncio.sleep(0)


def maker(folder: Path) -> Callable[..., QueuedWrites]:
    """Makes one daemon's way to a chain; arrivals are counted and nobody sleeps."""
    arrivals = itertools.count()

    async def sleep(_: float) -> None:
        await asyncio.sleep(0)

    def make(chain: Chain, patience: float = 30.0, show_seconds: float = 30.0) -> QueuedWrites:
        turns = Turns(folder, LEDGER, "me", patience=patience, clock=lambda: next(arrivals), sleep=sleep)
        return QueuedWrites(chain, turns, show_seconds=show_seconds)

    return make


async def until(condition: Callable[[], bool]) -> None:
    """Let others work until something is true."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (it comes about in threads)
            await asyncio.sleep(0)
