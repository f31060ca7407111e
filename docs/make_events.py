"""Writes the table of a journal's events in docs/operations.md: the page can never say what the code does not.

.venv/bin/python docs/make_events.py
"""

from __future__ import annotations

import re
from pathlib import Path

from muster.node.telemetry.events import EVENTS

PAGE = Path(__file__).with_name("operations.md")


def table() -> str:
    """The events in Markdown, in the order of their module."""
    rows = [f"| `{kind.name}` | {kind.by} | {' '.join((kind.__doc__ or '').split())} |" for kind in EVENTS.values()]
    return "\n".join(["| event | by | what happened, and its facts besides `round` |", "|---|---|---|", *rows, ""])


def main() -> None:
    """Write the page again."""
    written, found = re.subn(r"\| event \| by \|.*\n(?:\|.*\n)+", lambda _: table(), PAGE.read_text())
    assert found == 1, "the page has one table of events"
    PAGE.write_text(written)


if __name__ == "__main__":
    main()
