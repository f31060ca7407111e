"""Which of several Bittensor nodes is asked: one that answers, is of the right chain, and is not behind.

Every request has a deadline. A node that misses it, or shows no new blocks, is left for the next in the list. When all
have failed, they are tried again for ten minutes, if the chain was there before; then the error names each with its
reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import urlsplit

import bittensor as bt

from muster.protocol.chain.bittensor.runtime import Runtime
from muster.protocol.errors import ChainError, ChainUnreachable, NotPermitted, NotRegistered, RateLimited, StaleChain

log = logging.getLogger(__name__)
T = TypeVar("T")

RPC_SECONDS = 30.0
"""For a request and, if need be, the connection before it: a metagraph of 256 peers takes about one."""

SUBMIT_SECONDS = 150.0
"""For an extrinsic to be in a final block: a few blocks of 12 seconds, and the network's bad moments."""

STALE_BLOCKS = 10
"""A node whose newest block is older than so many blocks' time is not following the chain."""

STALE_SECONDS = 30.0
"""... but this much at least, for chains with blocks under a second, and for clocks that differ.

The age of a block says nothing on a development chain of one node: it may make blocks on request, or run ahead.
"""

PAUSES = (1.0, 4.0, 15.0, 40.0, *[60.0] * 9)
"""Seconds between the tries when no node can be used: ten minutes, in which nodes restart and networks come back."""

MOST_TIMES = 4
"""A slow node is better than none: each try gives it its time once more, up to so many times."""

_CODES: dict[bt.ErrorCode, type[ChainError]] = {
    bt.ErrorCode.NOT_REGISTERED: NotRegistered,
    bt.ErrorCode.NOT_AUTHORIZED: NotPermitted,
    bt.ErrorCode.INSUFFICIENT_BALANCE: NotPermitted,
    bt.ErrorCode.RATE_LIMITED: RateLimited,
    bt.ErrorCode.LIMIT_EXCEEDED: RateLimited,
    bt.ErrorCode.TOO_EARLY: RateLimited,
}
"""How the SDK's classes of refusals are called here; all others are a plain `ChainError`."""

NONCE_TAKEN = frozenset({"Stale", "Future", "PriorityTooLow", "Usurped", "Invalid"})
"""Refusals that mean, or may mean, that another extrinsic of the same account came first."""

_NAMES: dict[str, type[ChainError]] = {
    **dict.fromkeys(NONCE_TAKEN, RateLimited),
    "SpaceLimitExceeded": RateLimited,
    "AccountNotAllowedCommit": NotRegistered,
    "NeuronNoValidatorPermit": NotPermitted,
    "NotEnoughStakeToSetWeights": NotPermitted,
}
"""Refusals whose name in the runtime says more than the SDK's class."""


def shown(endpoint: str) -> str:
    """An endpoint without what may be secret in it: user, path and query are left out."""
    parts = urlsplit(endpoint)
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


def refused(what: str, error: bt.BittensorError) -> ChainError:
    """The chain's refusal of `what` as an error of ours."""
    if not isinstance(error, bt.ChainError):
        return ChainError(f"{what} was refused: {error}")
    kind = _NAMES.get(error.name or "") or _CODES.get(error.code, ChainError)
    name = f" ({error.name})" if error.name else ""
    return kind(f"{what} was refused{name}: {error.message.rstrip('.')}; {error.remediation}")


class _Unfit(Exception):
    """This endpoint cannot be used now; another one may."""

    def __init__(self, reason: str, *, stale: bool = False) -> None:
        super().__init__(reason)
        self.stale = stale


