"""A validator that dies must come back with the standings it had: the score store keeps the newest round's file.

What a round comes to (ratings, shares, weights) is one signed score file, and it is written here, whole or not at all,
before anybody sees it. From then on nothing of the round is computed again: what is left to do, publishing the file and
setting the weights, is done from these bytes, by this life of the process or by a later one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from muster.protocol.errors import LedgerError, StorageError

_FORMAT = 3


class Stage(IntEnum):
    """How far a committed round is."""

    COMMITTED = 0
    PUBLISHED = 1
    DONE = 2


@dataclass(frozen=True, slots=True)
class Committed:
    """A round that has been judged for good: the digest of its record, its score file as it is signed."""

    round: int
    record: bytes
    file: bytes
    stage: Stage


class ScoreStore:
    """The newest judged round.

    Every call opens the file anew and waits for the disk, so it may be used from any thread, but not on an
    event loop. What `commit` has returned from survives the death of the process or of the machine.
    """

    def __init__(self, path: Path) -> None:
        """Open the score store at `path`, or begin one there.

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
            if not found:
                db.execute(
                    "CREATE TABLE IF NOT EXISTS rounds (round INTEGER PRIMARY KEY, record BLOB NOT NULL, "
                    "file BLOB NOT NULL, stage INTEGER NOT NULL) STRICT"
                )
                db.execute(f"PRAGMA user_version = {_FORMAT}")
            db.execute("COMMIT")

    def newest(self) -> Committed | None:
        """The newest round committed, None in a new store."""
        with self._open() as db:
            return _newest(db)

    def commit(self, round_: int, record: bytes, file: bytes) -> Committed:
        """Write a round's file, once; the same again changes nothing. What it replaces is of an earlier round.

        Raises:
            LedgerError: the round is committed with another file, or a later one is committed already.
            StorageError: the store could not be written; nothing of the round was.
        """
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            known = _newest(db)
            if known is not None and known.round == round_ and (known.record, known.file) == (record, file):
                return known
            if known is not None and known.round == round_:
                raise LedgerError(f"round {round_} is in the score store {self._path} with another file")
            if known is not None and known.round > round_:
                raise LedgerError(f"round {round_} cannot follow round {known.round} in the score store {self._path}")
            db.execute("DELETE FROM rounds")
            db.execute("INSERT INTO rounds VALUES (?, ?, ?, ?)", (round_, record, file, Stage.COMMITTED))
            db.execute("COMMIT")
            return Committed(round_, record, file, Stage.COMMITTED)

    def reached(self, round_: int, stage: Stage) -> None:
        """The newest round has come so far."""
        with self._open() as db:
            db.execute("UPDATE rounds SET stage = max(stage, ?) WHERE round = ?", (stage, round_))

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


def _newest(db: sqlite3.Connection) -> Committed | None:
    row = db.execute("SELECT round, record, file, stage FROM rounds ORDER BY round DESC LIMIT 1").fetchone()
    return None if row is None else Committed(row[0], row[1], row[2], Stage(row[3]))
