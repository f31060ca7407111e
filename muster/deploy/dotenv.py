"""A settings file (NAME='value' a line), read by four programs with four ideas of what is not quoted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from muster.deploy.fault import Fault
from muster.deploy.values import judge_variable
from muster.protocol.errors import IdentityError
from muster.run.credentials import load_identity

KEY_FILES = ("hotkey", "s3-access-key", "s3-secret-key")
"""What lies in the folder KEYS."""

OTHERS_MAY = 0o077
_ASSIGNMENT = re.compile(r"^([A-Za-z_]\w*)=(.*)$")
_QUOTED = re.compile(r"^'([^']*)'$")


def parse(text: str) -> Iterator[tuple[int, str, str, bool]]:
    """Line, name, value and whether it is in single quotes, of every assignment; `name` is "" where a line is none."""
    for line, content in enumerate(text.splitlines(), start=1):
        if not content.strip() or content.lstrip().startswith("#"):
            continue
        found = _ASSIGNMENT.match(content)
        if found is None:
            yield line, "", content, False
            continue
        quoted = _QUOTED.match(found[2].rstrip())
        yield line, found[1], quoted[1] if quoted else found[2], bool(quoted)


def values(text: str) -> Mapping[str, str]:
    """The assignments by name."""
    return {name: value for _, name, value, _ in parse(text) if name}


def check(file: str, text: str, first_line: int = 1) -> Iterator[Fault]:
    """The faults of a settings file, or of one written inside another file from `first_line` on."""
    seen: set[str] = set()
    for number, name, value, quoted in parse(text):
        line = number + first_line - 1
        if not name:
            yield Fault(file, line, "unquoted", "this line is no NAME='value'", "write it so, or take it out")
            continue
        if name in seen:
            yield Fault(file, line, "twice", f"{name} is there twice", "keep one of them")
        seen.add(name)
        if not quoted:
            text = f"{name} is not in single quotes: #, $ and blanks in it mean something, and not the same to all"
            yield Fault(file, line, "unquoted", text, f"write {name}='…'")
        if not value.strip("'\""):
            yield Fault(file, line, "empty", f"{name} has no value", "give it one, or take the line out")
        for complaint in judge_variable(name, value):
            yield complaint.at(file, line)


def check_keys(file: str, text: str) -> Iterator[Fault]:
    """What is wrong with the three files in the folder that KEYS names; nothing where it is a placeholder or unset."""
    for line, name, value, _ in parse(text):
        if name != "KEYS" or not value or "/home/me/" in value:
            continue
        for key in KEY_FILES:
            path = Path(value) / key
            fix = f"make it, with mode 0600: {path}"
            if not path.is_file():
                yield Fault(file, line, "missing", f"{path} is not there", fix)
            elif path.stat().st_mode & OTHERS_MAY:
                yield Fault(file, line, "mode", f"{path} may be read by others", f"chmod 600 {path}")
            elif not path.stat().st_size:
                yield Fault(file, line, "empty", f"{path} is empty", fix)
        if (hotkey := Path(value) / KEY_FILES[0]).is_file():
            try:
                load_identity(hotkey)
            except IdentityError as error:
                yield Fault(file, line, "missing", str(error), "copy the hotkey's file there")
