"""Reading a chain file without touching it: a run that goes on or is over, one's own or somebody else's, on any mount.

SQLite itself cannot do that: to read a file in WAL mode it writes a `-shm` beside it, in `mode=ro` too, and with
`immutable` it misses what the log holds. So a copy in memory is read. It counts only if, while it was made, no
checkpoint wrote the file and the log did not begin anew; what writers append meanwhile ends, by SQLite's own checksums,
at the last whole transaction.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from muster.protocol.chain.rules import Call, ChainGenesis, ChainState
from muster.protocol.chain.sqlite import SqliteChain, read_clock, read_genesis
from muster.protocol.chain.wall import Clock
from muster.protocol.errors import ChainError, NotPermitted
from muster.protocol.identity import Identity

MAX_CHAIN_BYTES = 2**30
"""Cap of a chain file and of its log, each; a round adds some hundred bytes."""

COPIES = 50
"""Times a copy is tried: a checkpoint comes every thousand pages, a copy takes milliseconds."""

_HEADER_BYTES = 32
"""Of a log; its salts are in there, and new each time it begins anew."""
_BLOCK = 1 << 20
# A FIFO in somebody else's folder must not hold this thread for ever.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class SqliteChainReader(SqliteChain):
    """A client that only looks: what writes raises `NotPermitted`, and no file of the chain changes or appears."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Read the chain in `path`; `clock` and `sleep` are as in `SqliteChain`."""
        super().__init__(path, clock=clock, sleep=sleep)
        self._copied: _Mark | None = None
        self._seen: Clock | None = None

    async def announce(self) -> None:
        """Nobody: who only looks has nothing to say."""
        return

    def _opened(self) -> tuple[sqlite3.Connection, ChainGenesis]:
        """The copy, made again where the file has changed since."""
        try:
            path = self.path.resolve()  # the log lies beside the file itself, not beside a link to it
            mark = _Mark.of(path)
            if self._open is None or mark != self._copied:
                with ExitStack() as unused:
                    copy = unused.enter_context(closing(_copy(path)))
                    opened = copy, read_genesis(copy, self.path)
                    unused.pop_all()
                if self._open is not None:
                    self._open[0].close()
                self._open, self._copied = opened, mark
        except OSError as error:
            raise ChainError(f"the chain file {self.path} cannot be read: {error.strerror}") from error
        return self._open

    def _tick(self, connection: sqlite3.Connection) -> Clock:
        """The clock now; which heights this client has seen is written nowhere."""
        stored = read_clock(connection)
        known = stored if self._seen is None or stored.height >= self._seen.height else self._seen
        self._seen = known.at(self._clock())
        return self._seen

    async def _submit(self, identity: Identity, call: Call) -> ChainState:
        raise NotPermitted(
            f"{identity.hotkey} cannot {type(call).__name__.lower()}: the chain file {self.path} was opened for reading"
        )


@dataclass(frozen=True, slots=True)
class _Mark:
    """What a chain file and its log are told by: each one's inode, size and time, and the log's header."""

    file: tuple[int, int, int]
    log: tuple[int, int, int] | None
    header: bytes

    @classmethod
    def of(cls, path: Path) -> _Mark:
        file = _status(path)
        log = _log_of(path)
        with suppress(FileNotFoundError), closing(_blocks(log, _HEADER_BYTES)) as blocks:
            return cls(file, _status(log), next(blocks, b""))
        return cls(file, None, b"")

    def only_appended_to(self, later: _Mark) -> bool:
        """Whether from this look to a later one at most the log has grown."""
        logs = [look.log and look.log[0] for look in (self, later)]
        return (self.file, self.header, logs[0]) == (later.file, later.header, logs[1])


def _copy(path: Path) -> sqlite3.Connection:
    """A copy in memory of the chain file as of its newest whole transaction.

    Raises:
        ChainError: it is too large, or is written to faster than it can be copied.
        OSError, sqlite3.Error: it cannot be read.
    """
    for _ in range(COPIES):
        with tempfile.TemporaryDirectory(prefix="muster-chain-") as folder:
            copy, before = Path(folder) / "chain.sqlite", _Mark.of(path)
            # The file before its log: all that the file has by now is then in the one or the other.
            _copy_file(path, copy)
            with suppress(FileNotFoundError):
                _copy_file(_log_of(path), _log_of(copy))
            if before.only_appended_to(_Mark.of(path)):
                return _in_memory(copy)
    raise ChainError(f"the chain file {path} changes faster than it can be copied; try again")


def _in_memory(path: Path) -> sqlite3.Connection:
    """What a file and its log amount to."""
    with ExitStack() as unused:
        memory = unused.enter_context(
            closing(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False))
        )
        with closing(sqlite3.connect(path, isolation_level=None)) as file:
            file.execute("PRAGMA synchronous = OFF")  # closing it folds the log in, and nobody needs that on disk
            file.backup(memory)
        unused.pop_all()
    return memory


def _copy_file(source: Path, target: Path) -> None:
    with closing(_blocks(source, MAX_CHAIN_BYTES)) as blocks, target.open("wb") as copy:
        for block in blocks:
            copy.write(block)


def _blocks(path: Path, most: int) -> Generator[bytes, None, None]:
    """At most the first `most` bytes of a regular file, in blocks."""
    with os.fdopen(os.open(path, _FLAGS), "rb", buffering=0) as file:
        _check(path, os.fstat(file.fileno()))
        while most and (block := file.read(min(most, _BLOCK))):
            yield block
            most -= len(block)


def _status(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    _check(path, status)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ChainError(f"{path} is no regular file, so it is not a chain's")
    if status.st_size > MAX_CHAIN_BYTES:
        raise ChainError(f"{path} has {status.st_size} bytes; no chain file has more than {MAX_CHAIN_BYTES}")


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")
