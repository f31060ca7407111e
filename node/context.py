"""What a participant lives on: who it is, its chain and stores, and how it does heavy work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from muster.node.directory import Directory
from muster.node.telemetry.ailments import Ailments
from muster.node.telemetry.journal import Journal
from muster.protocol.chain.base import Chain
from muster.protocol.faults import Faults
from muster.protocol.identity import Identity
from muster.protocol.storage import Buckets, Meter, Store
from muster.protocol.storage.pointer import committed_text
from muster.protocol.storage.thread import in_thread

T = TypeVar("T")


class Offload(Protocol):
    """How heavy synchronous work is run: in a thread by daemons, in place by the simulator."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]:
        """Run `work` and return its result."""


async def finished(work: Awaitable[T]) -> T:
    """The result of heavy work; where the caller is cancelled meanwhile, only once the work has ended.

    A thread cannot be stopped: whoever holds a lock for what it does must not let go of it before.
    """
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        raise


async def in_place(work: Callable[[], T]) -> T:
    """Run work on the event loop: nothing else moves meanwhile, so a simulation is one fixed order of events."""
    return work()


@dataclass(slots=True)
class Context:
    """What a participant lives on, in a run.

    `location` is where its own bucket is; on chain stands that, or where there is a `bootstrap` the pointer to it.
    """

    identity: Identity
    chain: Chain
    buckets: Buckets
    location: str
    journal: Journal
    offload: Offload = in_thread
    faults: Faults = field(default_factory=Faults)
    meter: Meter = field(default_factory=Meter)
    bootstrap: str = ""
    run_id: bytes = b""
    directory: Directory = field(init=False)

    def __post_init__(self) -> None:
        """The directory is of this chain, these buckets and this run."""
        self.directory = Directory(self.chain, self.buckets, self.run_id)

    @property
    def committed(self) -> str:
        """What this participant commits of its location."""
        return committed_text(self.location, self.bootstrap)

    @property
    def ailments(self) -> Ailments:
        """What of its own it cannot write now."""
        return self.journal.ailments

    @property
    def bucket(self) -> Store:
        """The participant's own bucket."""
        return self.buckets.bucket(self.location)
