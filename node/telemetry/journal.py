"""What happened and when, one JSON object a line: where the view, the report and an operator's own tools read from."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from enum import Enum
from functools import cache
from pathlib import Path
from queue import Full, Queue
from threading import Event as Flag
from threading import Lock, Thread
from typing import Annotated, Any, NamedTuple, Self, cast

from pydantic import Field, TypeAdapter, ValidationError

from muster.node.telemetry import events
from muster.node.telemetry.ailments import Ailments
from muster.node.telemetry.events import EVENTS, Event
from muster.protocol.errors import DiskFailed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Noted:
    """An event and when it was noted, unix seconds."""

    time: float
    event: Event


class Skipped(Enum):
    """Why a line is passed over: an event of another release, or no event at all, or one whose facts are not right."""

    UNKNOWN = "unknown"
    CUT = "cut"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class _Line:
    """What every line has."""

    time: Annotated[float, Field(allow_inf_nan=False)]
    event: str


_LINE = TypeAdapter(_Line)


@cache
def _facts(name: str) -> TypeAdapter[Event]:
    return TypeAdapter(EVENTS[name])


def to_json(noted: Noted) -> str:
    """A line of a journal, without its end; what is not text of Unicode in it is written as "?"."""
    entry = {"time": noted.time, "event": noted.event.name, **_facts_of(noted.event)}
    text = json.dumps(entry, separators=(",", ":"), ensure_ascii=False, default=_plain)
    return text.encode("utf-8", "replace").decode()


def _facts_of(event: Event) -> dict[str, Any]:
    """An event's facts by name; those that have their default are left out."""
    kind: Any = type(event)
    usual = {field.name: field.default for field in fields(kind)}
    found: dict[str, Any] = asdict(cast(Any, event))
    return {name: fact for name, fact in found.items() if fact != usual[name]}


def _plain(value: Enum) -> Any:
    return value.value


def parse(line: bytes) -> Noted | Skipped:
    """Read a line: the facts must be of the event's types, further ones are another release's and are passed over."""
    try:
        found = _LINE.validate_json(line, strict=True)
    except ValidationError as error:
        problems = {problem["type"] for problem in error.errors(include_url=False)}
        return Skipped.CUT if problems & {"json_invalid", "dataclass_type"} else Skipped.WRONG
    if found.event not in EVENTS:
        return Skipped.UNKNOWN
    try:
        return Noted(found.time, _facts(found.event).validate_json(line, strict=True))
    except ValidationError:
        return Skipped.WRONG


MAX_WAITING = 10_000
"""Lines that wait for a disk which takes none: some megabytes; of more, the newest are lost."""

RETRY_SECONDS = 2.0
"""Between two tries to write a line."""

WHAT = "the journal"


