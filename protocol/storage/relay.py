"""The one door to strangers' servers: it connects to the address it checked, and lets no more through than was asked.

The S3 client resolves names itself, follows redirects, and reads an error's body to its end. So every connection
to a host that nobody vouched for goes through this relay, a loopback proxy that knows only CONNECT (TLS stays
between client and server). It resolves the name once, refuses it if any address is not permitted, connects to a
checked one, and cuts a connection that brings more bytes than its store's open requests can need. A redirect to
another host or to plain HTTP finds no door.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary

from muster.protocol.errors import StorageError
from muster.protocol.listening import stop_accepting
from muster.protocol.storage.addresses import AllowList

Resolve = Callable[[str, int], Awaitable[list[str]]]

_BLOCK = 256 * 1024
_HEADER_S = 10.0
_RESOLVE_S = 10.0
_CONNECT_S = 5.0
"""Seconds for each step before bytes flow; from then on the requests' own deadlines bound it."""
_OVERHEAD = 1 << 20
"""Bytes a request may bring besides its body: headers, handshakes of new connections, error texts."""
_TLS_SHARE = 16
"""A sixteenth of a body more for TLS records, which are small where the server writes little at a time."""
_CONNECT = re.compile(rb"CONNECT ([^ ]{1,300}) HTTP/1\.1\r\n")
_CREDENTIAL = re.compile(rb"\r\n[Pp]roxy-[Aa]uthorization: Basic ([A-Za-z0-9+/=]{1,200})\r\n")


async def resolve(host: str, port: int) -> list[str]:
    """All addresses of a host as the system's resolver knows them.

    Raises:
        OSError: there are none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class Door:
    """One store's way through the relay, to one host and port only; it is there for as long as somebody holds it."""

    def __init__(self, host: str, port: int, proxy_url: str) -> None:
        self.host = host
        self.port = port
        self.proxy_url = proxy_url
        self.refusal: str | None = None
        """Why the last connection was refused, for whoever reports the failed request."""
        # Only the client's thread writes `_limit` and `_open`, only the relay's writes `_carried`.
        self._limit = 0
        self._carried = 0
        self._open = 0

    @contextmanager
    def expecting(self, size: int) -> Iterator[None]:
        """While inside, the host may send a body of `size` bytes and what goes with it."""
        if self._open == 0:
            self._limit = self._carried
        self._open += 1
        self._limit += size + size // _TLS_SHARE + _OVERHEAD
        try:
            yield
        finally:
            self._open -= 1

    def carry(self, size: int) -> bool:
        """Count what the host sent; False when it may send no more."""
        self._carried += size
        return self._carried <= self._limit


class Relay:
    """A proxy on a loopback port, in a thread of its own so that no busy event loop stalls transfers."""

    def __init__(self, allow: AllowList, *, resolve: Resolve = resolve) -> None:
        """Start to listen; `resolve` finds a host's addresses (the system's resolver)."""
        self._allow = allow
        self._resolve = resolve
        # A door lasts as long as the store that goes through it: there are as many as buckets in use.
        self._doors: WeakValueDictionary[bytes, Door] = WeakValueDictionary()
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def door(self, host: str, port: int) -> Door:
        """A way to `host` at `port`; `proxy_url` of the result is what an HTTP client takes as its proxy."""
        token = secrets.token_hex(16)
        door = Door(host, port, f"http://door:{token}@127.0.0.1:{self._port}")
        self._doors[base64.b64encode(f"door:{token}".encode())] = door
        return door

    async def close(self) -> None:
        """Cut every connection and end the thread."""
        self._loop.call_soon_threadsafe(self._closing.set)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._serve, sock=self._listener, limit=_BLOCK)
        await self._closing.wait()
        await stop_accepting(self._listener)
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            # A connection that breaks, or a header that is not one, ends this connection and nothing else.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                async with asyncio.timeout(_HEADER_S):
                    header = await reader.readuntil(b"\r\n\r\n")
                await self._connect(header, reader, writer)
        except asyncio.CancelledError:
            # asyncio.streams reports a cancelled handler as an error of the loop; the relay is closing.
            return
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _connect(self, header: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        door = self._find(header)
        if door is None:
            writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
            return
        door.refusal = None
        try:
            there = await self._dial(door)
        except StorageError as error:
            door.refusal = str(error)
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
            return
        try:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await _both_ways(door, (reader, writer), there)
        finally:
            there[1].transport.abort()

    def _find(self, header: bytes) -> Door | None:
        """The door a request is for, if it asks for the host the door leads to."""
        target, credential = _CONNECT.match(header), _CREDENTIAL.search(header)
        door = self._doors.get(credential[1]) if credential else None
        if door is None or target is None:
            return None
        shown = f"[{door.host}]" if ":" in door.host else door.host
        return door if target[1].decode("latin-1").lower() == f"{shown}:{door.port}" else None

    async def _dial(self, door: Door) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to an address of the door's host that was checked just now."""
        try:
            async with asyncio.timeout(_RESOLVE_S):
                found = await self._resolve(door.host, door.port)
        except (OSError, UnicodeError) as error:
            raise StorageError(f"the host {door.host} is not known; check the location's spelling") from error
        for address in self._allow.check(door.host, door.port, found):
            with contextlib.suppress(OSError):
                async with asyncio.timeout(_CONNECT_S):
                    return await asyncio.open_connection(address, door.port, limit=_BLOCK)
        raise StorageError(f"{door.host}:{door.port} does not answer")


async def _both_ways(
    door: Door,
    here: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    there: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    """Pass bytes on until either side ends; the caller cuts both."""

    async def up() -> None:
        while block := await here[0].read(_BLOCK):
            there[1].write(block)
            await there[1].drain()

    async def down() -> None:
        while block := await there[0].read(_BLOCK):
            if not door.carry(len(block)):
                door.refusal = f"{door.host} sent more than was asked for"
                return
            here[1].write(block)
            await here[1].drain()
        # What the server said before it hung up must still reach the client.
        here[1].close()
        await here[1].wait_closed()

    tasks = [asyncio.create_task(up()), asyncio.create_task(down())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
