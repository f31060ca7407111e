"""Hellos: each participant says on start what it runs, and a leader tells its operator who cannot follow it.

Nothing here decides anything: a hello that is missing, damaged or boastful changes no round.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
from collections.abc import Iterable

from muster.kernels import VERSIONS
from muster.node.context import Context
from muster.node.directory import Directory
from muster.protocol import paths, wire
from muster.protocol.chain.base import Chain, Peer
from muster.protocol.errors import ChainError, StorageError, WireError
from muster.protocol.identity import public_of
from muster.protocol.spec import RunSpec
from muster.protocol.storage import Store
from muster.protocol.wire import Hello
from muster.protocol.wire.envelope import FORMAT

log = logging.getLogger(__name__)

VERSION = importlib.metadata.version("muster-network")
"""The release that is installed; read once, because it is looked up on disk."""

DEADLINE = 10.0
"""Seconds for one hello: nobody waits for it."""
PERIOD = 50
"""Blocks between two looks at the hellos that are still missing."""


def make_hello(run_id: bytes, public: bytes, round_: int, roles: Iterable[str]) -> Hello:
    """What a participant of this release says of itself."""
    return Hello(
        run_id=run_id,
        public=public,
        round=round_,
        software=f"muster {VERSION}",
        formats=(FORMAT,),
        codecs=VERSIONS,
        runs=(run_id,),
        prefixes=wire.PREFIXES,
        roles=tuple(sorted(roles)),
    )


async def publish_hello(context: Context, run_id: bytes, round_: int, roles: Iterable[str]) -> None:
    """Write the participant's hello into its bucket; a store that refuses is logged, nobody needs a hello."""
    identity = context.identity
    data = wire.encode_hello(make_hello(run_id, identity.public, round_, roles), identity)
    try:
        await context.bucket.put(paths.hello(run_id), data, deadline=DEADLINE)
    except StorageError as error:
        log.warning("this participant's hello could not be written: %s", error)


async def read_hello(store: Store, run_id: bytes, public: bytes) -> Hello:
    """The hello in a peer's bucket.

    Raises:
        StorageError: there is none, or it is not to be had.
        WireError: it is not valid, or (`hello_signer`) somebody else's.
    """
    data = await store.get(paths.hello(run_id), max_bytes=wire.MAX_HELLO_BYTES, deadline=DEADLINE)
    hello, _ = wire.decode_hello(data, run_id)
    if hello.public != public:
        raise WireError("hello_signer", "the hello in this bucket is another hotkey's")
    return hello


def incompatibility(hello: Hello, spec: RunSpec) -> str | None:
    """Why who says this cannot take part in a run of `spec` with this release, None where nothing speaks against it."""
    if FORMAT not in hello.formats:
        return f"it reads the wire formats {list(hello.formats)}, not {FORMAT}"
    if spec.sparse.codec not in hello.codecs:
        return f"it reads the codecs {list(hello.codecs)}, not {spec.sparse.codec}"
    return None


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
