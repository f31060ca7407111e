"""What is wrong with a variable's value, whichever file gives it: the same judgement for YAML, units and settings."""

from __future__ import annotations

import re
from collections.abc import Iterator

from muster.deploy.fault import Complaint
from muster.run.credentials import ACCESS_KEY, SECRET_KEY
from muster.run.settings import NODE_VARIABLES, PREFIX

SETTING = re.compile(r"\bMUSTER_[A-Z0-9_]+\b")
_SECRET_NAMES = frozenset({ACCESS_KEY, SECRET_KEY})
_SEED = re.compile(r"(?<![0-9A-Za-z#/])(?:0x)?[0-9a-fA-F]{64}(?![0-9A-Za-z])")
_KEY_TEXT = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----|secretPhrase|secretSeed")
_PLACEHOLDER = re.compile(r"\bexample\.(?:org|com)\b|\bRUN_ID\b|\bREAD_KEY\b|\bREAD_SECRET\b|/home/me/")
_REFERENCE = re.compile(r"\$(?:\w+|\{\w+(?::?\?[^}]*)?\})")


def judge_variable(name: str, value: str, known: frozenset[str] = NODE_VARIABLES) -> Iterator[Complaint]:
    """What is wrong with a variable and what it is set to; its emptiness is its file's business."""
    yield from judge_name(name, known)
    if name in _SECRET_NAMES and value and not _REFERENCE.fullmatch(value):
        yield Complaint(
            "secret",
            f"{name} stands here in the clear",
            f"put it into a file of mode 0600 and name that with {name}_FILE",
        )
    yield from judge_text(value, name)


def judge_name(name: str, known: frozenset[str] = NODE_VARIABLES) -> Iterator[Complaint]:
    """A `MUSTER_*` variable that no participant knows: it would end the daemon with status 3."""
    if name.startswith(PREFIX) and name not in known:
        names = ", ".join(sorted(known))
        yield Complaint("setting", f"{name} is not a setting of a participant", f"there are: {names}")


def judge_text(text: str, name: str = "a value") -> Iterator[Complaint]:
    """Keys in the clear, and what the example had for the reader to replace."""
    if _SEED.search(text) or _KEY_TEXT.search(text):
        yield Complaint(
            "secret",
            f"{name} looks like a private key",
            "put it into a file of mode 0600 that only the machine has, and name the file",
        )
    if found := _PLACEHOLDER.search(text):
        yield Complaint(
            "placeholder", f"{name} still holds the example's {found[0]!r}", "put in your own value, or take it out"
        )
