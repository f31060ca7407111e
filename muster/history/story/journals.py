"""Reading what the journals in a run's folder say of one round, line by line: a run may have gigabytes of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from muster.history.story.facts import Told
from muster.node.telemetry.events import Joined, Recorded
from muster.node.telemetry.journal import Noted, parse
from muster.protocol.errors import StorageError

MAX_LINE = 2**22
"""Bytes of a line; the longest a daemon writes are a validator's scores, 500 bytes for each of a run's slots."""


def read_journals(folder: Path, round_: int) -> list[Told]:
    """Everything that the journals in a folder say of a round, of who is who, and of when the round began, by time.

    Lines that are none of this release's (cut by a full disk, longer than any we write, not known) are passed over.

    Raises:
        StorageError: a journal cannot be read.
    """
    told: list[Told] = []
    for path in sorted(folder.glob("*.jsonl")):
        try:
            told += (entry for entry in _entries(path) if _concerns(entry, round_))
        except OSError as error:
            raise StorageError(f"the journal {path} cannot be read: {error.strerror or error}") from error
    return sorted(told, key=lambda entry: entry.time)


def _concerns(entry: Told, round_: int) -> bool:
    match entry.event:
        case Joined():
            return True
        case Recorded(round=of) if of == round_ - 1:
            return True
    return entry.round == round_


def _entries(path: Path) -> Iterator[Told]:
    with path.open("rb") as file:
        whole = True
        while line := file.readline(MAX_LINE):
            begins, whole = whole, line.endswith(b"\n")
            if not (begins and whole):
                continue
            noted = parse(line)
            if isinstance(noted, Noted):
                yield Told(noted.time, path.stem, noted.event)
