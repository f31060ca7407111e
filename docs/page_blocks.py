"""The generated blocks of docs/protocol.md: vectors, and the tables of reasons, of a score row's columns, and of what
makes a spec valid."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import spec_table
from vector_files import Section, place_of

from muster.protocol.columns import SLUG_BYTES, Column, Kind, columns_of
from muster.protocol.incentive.row import ScoreRow
from muster.protocol.reasons import LEADERS_WORD, REASONS

PAGE = Path(__file__).with_name("protocol.md")

SHOWN = 200
"""Characters of a value that the page quotes; a longer one stands in its file only."""


def quoted(page: str, sections: dict[str, Section]) -> str:
    """The page with each block between `<!-- … -->` and `<!-- end -->` written again."""

    def vectors(match: re.Match[str]) -> str:
        file = f"tests/vectors/{place_of(match['name']).name}"
        lines = "\n".join((f"# {file}", *_lines(sections[match["name"]])))
        return f"<!-- vectors: {match['name']} -->\n```\n{lines}\n```\n<!-- end -->"

    page = re.sub(r"<!-- vectors: (?P<name>\w+) -->.*?<!-- end -->", vectors, page, flags=re.DOTALL)
    for name, table in (("reasons", _reasons()), ("columns", _columns()), ("spec fields", spec_table.table())):
        page = _replaced(page, name, table)
    return page


def _replaced(page: str, name: str, table: str) -> str:
    block = f"<!-- {name} -->\n{table}\n<!-- end -->"
    return re.sub(rf"<!-- {name} -->.*?<!-- end -->", lambda _: block, page, flags=re.DOTALL)


def _reasons() -> str:
    """The table of reasons."""
    rows = ["| reason | class | what is wrong |", "|---|---|---|"]
    for reason in REASONS.values():
        word = " †" if reason.slug in LEADERS_WORD else ""
        rows.append(f"| `{reason.slug}` | {reason.kind.value}{word} | {reason.sentence} |")
    return "\n".join(rows)


def _columns() -> str:
    """The table of a score row's columns."""
    sizes = {Kind.KEY: 32, Kind.SLUG: SLUG_BYTES, Kind.COUNT: 4, Kind.NUMBER: 8, Kind.FLAG: 1}
    kinds = {Kind.SLUG: "text", Kind.COUNT: "u32", Kind.NUMBER: "f64", Kind.FLAG: "u8, "}
    rows = ["| tag | size | column | of each row |", "|---|---|---|---|"]
    for column in columns_of(ScoreRow):
        size, kind = sizes[column.kind], kinds.get(column.kind, "")
        many = f"{size}·" if size > 1 else ""
        long = f"n + {many}m" if column.nullable else f"{many}n"
        tag = f"0x8000 + {column.about.tag}" if column.about.later else column.about.tag
        told = f"{column.about.meaning}, {kind}{_range(column)}" if kind else column.about.meaning
        rows.append(f"| {tag} | {long} | `{column.name}` | {told} |")
    return "\n".join(rows)


def _range(column: Column) -> str:
    """Unit and range of a column's values."""
    low, high = column.about.low, column.about.high
    if column.kind is Kind.SLUG:
        return ""
    if column.kind is Kind.FLAG:
        return "0 or 1"
    unit = f", {column.about.unit}" if column.about.unit == "nat/token" else ""
    if math.isfinite(high):
        return f"{unit}, {low:g} to {high:g}".replace("-", "−")
    return f"{unit}, ≥ {low:g}" if math.isfinite(low) else unit


def _lines(section: dict[str, Any]) -> Iterator[str]:
    for name, value in section.items():
        text = value if isinstance(value, str) else json.dumps(value)
        yield f"{name} = {text if len(text) <= SHOWN else f'{text[:64]}… ({len(text)} characters)'}"
