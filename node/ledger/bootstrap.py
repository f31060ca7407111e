"""Joining a run: register, say where the own bucket is, and come to the newest checkpoint or to genesis."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import torch

from muster.node.context import Context
from muster.node.ledger import reader
from muster.node.ledger.catch_up import CatchUp
from muster.node.ledger.reader import Reader
from muster.node.replica import Replica
from muster.node.telemetry import events
from muster.protocol.chain.base import Chain
from muster.protocol.errors import ChainError, ChainUnreachable, NotRegistered, RateLimited, StaleChain, StorageError
from muster.protocol.ledger import Tip
from muster.protocol.spec.history import SpecHistory

log = logging.getLogger(__name__)
T = TypeVar("T")

BOOTSTRAP_TRIES = 50
"""Blocks for which joining goes on trying the same thing before it gives up: ten minutes of a chain of 12 s blocks."""

JOIN_RETRY = 12.0
"""Seconds that stand for a block where the chain does not say when the next one comes."""


async def bootstrap(history: SpecHistory, context: Context, device: torch.device | None = None) -> tuple[Tip, Replica]:
    """Register, commit the location, and catch up to the newest checkpoint (or genesis), with θ on `device` (the CPU).

    What fails for a reason that may pass is tried again at the next blocks.

    Raises:
        ConfigError: the chain is not the run's.
        ChainError, StorageError, LedgerError: joining is not possible.
    """
    chain, identity, directory = context.chain, context.identity, context.directory
    start = await patiently(chain, partial(reader.genesis_tip, history, chain))  # before writing on a wrong chain
    await patiently(chain, partial(chain.register, identity))
    await patiently(chain, partial(commit_location, context))
    way, looking = CatchUp(start, device), Reader(chain, directory, told=partial(_blamed, context))
    tip, replica = await patiently(chain, partial(way.go, looking), lambda: way.reached)
    if replica is None:
        spec = history.genesis
        replica = await context.offload(lambda: Replica.genesis(spec, history.run_id, device))
    context.journal.note(events.Joined(tip.round, hotkey=identity.hotkey))
    return tip, replica


def _blamed(context: Context, owner: str, problem: str) -> None:
    context.journal.note(events.BadMirror(owner=owner, problem=problem))


async def patiently(chain: Chain, step: Callable[[], Awaitable[T]], reached: Callable[[], object] = lambda: None) -> T:
    """Do a step of joining, again at the next blocks while it fails; it may take long if `reached` tells of progress.

    What the chain has no room for in this epoch is waited for: the next one comes, and who gave up would wait outside.

    Raises:
        ChainError, StorageError, LedgerError: trying again is of no use, or has been for `BOOTSTRAP_TRIES` blocks.
    """
    left = BOOTSTRAP_TRIES
    while True:
        before = reached()
        try:
            return await step()
        except RateLimited as error:
            log.warning("joining waits: %s", error)
        except (StorageError, ChainUnreachable, StaleChain) as error:  # any other chain error will not pass
            left = (left if reached() is before else BOOTSTRAP_TRIES) - 1
            if not left:
                raise
            log.warning("joining waits: %s", error)
        try:
            await chain.next_block((await chain.head()).number)
        except ChainError as error:
            log.warning("joining waits: the chain does not say what block it is at: %s", error)
            await asyncio.sleep(JOIN_RETRY)


async def commit_location(context: Context) -> None:
    """Publish where the bucket is, unless the chain has it already (a commitment would replace the newest anchor).

    Raises:
        ChainError: the chain does not take it, or does not say who is registered.
    """
    hotkey = context.identity.hotkey
    peer = (await context.chain.snapshot()).by_hotkey().get(hotkey)
    if peer is None:
        raise NotRegistered(f"the chain does not show {hotkey} as registered; register it, or wait until it does")
    if peer.location != context.committed:
        await context.chain.commit(context.identity, context.committed)
