"""Bad networks and odd services between a store and the real server, so that tests meet them on purpose."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from io import BytesIO

from aiohttp import ClientSession, web
from yarl import URL

from muster.protocol.listening import stop_accepting

_BLOCK = 1 << 16


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


@asynccontextmanager
async def tcp_server(
    serve: Serve, tls: ssl.SSLContext | None = None, at: socket.socket | None = None
) -> AsyncIterator[str]:
    """A server on a loopback port (or `at` a listening socket) whose connections all end with it; its HOST:PORT.

    Raises:
        Exception: what `serve` raised, but for a connection that broke.
    """
    writers: list[asyncio.StreamWriter] = []
    tasks: list[asyncio.Task[None]] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        tasks.append(asyncio.create_task(serve(reader, writer)))

    listener = at or socket.create_server(("127.0.0.1", 0))
    server = await asyncio.start_server(accept, sock=listener, ssl=tls)
    try:
        yield name(listener)
    finally:
        await stop_accepting(listener)
        server.close()
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)
    for result in ended:
        if isinstance(result, Exception) and not isinstance(result, OSError | asyncio.IncompleteReadError):
            raise result


class CuttingProxy:
    """Passes bytes on to a TCP port; aborts `cuts` connections that carried more than `up` or `down` bytes, and all of
    them once they have carried `most` bytes up."""

    def __init__(
        self, port: int, *, up: int | None = None, down: int | None = None, cuts: int = 1, most: int | None = None
    ) -> None:
        self._port = port
        self._up = up
        self._down = down
        self._cuts_left = cuts
        self._most = most
        self.cuts = 0
        self.bytes_up = 0
        self.bytes_down = 0

    def running(self, at: socket.socket | None = None) -> AbstractAsyncContextManager[str]:
        """Listen on a loopback port, or `at` a listening socket, while inside; its HOST:PORT."""
        return tcp_server(self._pass, at=at)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opening = asyncio.ensure_future(asyncio.open_connection("127.0.0.1", self._port))
        try:
            there, back = await asyncio.shield(opening)
        except asyncio.CancelledError:  # what is cancelled while it connects leaves its socket open
            _, back = await opening
            back.transport.abort()
            raise
        tasks = [
            asyncio.create_task(self._pump(reader, back, self._up, is_up=True)),
            asyncio.create_task(self._pump(there, writer, self._down, is_up=False)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for one in (writer, back):
                one.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None, *, is_up: bool
    ) -> None:
        passed = 0
        while block := await reader.read(_BLOCK):
            passed += len(block)
            if limit is not None and passed > limit and self._cuts_left:
                self._cuts_left -= 1
                self.cuts += 1
                return
            if is_up and self._most is not None and self.bytes_up + len(block) > self._most:
                self.cuts += 1
                return
            self.bytes_up += len(block) if is_up else 0
            self.bytes_down += 0 if is_up else len(block)
            writer.write(block)
            await writer.drain()


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def http_server(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """An HTTP(S) server on a loopback port that answers everything with `handler`; its HOST:PORT."""
    application = web.Application(client_max_size=1 << 26)
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, shutdown_timeout=1.0)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    try:
        await web.SockSite(runner, listener, ssl_context=tls).start()
        try:
            yield name(listener)
        finally:
            await stop_accepting(listener)
    finally:
        # What is closed with an answer under way stays open until the client has read it, and some never do.
        answering = [] if runner.server is None else [one.transport for one in runner.server.connections]
        await runner.cleanup()
        for transport in answering:
            if transport is not None:
                transport.abort()
        await asyncio.sleep(0)


def name(listener: socket.socket) -> str:
    """HOST:PORT."""
    host, port = listener.getsockname()
    return f"{host}:{port}"


async def pass_on(request: web.Request, endpoint: str, **changed: str) -> web.Response:
    """Send a request on to the real server with some headers changed; its signature covers the original host."""
    headers = {**request.headers, **changed}
    async with (
        ClientSession(auto_decompress=False) as session,
        session.request(
            request.method,
            URL(endpoint + request.raw_path, encoded=True),
            headers=headers,
            data=BytesIO(await request.read()),
        ) as answer,
    ):
        kept = {name: value for name, value in answer.headers.items() if name.lower() != "transfer-encoding"}
        return web.Response(status=answer.status, body=await answer.read(), headers=kept)
