"""What happened and when, one JSON object a line: where the view, the report and an operator's own tools read from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from enum import Enum
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Annotated, Any, NamedTuple, cast

from pydantic import Field, TypeAdapter, ValidationError

from muster.node.telemetry.events import EVENTS, Event


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


class Journal:
    """Appends events from a thread of its own, so that noting one never waits for a disk.

    A line is written whole or not at all, so a reader beside it never takes half of one for an event.
    """

    def __init__(
        self,
        path: Path | None,
        clock: Callable[[], float] = time.time,
        listener: Callable[[Noted], None] | None = None,
    ) -> None:
        """Append to `path`, or keep the events in memory only; `clock` gives unix seconds.

        `listener` is told every event, on the thread that notes it.
        """
        self._clock = clock
        self._listener = listener
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._writer: Thread | None = None
        self.noted: list[Noted] = []
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = Thread(target=self._write, args=(path,), name="journal", daemon=True)
            self._writer.start()

    def note(self, event: Event) -> None:
        """Note that something happened, now."""
        noted = Noted(self._clock(), event)
        if self._listener is not None:
            self._listener(noted)
        if self._writer is None:
            self.noted.append(noted)
        else:
            self._lines.put(to_json(noted).encode() + b"\n")

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


class Look(NamedTuple):
    """What a look into a journal finds; `wrong` counts lines whose event is known and whose facts are not right."""

    noted: list[Noted]
    offset: int
    wrong: int


def read_journal(path: Path, offset: int = 0) -> Look:
    """The whole lines of a journal from a byte offset on, and the offset to read on from; a missing file is empty."""
    if not path.exists():
        return Look([], offset, 0)
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    noted, wrong = parse_all(whole.splitlines())
    return Look(noted, offset + len(whole), wrong)


def parse_all(lines: Iterable[bytes]) -> tuple[list[Noted], int]:
    """The events of these lines, and how many lines are `Skipped.WRONG`."""
    found = [parse(line) for line in lines]
    return [one for one in found if isinstance(one, Noted)], found.count(Skipped.WRONG)
