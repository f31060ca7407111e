"""Connections that arrive while a server is being closed."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from aiohttp import web
from s3_proxies import http_server, tcp_server

Server = Callable[[], AbstractAsyncContextManager[str]]


async def wait_for_ever(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def hello(_request: web.Request) -> web.StreamResponse:
    return web.Response()


async def connect_and_close(server: Server, turns: int) -> None:
    """Close `server` so many turns of the loop after three clients asked for a connection."""
    async with server() as address:
        host, port = address.split(":")
        clients = [socket.create_connection((host, int(port))) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
    for client in clients:
        client.close()


async def flood(_request: web.Request) -> web.StreamResponse:
    return web.Response(body=bytes(2**24))


async def ask_and_close(client: socket.socket) -> None:
    """Close a server that is sending an answer which nobody reads."""
    loop = asyncio.get_running_loop()
    async with http_server(flood) as address:
        host, port = address.split(":")
        client.setblocking(False)
        await loop.sock_connect(client, (host, int(port)))
        await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        await loop.sock_recv(client, 1)


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("server", [lambda: tcp_server(wait_for_ever), lambda: http_server(hello)], ids=["tcp", "http"])
def test_no_socket_stays_open(server: Server, turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert leaks(connect_and_close(server, turns), monkeypatch) == []


def test_an_answer_that_nobody_reads_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as client:
        assert leaks(ask_and_close(client), monkeypatch) == []


def leaks(work: Coroutine[Any, Any, None], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a loop of its own leaves open."""
    left: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", lambda found: left.append(found.exc_value))
    gc.collect()
    left.clear()
    asyncio.run(work)
    gc.collect()
    return left