class Journal:
    """Appends events from a thread of its own, so that noting one never waits for a disk.

    A line is written whole or not at all, so a reader beside it never takes half of one for an event. What the disk
    does not take waits, and is tried again until it does; `ailments` says so, for this and for whatever else of the
    participant cannot be written.
    """

    def __init__(
        self,
        path: Path | None,
        clock: Callable[[], float] = time.time,
        listener: Callable[[Noted], None] | None = None,
        *,
        retry: float = RETRY_SECONDS,
        most: int = MAX_WAITING,
    ) -> None:
        """Append to `path`, or keep the events in memory only; `clock` gives unix seconds.

        `listener` is told every event, on the thread that notes it.

        Raises:
            OSError: it cannot be appended to now, when somebody who can mend that has just started this.
        """
        self._clock = clock
        self._listener = listener
        self._retry = retry
        self._lines: Queue[bytes | None] = Queue(most)
        self._lost = 0
        self._counting = Lock()
        self._closing = Flag()
        self._file = _Lines(path) if path is not None else None
        self._writer: Thread | None = None
        self.ailments = Ailments(self.note)
        self.noted: list[Noted] = []
        if self._file is not None:
            self._file.open()
            self._writer = Thread(target=self._write, args=(self._file,), name="journal", daemon=True)
            self._writer.start()

    def note(self, event: Event) -> None:
        """Note that something happened, now."""
        noted = Noted(self._clock(), event)
        if self._listener is not None:
            self._listener(noted)
        if self._file is None:
            self.noted.append(noted)
            return
        try:
            self._lines.put_nowait(to_json(noted).encode() + b"\n")
        except Full:
            with self._counting:
                self._lost += 1

    def _write(self, file: _Lines) -> None:
        """In the thread: line after line, each until it is written, or the journal is closed and it cannot be."""
        with file:
            while not (self._closing.is_set() and self._lines.empty()):
                line = self._lines.get()
                if line is not None and not self._surely(file, line):
                    return
                if self._lost and not self._lines.full():
                    with self._counting:
                        lost, self._lost = self._lost, 0
                    self.note(events.LinesLost(lines=lost))

    def _surely(self, file: _Lines, line: bytes) -> bool:
        while not self._written(file, line):
            if self._closing.is_set():
                log.error("%d lines of the journal are lost", self._lines.qsize() + 1)
                return False
            self._closing.wait(self._retry)
        return True

    def _written(self, file: _Lines, line: bytes) -> bool:
        try:
            with self.ailments.writing(WHAT):
                file.append(line)
        except DiskFailed:
            return False
        except Exception as error:  # the thread's own boundary: nobody else would notice that it is gone
            log.exception("the journal cannot be written")
            self.ailments.fail(WHAT, f"{WHAT} cannot be kept on disk: {error}")
            return False
        return True

    def close(self) -> None:
        """Write what is left, as far as the disk takes it, and stop."""
        if self._writer is not None:
            self._closing.set()
            with suppress(Full):  # then there is a line, after which the writer sees that this is the end
                self._lines.put_nowait(None)
            self._writer.join()
            self._writer = None


class _Lines:
    """A file that lines are appended to, by one writer: whole ones only, and where it is looked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._torn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def open(self) -> int:
        """The file, made where there is none.

        Raises:
            OSError: it cannot be.
        """
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._torn = self._unended()
        return self._file

    def append(self, line: bytes) -> None:
        """Append a line.

        Raises:
            OSError: the disk does not take it; then none of it is in the file, or a part that is no line.
        """
        if self._file is not None and not self._stands():
            self._close()
        file = self.open()
        whole = b"\n" * self._torn + line
        before = os.fstat(file).st_size
        rest = memoryview(whole)
        try:
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError:
            if len(rest) < len(whole):
                self._torn = True
                with suppress(OSError):
                    os.ftruncate(file, before)
                    self._torn = whole[:1] == b"\n"
            raise
        self._torn = False

    def _stands(self) -> bool:
        """Whether the file is the one that has the name: it may have gone with its folder, or been moved away."""
        assert self._file is not None
        try:
            return os.path.samestat(os.fstat(self._file), self._path.stat())
        except FileNotFoundError:
            return False

    def _unended(self) -> bool:
        """Whether an earlier life was killed within a line."""
        with self._path.open("rb") as file:
            if not file.seek(0, os.SEEK_END):
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Look(NamedTuple):
    """What a look into a journal finds; `wrong` counts lines whose event is known and whose facts are not right."""

    noted: list[Noted]
    offset: int
    wrong: int


def read_journal(path: Path, offset: int = 0) -> Look:
    """The whole lines of a journal from a byte offset on, and the offset to read on from; a missing file is empty.

    One that has become shorter was begun anew, and is read from its beginning.
    """
    if not path.exists():
        return Look([], offset, 0)
    with path.open("rb") as file:
        offset = offset if offset <= os.fstat(file.fileno()).st_size else 0
        file.seek(offset)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    noted, wrong = parse_all(whole.splitlines())
    return Look(noted, offset + len(whole), wrong)


def parse_all(lines: Iterable[bytes]) -> tuple[list[Noted], int]:
    """The events of these lines, and how many lines are `Skipped.WRONG`."""
    found = [parse(line) for line in lines]
    return [one for one in found if isinstance(one, Noted)], found.count(Skipped.WRONG)
