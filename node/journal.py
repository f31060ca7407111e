"""What happened and when, one JSON object a line: where the view, the report and an operator's own tools read from."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class Journal:
    """Appends events; a line is written whole or not at all, so a reader beside it never sees half of one."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        """Append to `path`, or keep the events in memory only; `clock` gives unix seconds."""
        self._clock = clock
        self._file: int | None = None
        self.events: list[dict[str, Any]] = []
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def event(self, event: str, /, **facts: Any) -> None:
        """Note that something happened; facts are JSON values."""
        entry = {"time": self._clock(), "event": event, **facts}
        if self._file is None:
            self.events.append(entry)
        else:
            os.write(self._file, json.dumps(entry, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read_journal(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a journal from a byte offset on, and the offset to read on from; a missing file is empty."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    return list(_entries(whole)), offset + len(whole)


def _entries(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        entry = json.loads(line)
        if isinstance(entry, dict):
            yield entry
