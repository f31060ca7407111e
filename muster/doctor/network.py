"""Probes of what lies outside: own bucket, its speed, other clocks, the chain. Each ends by its own deadline."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime

import aiohttp

from muster.doctor.facts import BucketFacts, ChainFacts, ClockFacts, MemberFacts, TransferFacts
from muster.protocol.chain.base import Chain
from muster.protocol.errors import ChainError, ObjectMissing, StorageError
from muster.protocol.storage import Store

PROBE_SECONDS = 30.0
"""A request of a few bytes that takes longer has failed."""
TRANSFER_SECONDS = 120.0
TRANSFER_BYTES = 16 << 20
"""Larger than what a line's buffers swallow, small enough to wait for."""
BLOCKS_TIMED = 2
CHAIN_SECONDS = 90.0
"""Bittensor makes a block each 12 s; the doctor waits for three at most."""
_PROBE = b"muster doctor was here\n"


class Clock:
    """Readings of time, passed in so that tests need not wait or be late."""

    def __init__(self, now: Callable[[], float] = time.time, elapsed: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.elapsed = elapsed


def probe_key(run_id: bytes) -> str:
    """A key of our own below the run's prefix, which no participant reads."""
    return f"{run_id.hex()}/doctor/{secrets.token_hex(8)}"


async def try_bucket(location: str, own: Store, public: Store, key: str) -> BucketFacts:
    """Write as the owner, read as anybody, try to write as anybody, delete.

    `public` opens the location as others do, without the owner's credentials.
    """
    write = await _failure(own.put(key, _PROBE, deadline=PROBE_SECONDS))
    if write:
        return BucketFacts(location, False, write, "", "", public_write_refused=True)
    read = await _failure(_read(public, key))
    refused = True
    if not read:
        refused = bool(await _failure(public.put(f"{key}-public", _PROBE, deadline=PROBE_SECONDS)))
        if not refused:
            await _failure(own.delete(f"{key}-public", deadline=PROBE_SECONDS))
    delete = await _failure(own.delete(key, deadline=PROBE_SECONDS))
    return BucketFacts(location, False, "", read, delete, refused)


async def time_transfer(own: Store, reader: Store, key: str, size: int, clock: Clock) -> TransferFacts:
    """Send an object of `size` random bytes, fetch it as others do, and delete it.

    Raises:
        StorageError: it failed, or took longer than `TRANSFER_SECONDS`.
    """
    data = secrets.token_bytes(size)  # nothing on the way can compress it
    began = clock.elapsed()
    await own.put(key, data, deadline=TRANSFER_SECONDS)
    sent = clock.elapsed()
    try:
        await reader.get(key, max_bytes=size, deadline=TRANSFER_SECONDS)
        return TransferFacts(size, sent - began, clock.elapsed() - sent)
    finally:
        await own.delete(key, deadline=PROBE_SECONDS)


async def http_clock(url: str, clock: Clock) -> ClockFacts | None:
    """How far this machine is ahead of the server at `url`, by the Date header of any answer; None without one.

    Raises:
        StorageError: the server does not answer.
    """
    timeout = aiohttp.ClientTimeout(total=PROBE_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            asked = clock.now()
            # GET, whose answer's body is not read: not every service answers HEAD of its root as HTTP wants it.
            async with session.get(url, allow_redirects=False) as answer:
                answered = clock.now()
                header = answer.headers.get("Date", "")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise StorageError(f"{url} does not answer: {error or 'timed out'}; check the host and the port") from error
    try:
        date = parsedate_to_datetime(header).timestamp()
    except ValueError:
        return None
    # The header counts whole seconds, so it is half a second old on average.
    return ClockFacts(url, (asked + answered) / 2 - (date + 0.5))


async def watch_chain(chain: Chain, name: str, clock: Clock) -> ChainFacts:
    """Wait for a few blocks: that they come is what freshness means, and how fast is the length of a round.

    Raises:
        ChainError: it cannot be reached, or no block came in time.
    """
    try:
        async with asyncio.timeout(CHAIN_SECONDS):
            origin = await chain.origin()
            first = await chain.next_block((await chain.head()).number)
            began, block = clock.elapsed(), first
            while block.number < first.number + BLOCKS_TIMED:
                block = await chain.next_block(block.number)
            passed = clock.elapsed() - began
    except TimeoutError as error:
        raise ChainError(f"{name} made no new block that can be seen here for {CHAIN_SECONDS:.0f} s") from error
    return ChainFacts(name, block.number, passed / (block.number - first.number), origin)


async def find_member(chain: Chain, hotkey: str, *, registers_itself: bool) -> MemberFacts:
    """What the chain says of a hotkey.

    Raises:
        ChainError: it cannot be asked.
    """
    peer = (await chain.snapshot()).by_hotkey().get(hotkey)
    if peer is None:
        return MemberFacts(hotkey, None, 0, permit=False, location=None, registers_itself=registers_itself)
    return MemberFacts(hotkey, peer.uid, peer.stake, peer.permit, peer.location, registers_itself)


async def try_reading(store: Store, key: str) -> str:
    """Why an object cannot be read, "" if it can or is not there: to know that much is to be let in."""
    try:
        await store.get_range(key, 0, 1, deadline=PROBE_SECONDS)
    except ObjectMissing:
        return ""
    except StorageError as error:
        return str(error)
    return ""


async def _read(store: Store, key: str) -> None:
    if await store.get(key, max_bytes=len(_PROBE), deadline=PROBE_SECONDS) != _PROBE:
        raise StorageError("it holds other bytes than were written; check that no other bucket answers")


async def _failure(work: Awaitable[None]) -> str:
    """Run a store's call; the sentence it fails with, or ""."""
    try:
        await work
    except StorageError as error:
        return str(error)
    return ""
