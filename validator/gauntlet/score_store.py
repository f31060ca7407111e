"""A validator that dies must come back with the standings it had: the score store keeps them, round by round.

One SQLite file, its columns those of `PeerState`. A round is committed whole or not at all, and never rewritten: a
validator that repeats a round after a crash either finds what it computed before or learns that something is wrong.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from muster.protocol.columns import Column, Kind, columns_of, row_of
from muster.protocol.errors import LedgerError, StorageError
from muster.protocol.incentive.row import PeerState

_FORMAT = 2
_COLUMNS = columns_of(PeerState)
_NAMES = ", ".join(column.name for column in _COLUMNS)
_TYPES = {Kind.KEY: "TEXT", Kind.COUNT: "INTEGER", Kind.NUMBER: "REAL", Kind.FLAG: "INTEGER"}

_Values = tuple[str | float | None, ...]


class ScoreStore:
    """The standings of all peers after each judged round.

    Every call opens the file anew and waits for the disk, so it may be used from any thread, but not on an
    event loop. What `commit` has returned from survives the death of the process or of the machine.
    """

    def __init__(self, path: Path) -> None:
        """Open the score store at `path`, or begin one there; columns that came later than the file are added.

        Raises:
            LedgerError: the file is not a score store, or one of another format.
            StorageError: the file cannot be opened or written.
        """
        self._path = path
        with self._open() as db:
            (found,) = db.execute("PRAGMA user_version").fetchone()
            if found not in (0, _FORMAT):
                raise LedgerError(f"the score store {path} has format {found}; this release reads format {_FORMAT}")
            db.execute("BEGIN IMMEDIATE")
            for statement in schema(_COLUMNS, {name for _, name, *_ in db.execute("PRAGMA table_info(states)")}):
                db.execute(statement)
            db.execute("COMMIT")

    def newest_round(self) -> int | None:
        """The newest round committed, None in a new store."""
        with self._open() as db:
            (newest,) = db.execute("SELECT max(round) FROM rounds").fetchone()
        return None if newest is None else int(newest)

    def states(self, round_: int) -> dict[str, PeerState]:
        """The standings after `round_`, in ascending hotkey order.

        Raises:
            LedgerError: the round was never committed, or a standing is none.
        """
        with self._open() as db:
            rows = _rows(db, round_)
        if rows is None:
            raise LedgerError(f"the score store {self._path} holds no standings of round {round_}")
        try:
            states = [_state(row) for row in rows]
        except ValueError as error:
            raise LedgerError(f"the score store {self._path} is damaged: {error}") from error
        return {state.hotkey: state for state in states}

    def commit(self, round_: int, states: Mapping[str, PeerState]) -> None:
        """Write the standings after `round_`; the same ones again are accepted and change nothing.

        Rounds that were not judged may be left out, but what lies before the newest round is closed.

        Raises:
            LedgerError: the round is committed with other standings, or a later one is committed already.
            StorageError: the store could not be written; nothing of the round was.
        """
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            known = _rows(db, round_)
            if known is not None:
                if known != [_values(states[hotkey]) for hotkey in sorted(states)]:
                    raise LedgerError(f"round {round_} is in the score store {self._path} with other standings")
                return
            (newest,) = db.execute("SELECT max(round) FROM rounds").fetchone()
            if newest is not None and newest > round_:
                raise LedgerError(f"round {round_} cannot follow round {newest} in the score store {self._path}")
            db.execute("INSERT INTO rounds VALUES (?)", (round_,))
            db.executemany(
                f"INSERT INTO states (round, {_NAMES}) VALUES (?{', ?' * len(_COLUMNS)})",  # noqa: S608
                ((round_, *_values(states[hotkey])) for hotkey in sorted(states)),
            )
            db.execute("COMMIT")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection without implicit transactions; closing it rolls back what was not committed."""
        try:
            with closing(sqlite3.connect(self._path, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous = FULL")
                yield db
        except sqlite3.OperationalError as error:
            raise StorageError(f"cannot use the score store {self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"the score store {self._path} is damaged or not a score store: {error}") from error


def schema(columns: Iterable[Column], there: set[str]) -> list[str]:
    """The statements that bring a file whose table of standings has the columns `there` (none: no table) up to these.

    Columns that an older release may not do without are never added later, so those it lacks hold no value.
    """
    types = {c.name: f"{c.name} {_TYPES[c.kind]}{'' if c.nullable else ' NOT NULL'}" for c in columns}
    if there:
        return [f"ALTER TABLE states ADD COLUMN {types[name]}" for name in types if name not in there]
    return [
        "CREATE TABLE rounds (round INTEGER PRIMARY KEY) STRICT",
        f"CREATE TABLE states (round INTEGER NOT NULL, {', '.join(types.values())}, PRIMARY KEY (round, hotkey)) "
        "STRICT, WITHOUT ROWID",
        f"PRAGMA user_version = {_FORMAT}",
    ]


def _rows(db: sqlite3.Connection, round_: int) -> list[_Values] | None:
    """The rows of a round in hotkey order, None if it was never committed (it may well be empty)."""
    if db.execute("SELECT 1 FROM rounds WHERE round = ?", (round_,)).fetchone() is None:
        return None
    return db.execute(
        f"SELECT {_NAMES} FROM states WHERE round = ? ORDER BY hotkey",  # noqa: S608
        (round_,),
    ).fetchall()


def _values(state: PeerState) -> _Values:
    return tuple(getattr(state, column.name) for column in _COLUMNS)


def _state(row: _Values) -> PeerState:
    """A standing again; SQLite gives a flag back as 0 or 1."""
    read = {c.name: bool(v) if c.kind is Kind.FLAG else v for c, v in zip(_COLUMNS, row, strict=True)}
    return row_of(PeerState, read)
