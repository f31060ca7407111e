"""A systemd unit: the variables it sets, the files it needs, and whether it restarts what no restart cures.

Its keys and sections are `systemd-analyze verify`'s business.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from muster.deploy.fault import Fault
from muster.deploy.values import judge_variable
from muster.doctor.finding import MACHINE_STATUS
from muster.testnet.supervise import PERSON_MUST_ACT

INCURABLE = PERSON_MUST_ACT | {MACHINE_STATUS}
"""Exit statuses of Muster after which the same would only happen again, until a person has done something."""

_INSTALLED = "etc/systemd/system"
_RESTARTING = frozenset({"always", "on-failure", "on-abnormal"})
_PREFIXES = re.compile(r"^[-@:+!|]*")


@dataclass(frozen=True, slots=True)
class Entry:
    """`key = value` of a section; `line` counts from 1."""

    line: int
    section: str
    key: str
    value: str


def parse(text: str) -> list[Entry]:
    """The entries of a unit, continued lines joined."""
    found: list[Entry] = []
    section, kept, begun = "", "", 0
    for number, content in enumerate(text.splitlines(), start=1):
        stripped = content.strip()
        if not kept and (not stripped or stripped[0] in "#;"):
            continue
        if not kept and stripped.startswith("["):
            section = stripped.strip("[]")
            continue
        begun = begun or number
        if stripped.endswith("\\"):
            kept += stripped[:-1] + " "
            continue
        key, _, value = (kept + stripped).partition("=")
        found.append(Entry(begun, section, key.strip(), value.strip()))
        kept, begun = "", 0
    return found


def check(file: str, text: str) -> Iterator[Fault]:
    """The faults of a service."""
    entries = parse(text)
    root = _root(file)
    for entry in entries:
        if entry.key == "Environment":
            yield from _variables(file, entry)
        if root is not None:
            yield from _missing(file, entry, root)
    yield from _restarts(file, entries)


def variables(value: str) -> list[tuple[str, str]]:
    """The assignments of an `Environment=`; a word without "=" has no value."""
    pairs = (word.partition("=") for word in shlex.split(value))
    return [(name, text) for name, _, text in pairs]


def _variables(file: str, entry: Entry) -> Iterator[Fault]:
    try:
        found = variables(entry.value)
    except ValueError:
        yield Fault(file, entry.line, "unquoted", "a quotation mark is not closed", "close it")
        return
    for name, value in found:
        if not value:
            text = f"{name} has no value, or lost it at a blank that is not quoted"
            yield Fault(file, entry.line, "empty", text, f'write "{name}=value" in quotes')
        for complaint in judge_variable(name, value):
            yield complaint.at(file, entry.line)


def _missing(file: str, entry: Entry, root: Path) -> Iterator[Fault]:
    """Files of this machine that an installed unit cannot do without."""
    path = ""
    if entry.key == "EnvironmentFile" and not entry.value.startswith("-"):
        path = entry.value
    elif entry.key == "LoadCredential":
        path = entry.value.partition(":")[2]
    elif entry.key == "ExecStart":
        path = _PREFIXES.sub("", entry.value).split()[0]
    there = (root / path.lstrip("/")).exists() or (entry.key == "ExecStart" and Path(path).exists())
    if path.startswith("/") and "%" not in path and not there:
        yield Fault(file, entry.line, "missing", f"{path} is not there", f"make it, or correct {entry.key}")


def _restarts(file: str, entries: list[Entry]) -> Iterator[Fault]:
    restart = [entry for entry in entries if entry.key == "Restart"]
    if not restart or restart[-1].value not in _RESTARTING:
        return
    prevented = {word for entry in entries if entry.key == "RestartPreventExitStatus" for word in entry.value.split()}
    missing = sorted(INCURABLE - {int(word) for word in prevented if word.isdigit()})
    if missing:
        statuses = " ".join(str(status) for status in sorted(INCURABLE))
        text = f"it is started again after {', '.join(map(str, missing))}, which no restart cures"
        yield Fault(file, restart[-1].line, "restart", text, f"write RestartPreventExitStatus={statuses}")


def _root(file: str) -> Path | None:
    """What the paths of a unit stand below, where it is installed; None where it is not."""
    path = str(Path(file).absolute())
    root, found, _ = path.partition(_INSTALLED)
    return Path(root) if found else None
