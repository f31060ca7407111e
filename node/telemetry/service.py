"""What a daemon answers about itself over HTTP: is it well, where does it stand, and its numbers.

    GET /healthz   200 while it makes progress, else 503 and why
    GET /status    one JSON object
    GET /metrics   Prometheus text

It listens where the operator says and on loopback otherwise, answers nothing but these three, and tells no secret.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from muster.node.telemetry.facts import ACCEPTED, Facts
from muster.node.telemetry.health import problems
from muster.node.telemetry.metrics import exposition, registry_of
from muster.protocol.chain.base import Chain
from muster.protocol.errors import ChainError, ConfigError
from muster.protocol.ledger import Tip

log = logging.getLogger(__name__)

OFF = "off"
"""The setting that means: no service."""

HEARTBEAT_SECONDS = 5.0
"""Between two looks at the chain: often against `BLOCK_SILENCE`, seldom against what a look costs."""

HEARTBEAT_DEADLINE = 30.0
"""Seconds the chain may take to name its newest block."""

IDLE_SECONDS = 10.0
"""How long a client may take to send its request."""

ANSWER_SECONDS = 10.0
"""How long an answer may take, the client's reading of it included."""

CLOSING_SECONDS = 2.0
"""How long answers under way may hold up the end of the daemon."""

MAX_REQUEST_BYTES = 1024
"""Of a body, which no request here needs."""

MAX_LINE_BYTES = 2048
MAX_HEADERS = 64
"""What a browser or a scraper sends fits several times."""

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(?P<port>\d{1,5})", re.ASCII)
MAX_PORT = 65_535


class Address(NamedTuple):
    """Where to listen; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address | None:
    """`HOST:PORT` (`[HOST]:PORT` for IPv6), or None for "off".

    Raises:
        ConfigError: neither.
    """
    if text == OFF:
        return None
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found["port"]) > MAX_PORT:
        raise ConfigError(f"the setting service is {text!r}, but must be HOST:PORT (port 0: any free one) or off")
    return Address(found["host"].strip("[]"), int(found["port"]))


@dataclass(frozen=True, slots=True)
class About:
    """What does not change while a daemon lives; `versions` maps software to its version."""

    name: str
    run_id: str
    versions: Mapping[str, str]


class Service:
    """Answers for one daemon. `tip` says where its replica stands, None until it has joined."""

    def __init__(self, about: About, facts: Facts, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives unix seconds."""
        self.tip: Callable[[], Tip | None] = lambda: None
        self._about = about
        self._facts = facts
        self._clock = clock
        labels = {"name": about.name, "run_id": about.run_id, "version": about.versions["muster"]}
        self._registry = registry_of(facts, labels, lambda: not self.problems())

    def problems(self) -> list[str]:
        """Why the daemon does not make progress; empty where it does."""
        return problems(self._facts, self.tip(), self._clock())

    def status(self) -> dict[str, Any]:
        """The answer of /status; all of it may be shown to anybody."""
        facts, about, tip, wrong = self._facts, self._about, self.tip(), self.problems()
        with facts.lock:
            rejected = {reason: count for (result, reason), count in facts.own.items() if result != ACCEPTED}
            return {
                "healthy": not wrong,
                "problems": wrong,
                "name": about.name,
                "role": facts.role,
                "hotkey": facts.hotkey,
                "run_id": about.run_id,
                "versions": dict(about.versions),
                "started": facts.started,
                "phase": facts.phase,
                "round": facts.round,
                "block": facts.block,
                "tip": None if tip is None else {"round": tip.round, "parent": tip.parent.hex(), "closed": tip.closed},
                "outer_step": facts.outer_step,
                "state_root": facts.root,
                "loss": {"inner": _finite(facts.inner_loss), "heldout": _finite(facts.heldout_loss)},
                "inner_seconds": facts.inner_seconds,
                "bytes": {"up": facts.bytes_up, "down": facts.bytes_down},
                "records": dict(facts.records),
                "submitted": facts.submitted,
                "accepted": facts.own[ACCEPTED, ""],
                "rejected": rejected,
                "pay": facts.judged and asdict(facts.judged),
                "ailing": dict(facts.ailing),
                "errors": {"store": facts.store_errors, "chain": facts.chain_errors, "refused": facts.refused},
                "peers": [asdict(peer) for peer in facts.peers],
            }

    def app(self) -> web.Application:
        """The three answers, each bounded in time and size."""
        app = web.Application(client_max_size=MAX_REQUEST_BYTES, middlewares=[_bounded])
        app.router.add_get("/healthz", self._answer_health)
        app.router.add_get("/status", self._answer_status)
        app.router.add_get("/metrics", self._answer_metrics)
        return app

    async def _answer_health(self, _request: web.Request) -> web.Response:
        wrong = self.problems()
        return web.Response(status=503 if wrong else 200, text="\n".join(wrong or ["ok"]) + "\n")

    async def _answer_status(self, _request: web.Request) -> web.Response:
        return web.json_response(self.status(), dumps=partial(json.dumps, allow_nan=False))

    async def _answer_metrics(self, _request: web.Request) -> web.Response:
        text = await asyncio.to_thread(exposition, self._registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


def _finite(loss: float | None) -> float | None:
    """JSON has no other numbers."""
    return loss if loss is not None and math.isfinite(loss) else None


@web.middleware
async def _bounded(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Write the answer here, so that a client that does not read it holds a connection for a limited time only."""
    async with asyncio.timeout(ANSWER_SECONDS):
        response = await handler(request)
        response.force_close()
        await response.prepare(request)
        await response.write_eof()
    return response


@asynccontextmanager
async def serving(service: Service, where: Address, idle: float = IDLE_SECONDS) -> AsyncIterator[Address]:
    """Answer at an address while the block runs; gives the address, with the port that was found.

    Raises:
        ConfigError: it cannot be listened on there.
    """
    runner = web.AppRunner(
        service.app(),
        access_log=None,
        handle_signals=False,
        keepalive_timeout=idle,
        lingering_time=0,
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_LINE_BYTES,
        max_headers=MAX_HEADERS,
        shutdown_timeout=CLOSING_SECONDS,
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, where.host, where.port).start()
        except OSError as error:
            raise ConfigError(f"cannot listen on {where} for the setting service: {_refusal(error)}") from error
        host, port = runner.addresses[0][:2]
        yield Address(host, port)
    finally:
        # What is closed with an answer under way stays open until the client has read it, and some never do.
        answering = [] if runner.server is None else [one.transport for one in runner.server.connections]
        await runner.cleanup()
        for transport in answering:
            if transport is not None:
                transport.abort()


def _refusal(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; choose another, or 0 for any free one"
    if error.errno == errno.EADDRNOTAVAIL:
        return "the address is not one of this machine"
    return f"{error.strerror}"


async def heartbeat(chain: Chain, facts: Facts, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Look at the chain for ever, so that its silence is noticed whatever the session is busy with."""
    while True:
        try:
            async with asyncio.timeout(HEARTBEAT_DEADLINE):
                head = await chain.head()
            facts.saw_block(head.number, time.time())
        except (ChainError, TimeoutError) as error:
            facts.chain_failed()
            log.warning("the chain did not name its newest block: %s", error or "no answer in time")
        await sleep(HEARTBEAT_SECONDS)
