"""A listener that is closed leaves no connection behind.

asyncio accepts a connection in one turn of its loop and makes its transport in the next. A server that is closed in
between (aiohttp's too) drops it: no handler hears of it, and its socket stays open until the process ends.
"""

from __future__ import annotations

import asyncio
import socket

_TURNS = 4
"""One to accept the last connection, one to make its transport, one to tell its protocol, one for its handler."""


async def stop_accepting(listener: socket.socket) -> None:
    """Return when nothing more is accepted and the handler of every connection that was has begun.

    To be awaited before the server is closed, on a loop of asyncio's own.
    """
    asyncio.get_running_loop().remove_reader(listener.fileno())
    for _ in range(_TURNS):
        await asyncio.sleep(0)
