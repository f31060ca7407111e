"""A validator that dies must come back with the standings it had: the book keeps them, round by round.

One SQLite file. A round is committed whole or not at all, and never rewritten: a validator that repeats a
round after a crash either finds what it computed before or learns that something is wrong.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from muster.protocol.errors import LedgerError, StorageError
from muster.protocol.incentive.rating import Rating
from muster.protocol.incentive.score import PeerState

_FORMAT = 1
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS rounds (round INTEGER PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS states (
    round INTEGER NOT NULL,
    hotkey TEXT NOT NULL,
    mu REAL NOT NULL,
    rating_mu REAL NOT NULL,
    rating_sigma REAL NOT NULL,
    evaluated INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    inactive INTEGER NOT NULL,
    last_score REAL,
    positive INTEGER NOT NULL,
    PRIMARY KEY (round, hotkey)
) STRICT, WITHOUT ROWID;
PRAGMA user_version = {_FORMAT};
COMMIT;
"""

_Row = tuple[str, float, float, float, int, int, int, float | None, int]


class Book:
    """The standings of all peers after each judged round.

    Every call opens the file anew and waits for the disk, so it may be used from any thread, but not on an
    event loop. What `commit` has returned from survives the death of the process or of the machine.
    """

    def __init__(self, path: Path) -> None:
        """Open the book at `path`, or begin one there.

        Raises:
            LedgerError: the file is not a book, or one of a newer format.
            StorageError: the file cannot be opened or written.
        """
        self._path = path
        with self._open() as db:
            (found,) = db.execute("PRAGMA user_version").fetchone()
            if found not in (0, _FORMAT):
                raise LedgerError(f"the book {path} has format {found}; this release reads format {_FORMAT}")
            if found == 0:
                db.executescript(_SCHEMA)

    def newest_round(self) -> int | None:
        """The newest round committed, None in a new book."""
        with self._open() as db:
            (newest,) = db.execute("SELECT max(round) FROM rounds").fetchone()
        return None if newest is None else int(newest)

    def states(self, round_: int) -> dict[str, PeerState]:
        """The standings after `round_`, in ascending hotkey order.

        Raises:
            LedgerError: the round was never committed.
        """
        with self._open() as db:
            rows = _rows(db, round_)
        if rows is None:
            raise LedgerError(f"the book {self._path} holds no standings of round {round_}")
        return {row[0]: _state(row) for row in rows}

    def commit(self, round_: int, states: Mapping[str, PeerState]) -> None:
        """Write the standings after `round_`; the same ones again are accepted and change nothing.

        Rounds that were not judged may be left out, but what lies before the newest round is closed.

        Raises:
            LedgerError: the round is committed with other standings, or a later one is committed already.
            StorageError: the book could not be written; nothing of the round was.
        """
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            known = _rows(db, round_)
            if known is not None:
                if known != [_row(states[hotkey]) for hotkey in sorted(states)]:
                    raise LedgerError(f"round {round_} is in the book {self._path} with other standings")
                return
            (newest,) = db.execute("SELECT max(round) FROM rounds").fetchone()
            if newest is not None and newest > round_:
                raise LedgerError(f"round {round_} cannot follow round {newest} in the book {self._path}")
            db.execute("INSERT INTO rounds VALUES (?)", (round_,))
            db.executemany(
                "INSERT INTO states VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ((round_, *_row(states[hotkey])) for hotkey in sorted(states)),
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
            raise StorageError(f"cannot use the book {self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"the book {self._path} is damaged or not a book: {error}") from error


def _rows(db: sqlite3.Connection, round_: int) -> list[_Row] | None:
    """The rows of a round in hotkey order, None if it was never committed (it may well be empty)."""
    if db.execute("SELECT 1 FROM rounds WHERE round = ?", (round_,)).fetchone() is None:
        return None
    return db.execute(
        "SELECT hotkey, mu, rating_mu, rating_sigma, evaluated, failures, inactive, last_score, positive "
        "FROM states WHERE round = ? ORDER BY hotkey",
        (round_,),
    ).fetchall()


def _row(state: PeerState) -> _Row:
    return (
        state.hotkey,
        state.mu,
        state.rating.mu,
        state.rating.sigma,
        state.evaluated,
        state.failures,
        state.inactive,
        state.last_score,
        int(state.positive),
    )


def _state(row: _Row) -> PeerState:
    hotkey, mu, rating_mu, rating_sigma, evaluated, failures, inactive, last_score, positive = row
    return PeerState(
        hotkey=hotkey,
        mu=mu,
        rating=Rating(rating_mu, rating_sigma),
        evaluated=evaluated,
        failures=failures,
        inactive=inactive,
        last_score=last_score,
        positive=bool(positive),
    )
