"""Whose turn it is to write to the chain: a line of processes that stands in a folder, and that no death holds up.

Who stands in line holds a flock on a ticket, a file whose name is its place: lane, time of arrival, a random tail. The
first living ticket may take the one lock. The kernel drops the locks of who dies, and the next in line takes its ticket
away. So the lock alone keeps two from writing at a time; tickets only say who is next.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import IntEnum
from pathlib import Path

from muster.node.lock import MAX_HOLDER_BYTES, make_private, overwrite, read_holder, try_lock
from muster.protocol.errors import DiskFailed, RateLimited

WAIT_SECONDS = 120.0
"""How long a turn is waited for: two writes ahead that are each final within 48 s on Bittensor."""

POLL_SECONDS = 0.05
"""Between two looks at the line: nothing against a block."""


class Lane(IntEnum):
    """Who goes first, however late it came."""

    ANCHOR = 0
    OTHER = 1


class Turns:
    """The line for one hotkey's writes to one chain."""

    def __init__(
        self,
        folder: Path,
        ledger: str,
        who: str,
        *,
        patience: float = WAIT_SECONDS,
        clock: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Stand in `folder`, the hotkey's, made when needed. `ledger` names the chain, `who` this process to others.

        `clock` gives unix nanoseconds, `sleep` waits for some seconds; nobody waits longer than `patience` seconds.
        """
        self._folder = folder
        self._prefix = f"{ledger}-writes"
        self._who = who
        self._patience = patience
        self._clock = clock
        self._sleep = sleep

    @asynccontextmanager
    async def turn(self, lane: Lane) -> AsyncIterator[Turn]:
        """Within, nobody else writes for this hotkey.

        Raises:
            RateLimited: the turn did not come in time.
            DiskFailed: the folder cannot be used.
        """
        turn = Turn(self._folder, self._prefix, f"{lane:d}-{self._clock():020d}-{secrets.token_hex(4)}", self._who)
        try:
            try:
                async with asyncio.timeout(self._patience):
                    while not await asyncio.to_thread(turn.come):
                        await self._sleep(POLL_SECONDS)
            except TimeoutError:
                other = await asyncio.to_thread(read_holder, turn.lock)
                raise RateLimited(
                    f"the chain was not written within {self._patience:g} s, because other writes of this hotkey came "
                    f"first (the last to begin: {other or 'unknown'}); it is to be tried again"
                ) from None
            yield turn
        finally:
            await asyncio.to_thread(turn.leave)


class Turn:
    """One place in the line, and the lock once it has come. Its methods block; `leave` may overtake `come`."""

    def __init__(self, folder: Path, prefix: str, place: str, who: str) -> None:
        self.lock = folder / f"{prefix}.lock"
        self._folder = folder
        self._tickets = f"{prefix}-*.ticket"
        self._path = folder / f"{prefix}-{place}.ticket"
        self._hidden = folder / f".{self._path.name}"
        self._who = who
        self._mutex = threading.Lock()
        self._left = False
        self._ticket: int | None = None
        self._lock: int | None = None

    def come(self) -> bool:
        """Join the line, or look at it again; True once the lock is held."""
        with self._mutex, _reported(self._folder):
            if self._left:  # whoever waited was cancelled while this call was on its way
                return False
            if self._ticket is None:
                self._join()
            if any(map(_alive, self._ahead())):
                return False
            self._lock = try_lock(self.lock, make=True)
            if self._lock is None:
                return False
            self._write(self.block())
            return True

    def leave(self) -> None:
        """Let the next one in; also where the turn has not come."""
        with self._mutex, _reported(self._folder):
            self._left = True
            handles = [handle for handle in (self._ticket, self._lock) if handle is not None]
            try:
                for path in (self._path, self._hidden) if handles else ():
                    path.unlink(missing_ok=True)
            finally:
                for handle in handles:
                    os.close(handle)
                self._ticket = self._lock = None

    def block(self) -> int:
        """The block that the last confirmed write of this hotkey was seen in; 0 if there is none."""
        assert self._lock is not None
        number = os.pread(self._lock, MAX_HOLDER_BYTES, 0).partition(b" ")[0]
        return int(number) if number.isdigit() else 0

    def confirm(self, block: int) -> None:
        """Tell the next one that a write was seen in `block`.

        Raises:
            DiskFailed: that cannot be noted.
        """
        with _reported(self._folder):
            self._write(block)

    def _join(self) -> None:
        """Show a ticket; it is locked before it has its name, or it would be taken for a dead one's."""
        make_private(self._folder)
        self._ticket = try_lock(self._hidden, make=True)
        self._hidden.rename(self._path)

    def _ahead(self) -> Iterator[Path]:
        for path in sorted(self._folder.glob(self._tickets)):
            if path >= self._path:
                return
            yield path

    def _write(self, block: int) -> None:
        assert self._lock is not None
        overwrite(self._lock, f"{block} {self._who}\n")


def _alive(ticket: Path) -> bool:
    """Whether somebody stands in line with a ticket; a dead one's is taken away."""
    try:
        handle = try_lock(ticket, make=False)
    except FileNotFoundError:
        return False
    if handle is None:
        return True
    ticket.unlink(missing_ok=True)  # names are never used twice, so it cannot be another's by now
    os.close(handle)
    return False


@contextmanager
def _reported(folder: Path) -> Iterator[None]:
    """Turn the operating system's errors into ours."""
    try:
        yield
    except OSError as error:
        raise DiskFailed(f"cannot queue writes to the chain in {folder}: {error.strerror}") from error
