"""Reading what the journals in a run's folder say of one round, line by line: a run may have gigabytes of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from muster.history.story.facts import Told
from muster.node.telemetry.events import Joined, Recorded
from muster.node.telemetry.journal import Noted, Skipped, parse
from muster.node.telemetry.words import some
from muster.protocol.errors import StorageError

log = logging.getLogger(__name__)

MAX_LINE = 2**22
"""Bytes of a line; the longest a daemon writes are a validator's scores, 550 bytes for each of a run's slots."""


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
    began = isinstance(entry.event, Recorded) and entry.round == round_ - 1
    return entry.round == round_ or began or isinstance(entry.event, Joined)


def _entries(path: Path) -> Iterator[Told]:
    with path.open("rb") as file:
        whole, wrong = True, 0
        while line := file.readline(MAX_LINE):
            begins, whole = whole, line.endswith(b"\n")
            if not (begins and whole):
                continue
            noted = parse(line)
            wrong += noted is Skipped.WRONG
            if isinstance(noted, Noted):
                yield Told(noted.time, path.stem, noted.event)
    if wrong:
        log.warning("%s of %s could not be read: its facts are not those of its event", some(wrong, "line"), path)
