"""Reading what the journals in a run's folder say of one round, line by line: a run may have gigabytes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import isfinite
from pathlib import Path

from muster.history.story.facts import Told
from muster.protocol.errors import StorageError

MAX_LINE = 2**22
"""Bytes of a line; the longest a daemon writes are a validator's scores, 550 bytes for each of a run's slots."""


def read_journals(folder: Path, round_: int) -> list[Told]:
    """Everything that the journals in a folder say of a round, of who is who, and of when the round began, by time.

    Lines that are none (what a full disk left of one, longer than any we write) are passed over.

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
    of = entry.facts.get("round")
    return of == round_ or entry.event == "joined" or (entry.event == "recorded" and of == round_ - 1)


def _entries(path: Path) -> Iterator[Told]:
    with path.open("rb") as file:
        whole = True
        while line := file.readline(MAX_LINE):
            begins, whole = whole, line.endswith(b"\n")
            if not (begins and whole):
                continue
            try:
                facts = json.loads(line)
            except ValueError:
                continue
            if isinstance(facts, dict) and isinstance(time := facts.get("time"), int | float) and isfinite(time):
                yield Told(float(time), path.stem, facts)
