"""The ways of going bad that a testnet can be asked for: their names alone, what they do stays in `muster.lab`."""

from __future__ import annotations

from collections.abc import Sequence

from muster.protocol.errors import UsageError

NAMES = (
    "desynchronised",
    "early_key",
    "garbage",
    "no_key",
    "noise",
    "resigner",
    "silent",
    "swapped",
    "wrong_key",
)
"""What `--adversary NAME=COUNT` and `python -m muster.lab.adversary NAME` take."""


def check_name(name: str) -> None:
    """Raise UsageError if there is no such adversary."""
    if name not in NAMES:
        raise UsageError(f"unknown adversary {name!r}; there are: {', '.join(NAMES)}")


def parse_adversaries(texts: Sequence[str]) -> dict[str, int]:
    """NAME=COUNT texts as a count by name; a name twice adds up.

    Raises:
        UsageError: another form, an unknown name, or a count that is not a positive number.
    """
    found: dict[str, int] = {}
    for text in texts:
        name, _, count = text.partition("=")
        check_name(name)
        if not count.isdecimal() or int(count) < 1:
            raise UsageError(f"--adversary takes NAME=COUNT with a count from 1 on, not {text!r}")
        found[name] = found.get(name, 0) + int(count)
    return found
