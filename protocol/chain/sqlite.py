"""A chain for the processes of one machine, in one file, so that a local run needs no service.

Blocks come from the wall clock; extrinsics are transactions on the file (SQLite in WAL mode), in the order in
which they got the write lock. Who may write the file may rewrite history: it is trusted as the machine is
and checked only against damage. A crash of a process loses nothing; a power cut may lose the last few
transactions.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import astuple, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from muster.protocol.chain import rules
from muster.protocol.chain.base import AnchorSeen, Chain, Snapshot
from muster.protocol.chain.bell import Bell
from muster.protocol.chain.rules import Call, ChainGenesis, ChainState, Commit, Member, Register, SetWeights
from muster.protocol.chain.wall import Clock
from muster.protocol.errors import ChainError
from muster.protocol.identity import Identity
from muster.protocol.types import Anchor, Block, Origin

APPLICATION_ID = 0x4D555354
"""Marks the file as ours in SQLite's own header field ("MUST")."""

VERSION = 2
"""Layout of the tables (SQLite's `user_version`)."""

BELL = "-bell"
"""What the name of the bell beside a chain file ends with."""

NEWS_PER_BLOCK = 8
"""How often within a block what is announced is heard: who writes without end makes nobody look without end."""

BUSY_SECONDS = 30.0
"""How long a transaction waits for the others': thousands of times what one takes."""

_SCHEMA = """
CREATE TABLE genesis (
    seed INTEGER NOT NULL, slots INTEGER NOT NULL, tempo INTEGER NOT NULL, immunity INTEGER NOT NULL,
    max_validators INTEGER NOT NULL, weights_rate_limit INTEGER NOT NULL, epoch_emission INTEGER NOT NULL
) STRICT;
CREATE TABLE stakes (hotkey TEXT PRIMARY KEY, stake INTEGER NOT NULL) STRICT;
CREATE TABLE clock (block_seconds REAL NOT NULL, origin REAL NOT NULL, height INTEGER NOT NULL) STRICT;
CREATE TABLE state (height INTEGER NOT NULL, extrinsics INTEGER NOT NULL, epochs INTEGER NOT NULL) STRICT;
CREATE TABLE members (
    uid INTEGER PRIMARY KEY, hotkey TEXT NOT NULL UNIQUE, stake INTEGER NOT NULL, registered INTEGER NOT NULL,
    incentive REAL NOT NULL, emission INTEGER NOT NULL, location TEXT, weighed INTEGER
) STRICT;
CREATE TABLE weights (
    validator INTEGER NOT NULL, uid INTEGER NOT NULL, weight INTEGER NOT NULL, PRIMARY KEY (validator, uid)
) STRICT, WITHOUT ROWID;
CREATE TABLE nonces (hotkey TEXT PRIMARY KEY, nonce INTEGER NOT NULL) STRICT;
CREATE TABLE anchors (
    block INTEGER NOT NULL, idx INTEGER NOT NULL, hotkey TEXT NOT NULL, round INTEGER NOT NULL,
    digest BLOB NOT NULL CHECK (length(digest) = 32), seal BLOB CHECK (length(seal) = 32), PRIMARY KEY (block, idx)
) STRICT, WITHOUT ROWID;
CREATE INDEX anchors_by_round ON anchors (round, block, idx);
"""

T = TypeVar("T")


