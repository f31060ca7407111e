"""What happened and when, one JSON object a line: where the view, the report and an operator's own tools read from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any


class Journal:
    """Appends events from a thread of its own, so that noting one never waits for a disk.

    A line is written whole or not at all, so a reader beside it never takes half of one for an event.
    """

    def __init__(
        self,
        path: Path | None,
        clock: Callable[[], float] = time.time,
        listener: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        """Append to `path`, or keep the events in memory only; `clock` gives unix seconds.

        `listener` is told every event, on the thread that notes it.
        """
        self._clock = clock
        self._listener = listener
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._writer: Thread | None = None
        self.events: list[dict[str, Any]] = []
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = Thread(target=self._write, args=(path,), name="journal", daemon=True)
            self._writer.start()

    def event(self, event: str, /, **facts: Any) -> None:
        """Note that something happened; facts are JSON values."""
        entry = {"time": self._clock(), "event": event, **facts}
        if self._listener is not None:
            self._listener(entry)
        if self._writer is None:
            self.events.append(entry)
        else:
            self._lines.put(json.dumps(entry, separators=(",", ":")).encode() + b"\n")

    def _write(self, path: Path) -> None:
        with path.open("ab", buffering=0) as file:
            while (line := self._lines.get()) is not None:
                file.write(line)

    def close(self) -> None:
        """Write what is left and stop."""
        if self._writer is not None:
            self._lines.put(None)
            self._writer.join()
            self._writer = None


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
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # what a full disk left of a line
        if isinstance(entry, dict):
            yield entry
