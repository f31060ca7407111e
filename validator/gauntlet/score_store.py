"""A validator that dies must come back with the standings it had: the score store keeps the files of the last rounds.

What a record comes to (ratings, shares, weights) is one signed score file, and it is written here, whole or not at all,
before anybody sees it. From then on nothing of it is computed again: what is left to do, publishing the file and
setting the weights, is done from these bytes, by this life of the process or by a later one. Files go by the digests of
their records, so that where a record is taken back its sibling's standings follow from the round before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from muster.node.telemetry.ailments import Ailments
from muster.protocol.errors import DiskFailed, LedgerError

_FORMAT = 3

READING, WRITING = "the score store, to be read", "the score store"
"""A full disk can still be read."""


class Stage(IntEnum):
    """How far a committed round is."""

    COMMITTED = 0
    PUBLISHED = 1
    DONE = 2


@dataclass(frozen=True, slots=True)
class Committed:
    """A record that has been judged: its round, its digest, the score file as it is signed, and how far that is."""

    round: int
    record: bytes
    file: bytes
    stage: Stage


KEPT = 16
"""Rounds whose files are kept: far more than may be taken back."""


class ScoreStore:
    """The judged records of the last rounds.

    Every call opens the file anew and waits for the disk, so it may be used from any thread, but not on an
    event loop. What `commit` has returned from survives the death of the process or of the machine.
    """

    def __init__(self, path: Path, ailments: Ailments | None = None) -> None:
        """Open the score store at `path`, or begin one there; `ailments` is told when it cannot be used.

        Raises:
            LedgerError: the file is not a score store, or one of another format.
            DiskFailed: the file cannot be opened or written.
        """
        self._path = path
        self._ailments = ailments or Ailments()
        with self._open(WRITING) as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("COMMIT")

    def find(self, record: bytes) -> Committed | None:
        """What was said of the record with this digest, None where nothing was."""
        with self._open() as db:
            return _one(db, "WHERE record = ?", record)

    def newest(self, before: int) -> Committed | None:
        """What was said last of a round before this one."""
        with self._open() as db:
            return _one(db, "WHERE round < ? ORDER BY round DESC, rowid DESC LIMIT 1", before)

    def unfinished(self) -> list[Committed]:
        """What was committed and is not done with, oldest first."""
        with self._open() as db:
            rows = db.execute(f"{_SELECT} WHERE stage < ? ORDER BY round, rowid", (Stage.DONE,)).fetchall()
        return [_committed(row) for row in rows]

    def commit(self, round_: int, record: bytes, file: bytes) -> Committed:
        """Write what is said of a record, once; the same again changes nothing.

        Raises:
            LedgerError: something else has been said of it.
            DiskFailed: the store could not be written; nothing of it was.
        """
        with self._open(WRITING) as db:
            db.execute("BEGIN IMMEDIATE")
            known = _one(db, "WHERE record = ?", record)
            if known is not None:
                if known.file != file:
                    raise LedgerError(f"another file of round {round_} is in the score store {self._path}")
                return known
            db.execute("INSERT INTO files VALUES (?, ?, ?, ?)", (round_, record, file, Stage.COMMITTED))
            db.execute("DELETE FROM files WHERE round <= ?", (round_ - KEPT,))
            db.execute("COMMIT")
            return Committed(round_, record, file, Stage.COMMITTED)

    def reached(self, record: bytes, stage: Stage) -> None:
        """The file of a record has come so far."""
        with self._open(WRITING) as db:
            db.execute("UPDATE files SET stage = max(stage, ?) WHERE record = ?", (stage, record))

    @contextmanager
    def _open(self, what: str = READING) -> Iterator[sqlite3.Connection]:
        """A connection without implicit transactions; closing it rolls back what was not committed."""
        with self._ailments.writing(what), self._reported(), closing(self._connected()) as db:
            db.execute("PRAGMA synchronous = FULL")
            self._begin(db)
            yield db

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, isolation_level=None)

    def _begin(self, db: sqlite3.Connection) -> None:
        """Make the table where there is none: the file is new, or new again."""
        (found,) = db.execute("PRAGMA user_version").fetchone()
        if found not in (0, _FORMAT):
            raise LedgerError(f"the score store {self._path} has format {found}; this release reads format {_FORMAT}")
        if not found:
            db.execute("BEGIN IMMEDIATE")
            db.execute(
                "CREATE TABLE IF NOT EXISTS files (round INTEGER NOT NULL, record BLOB PRIMARY KEY, "
                "file BLOB NOT NULL, stage INTEGER NOT NULL) STRICT"
            )
            db.execute(f"PRAGMA user_version = {_FORMAT}")
            db.execute("COMMIT")

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise DiskFailed(f"cannot use the score store {self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"the score store {self._path} is damaged or not a score store: {error}") from error


_SELECT = "SELECT round, record, file, stage FROM files"


def _one(db: sqlite3.Connection, which: str, value: bytes | int) -> Committed | None:
    row = db.execute(f"{_SELECT} {which}", (value,)).fetchone()
    return None if row is None else _committed(row)


def _committed(row: tuple[int, bytes, bytes, int]) -> Committed:
    return Committed(row[0], row[1], row[2], Stage(row[3]))