class SqliteChain(Chain):
    """One process's client of a chain file. Nothing is opened before the first call."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Use the chain in `path` (see `create`); `clock` gives unix seconds, `sleep` waits for some."""
        self.path = path
        self._clock = clock
        self._sleep = sleep
        self._bell = Bell(path.with_name(path.name + BELL), clock, sleep)
        self._lock = threading.Lock()
        self._open: tuple[sqlite3.Connection, ChainGenesis] | None = None
        self._closed = False

    @classmethod
    def create(
        cls,
        path: Path,
        genesis: ChainGenesis,
        *,
        block_seconds: float,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> SqliteChain:
        """Write a new chain file, whose block 0 begins now, and return a client of it.

        Not a coroutine: whoever calls it on an event loop does so through `asyncio.to_thread`.

        Raises:
            ChainError: the file exists or cannot be written, or a block is shorter than `MIN_BLOCK_SECONDS`.
        """
        started = Clock(block_seconds, clock(), 0)
        try:
            path.open("xb").close()
            path.with_name(path.name + BELL).touch()
        except OSError as error:
            raise ChainError(f"cannot create the chain file {path}: {error.strerror}") from error
        with _reported(path), closing(_connect(path)) as connection:
            _initialise(connection, genesis, started)
        return cls(path, clock=clock, sleep=sleep)

    async def origin(self) -> Origin:
        """The file's chain."""
        return await self._run(lambda _, genesis: genesis.origin)

    async def head(self) -> Block:
        """The newest block, by the wall clock."""
        return await self._run(lambda connection, genesis: genesis.block(self._tick(connection).height))

    async def final(self) -> int:
        """The head's height: this chain has one history."""
        return (await self.head()).number

    async def next_block(self, after: int) -> Block:
        """Sleep, a block at a time, until the head is beyond `after`."""
        while True:
            clock, genesis = await self._run(lambda connection, genesis: (self._tick(connection), genesis))
            if clock.height > after:
                return genesis.block(clock.height)
            await self._sleep(clock.wait(after + 1, self._clock()))

    async def news(self, after: int) -> Block:
        """Wait until the head is beyond `after`, or the bell is rung."""
        clock, genesis = await self._run(lambda connection, genesis: (self._tick(connection), genesis))
        if clock.height > after:
            return genesis.block(clock.height)
        wait, quiet = clock.wait(after + 1, self._clock()), clock.block_seconds / NEWS_PER_BLOCK
        return await (self.head() if await self._bell.heard(wait, quiet) else self.next_block(after))

    async def announce(self) -> None:
        """Ring the bell."""
        await asyncio.to_thread(self._bell.ring)

    async def block(self, number: int) -> Block:
        """The block at a height that has been reached; `ChainError` for any other."""
        return await self._run(lambda connection, genesis: self._block(connection, genesis, number))

    async def beacon(self, purpose: str, round_: int, block: int) -> bytes:
        """The seed's beacon for (`purpose`, `round_`); `ChainError` before `block`, as on a real chain."""

        def read(connection: sqlite3.Connection, genesis: ChainGenesis) -> bytes:
            self._block(connection, genesis, block)
            return genesis.beacon(purpose, round_)

        return await self._run(read)

    async def snapshot(self) -> Snapshot:
        """Everybody registered at the newest block, its epoch paid."""

        def read(connection: sqlite3.Connection, genesis: ChainGenesis) -> Snapshot:
            height, state = self._tick(connection).height, _state_now(connection)
            # Another process may have made a block since: the state's is then the newer height.
            return rules.snapshot(genesis, rules.reach(genesis, state, max(height, state.height)))

        return await self._run(read)

    async def register(self, identity: Identity) -> int:
        """Register a hotkey, or find it registered; returns its uid."""
        state = await self._submit(identity, Register())
        return rules.registered(state, identity.hotkey).uid

    async def commit(self, identity: Identity, location: str, anchor: Anchor | None = None) -> None:
        """Publish a location and maybe an anchor; every anchor stays in the history."""
        await self._submit(identity, Commit(location, anchor))

    async def anchors(self, round_: int) -> tuple[AnchorSeen, ...]:
        """All anchors ever committed for a round or a later one, in chain order."""
        if round_ > rules.MAX_INTEGER:
            return ()
        return await self._run(lambda connection, _: _read_anchors(connection, max(round_, 0)))

    async def set_weights(self, identity: Identity, weights: Mapping[int, int]) -> None:
        """Replace a validator's weights."""
        await self._submit(identity, SetWeights(tuple(sorted(weights.items()))))

    async def weights(self, hotkey: str) -> dict[int, int]:
        """The weights that a hotkey set last; none of one that is not registered."""
        return await self._run(lambda connection, _: rules.weights_of(_state_now(connection), hotkey))

    async def close(self) -> None:
        """Close the connection, after the call that is using it; later calls raise `ChainError`."""
        self._bell.close()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            if self._open:
                self._open[0].close()
                self._open = None

    async def _run(self, work: Callable[[sqlite3.Connection, ChainGenesis], T]) -> T:
        """Do `work` in a thread, on this client's one connection."""
        return await asyncio.to_thread(self._work, work)

    def _work(self, work: Callable[[sqlite3.Connection, ChainGenesis], T]) -> T:
        with self._lock, _reported(self.path):
            if self._closed:
                raise ChainError(f"the chain client of {self.path} is closed")
            return work(*self._opened())

    def _opened(self) -> tuple[sqlite3.Connection, ChainGenesis]:
        """This client's connection, opened on first use; the caller holds the lock."""
        if self._open is None:
            connection = _connect(self.path)
            try:
                self._open = connection, read_genesis(connection, self.path)
            finally:
                if self._open is None:
                    connection.close()
        return self._open

    async def _submit(self, identity: Identity, call: Call) -> ChainState:
        """Sign and apply a call in one write transaction, so that no other process can take its nonce."""

        def write(connection: sqlite3.Connection, genesis: ChainGenesis) -> ChainState:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                height = self._tick_locked(connection).height
                before = _read_state(connection)
                extrinsic = rules.sign(genesis, before, identity, call)
                after, seen = rules.apply(genesis, before, extrinsic, height)
                _write_state(connection, before, after)
                if seen:
                    _append_anchor(connection, seen)
            return after

        return await self._run(write)

    def _block(self, connection: sqlite3.Connection, genesis: ChainGenesis, number: int) -> Block:
        rules.check_reached(number, self._tick(connection).height)
        return genesis.block(number)

    def _tick(self, connection: sqlite3.Connection) -> Clock:
        """The clock now; the file is written only when the height has changed."""
        clock = read_clock(connection)
        if clock.at(self._clock()) == clock:
            return clock
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            return self._tick_locked(connection)

    def _tick_locked(self, connection: sqlite3.Connection) -> Clock:
        """The same, within a write transaction of the caller."""
        # Time is read under the write lock: of two processes, the later one never has the earlier time.
        clock = read_clock(connection).at(self._clock())
        connection.execute("UPDATE clock SET origin = ?, height = ?", (clock.origin, clock.height))
        return clock


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise ChainError(f"the chain file {path} cannot be used: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    """Open an existing file; transactions are ours to begin, and the client's lock guards the threads."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _initialise(connection: sqlite3.Connection, genesis: ChainGenesis, clock: Clock) -> None:
    """Fill an empty file, in one transaction."""
    (mode,) = _one(connection, "PRAGMA journal_mode = WAL")
    if mode != "wal":
        raise ChainError("the file system of the chain file does not support shared memory; use a local disk")
    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")
    with connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        numbers = [getattr(genesis, field.name) for field in fields(genesis) if field.name != "stakes"]
        connection.execute("INSERT INTO genesis VALUES (?, ?, ?, ?, ?, ?, ?)", numbers)
        connection.executemany("INSERT INTO stakes VALUES (?, ?)", genesis.stakes.items())
        connection.execute("INSERT INTO clock VALUES (?, ?, ?)", astuple(clock))
        connection.execute("INSERT INTO state VALUES (0, 0, 0)")


def _one(connection: sqlite3.Connection, query: str) -> tuple[Any, ...]:
    """The one row of a query; the tables' types are strict, so its values have the columns' types."""
    row: tuple[Any, ...] | None = connection.execute(query).fetchone()
    if row is None:
        raise ChainError("the chain file is damaged: a row that must be there is missing")
    return row


def read_genesis(connection: sqlite3.Connection, path: Path) -> ChainGenesis:
    """What a chain was created with; `path` is for messages.

    Raises:
        ChainError: not a chain file, or of another version.
    """
    if _one(connection, "PRAGMA application_id") != (APPLICATION_ID,):
        raise ChainError(f"{path} is not a chain file")
    (version,) = _one(connection, "PRAGMA user_version")
    if version != VERSION:
        raise ChainError(
            f"the chain file {path} has version {version}, and this Muster reads {VERSION}: use the release it was "
            "made with, or begin the run anew"
        )
    seed, *rest = _one(
        connection,
        "SELECT seed, slots, tempo, immunity, max_validators, weights_rate_limit, epoch_emission FROM genesis",
    )
    stakes = dict(connection.execute("SELECT hotkey, stake FROM stakes ORDER BY hotkey").fetchall())
    return ChainGenesis(seed, stakes, *rest)


def read_clock(connection: sqlite3.Connection) -> Clock:
    """The clock as the file has it."""
    return Clock(*_one(connection, "SELECT block_seconds, origin, height FROM clock"))


def _state_now(connection: sqlite3.Connection) -> ChainState:
    with connection:
        connection.execute("BEGIN")
        return _read_state(connection)


def _read_state(connection: sqlite3.Connection) -> ChainState:
    """The state, read within a transaction of the caller."""
    pairs = connection.execute("SELECT validator, uid, weight FROM weights ORDER BY validator, uid")
    weights = {
        validator: tuple((uid, weight) for _, uid, weight in rows)
        for validator, rows in groupby(pairs, key=lambda row: row[0])
    }
    rows = connection.execute(
        "SELECT uid, hotkey, stake, registered, incentive, emission, location, weighed FROM members ORDER BY uid"
    )
    members = tuple(replace(Member(*row), weights=weights.get(row[0], ())) for row in rows)
    if [member.uid for member in members] != list(range(len(members))):
        raise ChainError("the chain file is damaged: the uids of its members have gaps")
    nonces = dict(connection.execute("SELECT hotkey, nonce FROM nonces").fetchall())
    height, extrinsics, epochs = _one(connection, "SELECT height, extrinsics, epochs FROM state")
    return ChainState(height, extrinsics, epochs, members, nonces)


def _read_anchors(connection: sqlite3.Connection, round_: int) -> tuple[AnchorSeen, ...]:
    rows = connection.execute(
        "SELECT hotkey, round, digest, seal, block, idx FROM anchors WHERE round >= ? ORDER BY block, idx", (round_,)
    )
    return tuple(AnchorSeen(hotkey, Anchor(*anchor), block, index) for hotkey, *anchor, block, index in rows)


def _write_state(connection: sqlite3.Connection, before: ChainState, after: ChainState) -> None:
    """Write what differs between two states, within a transaction of the caller."""
    connection.execute(
        "UPDATE state SET height = ?, extrinsics = ?, epochs = ?",
        (after.height, after.extrinsics, after.epochs),
    )
    for uid, member in enumerate(after.members):
        old = before.members[uid] if uid < len(before.members) else None
        if member == old:
            continue
        connection.execute("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?, ?, ?)", astuple(member)[:-1])
        if old is None or member.weights != old.weights:
            connection.execute("DELETE FROM weights WHERE validator = ?", (uid,))
            connection.executemany("INSERT INTO weights VALUES (?, ?, ?)", [(uid, *pair) for pair in member.weights])
    changed = [pair for pair in after.nonces.items() if before.nonces.get(pair[0]) != pair[1]]
    connection.executemany("INSERT OR REPLACE INTO nonces VALUES (?, ?)", changed)


def _append_anchor(connection: sqlite3.Connection, seen: AnchorSeen) -> None:
    connection.execute(
        "INSERT INTO anchors (block, idx, hotkey, round, digest, seal) VALUES (?, ?, ?, ?, ?, ?)",
        (seen.block, seen.index, seen.hotkey, seen.anchor.round, seen.anchor.digest, seen.anchor.seal),
    )
