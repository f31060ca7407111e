"""Saying hello, and telling a leader's operator whose hello says that it cannot follow."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from muster.node.context import Context
from muster.node.directory import Directory
from muster.node.hello import DEADLINE, incompatibility, make_hello, read_hello
from muster.protocol import paths, wire
from muster.protocol.chain.base import Chain, Peer
from muster.protocol.errors import ChainError, StorageError, WireError
from muster.protocol.identity import public_of
from muster.protocol.spec import RunSpec
from muster.protocol.storage import Store

log = logging.getLogger(__name__)

PERIOD = 50
"""Blocks between two looks at the hellos that are still missing."""


async def put_hello(context: Context, run_id: bytes, round_: int, roles: Iterable[str]) -> None:
    """Write the participant's hello into its bucket; where only a pointer is committed it says what that leads to.

    Raises:
        StorageError: the bucket does not take it.
    """
    identity, location = context.identity, context.location if context.bootstrap else ""
    data = wire.encode_hello(make_hello(run_id, identity.public, round_, roles, location), identity)
    await context.bucket.put(paths.hello(run_id), data, deadline=DEADLINE)


async def publish_hello(context: Context, run_id: bytes, round_: int, roles: Iterable[str]) -> None:
    """The same, where nobody needs it: a store that refuses is logged."""
    try:
        await put_hello(context, run_id, round_, roles)
    except StorageError as error:
        log.warning("this participant's hello could not be written: %s", error)


async def watch_hellos(chain: Chain, directory: Directory, run_id: bytes, spec: RunSpec, own: str) -> None:
    """Read each peer's hello once and log who is not compatible; runs until cancelled.

    `own` is the hotkey that need not be read. A peer that commits another bucket is read again; one whose hello is
    not there, or not to be had, is asked again after `PERIOD` blocks, as is a chain that fails. All are asked at once,
    so that nobody waits for a bucket that hangs.
    """
    read: dict[str, str] = {}
    height = -1
    while True:
        try:
            height = (await chain.next_block(height)).number + PERIOD - 1
            peers = (await directory.snapshot()).peers
        except ChainError as error:
            log.warning("the peers' hellos cannot be read now: %s", error)
            await asyncio.sleep(DEADLINE)
            continue
        async with asyncio.TaskGroup() as tasks:
            for peer in peers:
                store = directory.store(peer)
                if store is not None and peer.hotkey != own and read.get(peer.hotkey) != peer.location:
                    tasks.create_task(_check_hello(peer, store, run_id, spec, read))


async def _check_hello(peer: Peer, store: Store, run_id: bytes, spec: RunSpec, read: dict[str, str]) -> None:
    """Read one peer's hello, say what speaks against it, and remember where it was read."""
    try:
        complaint = incompatibility(await read_hello(store, run_id, public_of(peer.hotkey)), spec)
    except StorageError as error:
        log.debug("the hello of %s is not to be had: %s", peer.hotkey, error)
        return
    except WireError as error:
        complaint = f"its hello is not valid ({error})"
    assert peer.location is not None, "it has a store"
    read[peer.hotkey] = peer.location
    if complaint is not None:
        log.warning("%s may not be able to follow this run: %s", peer.hotkey, complaint)
