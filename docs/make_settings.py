"""Writes the table of settings in docs/operations.md from their one declaration (`make pages`)."""

from __future__ import annotations

import re
from pathlib import Path

from muster.run.settings import SETTINGS

PAGE = Path(__file__).parent / "operations.md"
_TABLE = re.compile(r"(<!-- settings: [^\n]* -->\n).*?(<!-- /settings -->)", re.DOTALL)


def with_table(page: str) -> str:
    """The page with its table of settings as they are declared now."""
    rows = [
        f"| `{setting.name}` | `{setting.flag}` | `{setting.variable}` | {setting.default} | {setting.meaning} |\n"
        for setting in SETTINGS.values()
    ]
    table = "| setting | flag | variable | default | meaning |\n|---|---|---|---|---|\n" + "".join(rows)
    made, count = _TABLE.subn(lambda found: found[1] + table + found[2], page)
    if count != 1:
        raise ValueError("the page has no place for the settings' table")
    return made


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