class Endpoints:
    """The nodes of one chain. Used from one event loop; requests may overlap."""

    def __init__(
        self, urls: Sequence[str], now: Callable[[], float], sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        """`now` gives unix seconds, to tell how old a node's newest block is; `sleep` waits for some."""
        if not urls:
            raise ChainError("no endpoint of the chain is named; give at least one, like wss://HOST:443")
        for url in urls:
            if urlsplit(url).scheme not in ("ws", "wss") or not urlsplit(url).hostname:
                raise ChainError(f"{shown(url)} is not an endpoint; it must be ws://HOST:PORT or wss://HOST:PORT")
        self._urls = tuple(urls)
        self._now = now
        self._sleep = sleep
        self._at = 0
        self._runtime: Runtime | None = None
        self._alone = False
        self._genesis: str | None = None
        self._lock = asyncio.Lock()
        self.block_seconds = 0.0
        self.newest = 0.0

    async def ask(self, request: Callable[[Runtime], Awaitable[T]], seconds: float = RPC_SECONDS) -> T:
        """The answer of the first node that gives one; `request` may be made more than once.

        Once a node has answered, an outage of all of them is waited out for a while.

        Raises:
            ChainUnreachable, StaleChain: every node failed.
            ChainError: a node answered with a refusal.
        """
        pauses = PAUSES if self._genesis is not None else ()
        for times, pause in enumerate(pauses, start=1):
            try:
                return await self._pass(request, seconds * min(times, MOST_TIMES))
            except (ChainUnreachable, StaleChain) as error:
                log.warning("%s; it is tried again in %g seconds", error, pause)
                await self._sleep(pause)
        return await self._pass(request, seconds * min(len(pauses) + 1, MOST_TIMES))

    async def _pass(self, request: Callable[[Runtime], Awaitable[T]], seconds: float) -> T:
        """Ask each node once."""
        failures: list[tuple[str, _Unfit]] = []
        for _ in self._urls:
            url, used = self._urls[self._at], None
            try:
                with _failures_named(seconds):
                    async with asyncio.timeout(seconds):
                        used = await self._connected(url)
                        return await request(used)
            except _Unfit as error:
                log.warning("the endpoint %s cannot be used: %s", shown(url), error)
                failures.append((url, error))
                await self._leave(url, used)
        kind = StaleChain if any(error.stale for _, error in failures) else ChainUnreachable
        listed = "; ".join(f"{shown(url)}: {error}" for url, error in failures)
        raise kind(f"no endpoint of the chain can be used ({listed}); check them, or name others")

    async def _connected(self, url: str) -> Runtime:
        async with self._lock:
            if self._runtime is None:
                runtime = Runtime(url)
                try:
                    await runtime.connect()
                    await self._examine(runtime)
                except BaseException:
                    await runtime.close()
                    raise
                self._runtime = runtime
            return self._runtime

    async def _examine(self, runtime: Runtime) -> None:
        genesis = await runtime.block_hash(0)
        if self._genesis not in (None, genesis):
            raise _Unfit("it is a node of another chain")
        self.block_seconds = await runtime.block_time()
        self._alone = await runtime.alone()
        self.newest = await block_time_of(runtime, await runtime.final_hash())
        self.check_age(self.newest)
        self._genesis = genesis

    def check_age(self, timestamp: float) -> None:
        """Leave this node if its newest block, made at `timestamp` (unix seconds), is too old."""
        if self._alone:
            return
        age = self._now() - timestamp
        if age > max(STALE_BLOCKS * self.block_seconds, STALE_SECONDS):
            raise _Unfit(f"its newest final block is {age:.0f} seconds old by this machine's clock", stale=True)

    async def _leave(self, url: str, used: Runtime | None) -> None:
        """Go on with the next endpoint, unless another request has left this connection before."""
        async with self._lock:
            if self._urls[self._at] == url and self._runtime is used:
                self._at = (self._at + 1) % len(self._urls)
                self._runtime = None
                if used is not None:
                    await used.close()

    async def close(self) -> None:
        """Disconnect."""
        async with self._lock:
            runtime, self._runtime = self._runtime, None
            if runtime is not None:
                await runtime.close()


async def block_time_of(runtime: Runtime, block_hash: str) -> float:
    """When a block was made by the chain's own clock, unix seconds."""
    return int(await runtime.query("Timestamp", "Now", [], block_hash=block_hash) or 0) / 1000


@contextmanager
def _failures_named(seconds: float) -> Iterator[None]:
    """Tell a node that cannot be used from a chain that refuses."""
    try:
        yield
    except TimeoutError as error:
        raise _Unfit(f"no answer within {seconds:g} seconds") from error
    except (bt.RpcConnectionError, bt.ConnectionNotReady, OSError) as error:
        raise _Unfit(str(error) or type(error).__name__) from error
    except bt.BittensorError as error:
        raise refused("a question to the chain", error) from error
