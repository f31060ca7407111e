"""The chain that this suite runs against: one it starts itself, or one that is running."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bittensor as bt
from bittensor.sp_core import Keypair

from muster.protocol.chain.base import Chain
from muster.protocol.chain.bittensor import BittensorChain
from muster.protocol.chain.bittensor.runtime import Runtime
from muster.protocol.chain.bittensor.setup import OWNER
from muster.protocol.chain.bittensor.signing import submit
from muster.protocol.identity import Identity

SPEC = "MUSTER_TEST_CHAIN_SPEC"
ENDPOINT = "MUSTER_TEST_CHAIN_ENDPOINT"
LIBRARY = "CHOPSTICKS_NM"
START_SECONDS = 120.0
"""Starting takes two seconds on an idle machine."""
POLL_SECONDS = 0.1
TEMPO = 10
"""Blocks of the subnet's epochs."""
DAY_MS = 86_400_000
STARTER = Path(__file__).with_suffix(".mjs")


class ChainAbsent(Exception):
    """There is no chain to test against; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class LocalChain:
    """A development chain. `ours` is one of ours, which makes blocks when told."""

    url: str
    ours: bool

    def client(self, netuid: int) -> BittensorChain:
        """A client."""
        return BittensorChain([self.url], netuid)

    async def mine(self, chain: Chain, blocks: int) -> None:
        """Let so many blocks pass."""
        if self.ours:
            # One at a time: on a busy machine many in one request outlast the SDK's patience with a request.
            for _ in range(blocks):
                await self.rpc("dev_newBlock", {"count": 1})
        else:
            await chain.next_block((await chain.head()).number + blocks - 1)

    @asynccontextmanager
    async def making_blocks(self, milliseconds: int) -> AsyncIterator[None]:
        """Let blocks come by themselves meanwhile, so long after each other."""
        await self._tell("test_makeBlocks", milliseconds)
        try:
            yield
        finally:
            await self._tell("test_makeBlocks", 0)

    @asynccontextmanager
    async def in_network(self) -> AsyncIterator[None]:
        """Let it say meanwhile that it is a node of a network: then its blocks, a day old, are too old."""
        await self._tell("test_joinNetwork", True)
        try:
            yield
        finally:
            await self._tell("test_joinNetwork", False)

    async def _tell(self, method: str, value: object) -> None:
        if self.ours:
            await self.rpc(method, value)

    async def pending(self, number: int) -> None:
        """Wait until so many extrinsics wait for a block."""
        async with asyncio.timeout(START_SECONDS):
            while len(await self.rpc("author_pendingExtrinsics")) < number:  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(POLL_SECONDS)

    async def rpc(self, method: str, *params: Any) -> Any:
        """Call any method of the node."""
        runtime = Runtime(self.url)
        await runtime.connect()
        try:
            return await runtime.raw.rpc_request(method, list(params))
        finally:
            await runtime.close()

    async def query(self, pallet: str, item: str, params: list[Any]) -> Any:
        """Read storage at the newest block."""
        runtime = Runtime(self.url)
        await runtime.connect()
        try:
            return await runtime.query(pallet, item, params)
        finally:
            await runtime.close()

    async def sudo(self, pallet: str, function: str, **params: Any) -> None:
        """Do something as the chain's root."""
        runtime = Runtime(self.url)
        await runtime.connect()
        try:
            inner = await runtime.compose((pallet, function, params))
            call = await runtime.compose(bt.calls.Sudo.sudo(call=inner))
            await submit(runtime, call, Keypair.create_from_uri(OWNER), function, final=False)
        finally:
            await runtime.close()


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet with two operators that have stake and two miners that have none, uids 0 to 3."""

    chain: LocalChain
    netuid: int
    members: tuple[Identity, ...]


@contextmanager
def local_chain(folder: Path) -> Iterator[LocalChain]:
    """The chain that the environment names, started if need be.

    Raises:
        ChainAbsent: it names none.
    """
    if os.environ.get(ENDPOINT):
        yield LocalChain(os.environ[ENDPOINT], ours=False)
        return
    spec, library, node = os.environ.get(SPEC), os.environ.get(LIBRARY), shutil.which("node")
    if not spec or not library or not node:
        raise ChainAbsent(
            f"set {ENDPOINT} to a development chain's ws://HOST:PORT, or {SPEC} to a raw chain spec and {LIBRARY} to "
            "the node_modules that hold @acala-network/chopsticks (and install node 20)"
        )
    port, genesis = _free_port(), int(time.time() * 1000) - DAY_MS
    with (folder / "chain.log").open("wb") as log:
        process = subprocess.Popen(
            [node, str(STARTER), spec, str(port), str(genesis)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert process.stdin is not None
    try:
        _await_ready(process, folder)
        yield LocalChain(f"ws://127.0.0.1:{port}", ours=True)
    finally:
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def _await_ready(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Read the process's output: up to its word that it is ready, and then all the rest, so that it never blocks."""
    ready = threading.Event()
    assert process.stdout is not None
    lines = process.stdout

    def drain() -> None:
        for line in lines:
            if line.strip() == b"ready":
                ready.set()
        lines.close()

    threading.Thread(target=drain, daemon=True).start()
    deadline = time.monotonic() + START_SECONDS
    while not ready.wait(1.0):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the chain did not start: {(folder / 'chain.log').read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
