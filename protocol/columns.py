"""A row is declared once, as a flat dataclass: the annotations of its fields say all that others must know of a column.

The score file, the score store, the journal, the metrics and the report go by `columns_of`, so that a column more is a
field more, and no list of columns stands anywhere else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache
from types import NoneType
from typing import Any, ClassVar, Protocol, TypeVar, get_args, get_type_hints

MAX_COUNT = 2**32 - 1
"""Counts are 32-bit on the wire."""


SLUG_BYTES = 32
"""What a slug takes on the wire, padded with zeros."""

_SLUG = re.compile(rf"[a-z_]{{0,{SLUG_BYTES}}}", re.ASCII)


class Kind(Enum):
    """What the values of a column are, by the type of its field; of texts, keys are hotkeys, and slugs say so."""

    KEY = str
    SLUG = "slug"
    COUNT = int
    NUMBER = float
    FLAG = bool


@dataclass(frozen=True, slots=True)
class About:
    """What the annotation of a field says of its column, beside the type.

    `tag` is its number on the wire, for ever. Values lie in `low` … `high`, and are finite. `title` is its heading
    where a table shows it, "" where none does; `unit` is "" for a plain number and "share" for a part of 1. A column
    that came `later` may be absent from files and stores older than it: its field is optional and None by default. A
    `slug` is a name that does not change, of small letters and underscores, "" for none.
    """

    tag: int
    meaning: str
    unit: str = ""
    title: str = ""
    low: float = -math.inf
    high: float = math.inf
    later: bool = False
    slug: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a row type; `nullable` ones have rows without a value."""

    name: str
    kind: Kind
    nullable: bool
    about: About

    def admits(self, value: object) -> bool:
        """Whether a field may have this value."""
        if value is None:
            return self.nullable
        if self.kind is Kind.SLUG:
            return type(value) is str and _SLUG.fullmatch(value) is not None
        if type(value) is not self.kind.value:
            return False
        if isinstance(value, float):
            return math.isfinite(value) and self.about.low <= value <= self.about.high
        return self.kind is not Kind.COUNT or (isinstance(value, int) and 0 <= value <= MAX_COUNT)


class Row(Protocol):
    """An instance of a flat dataclass, each field of it annotated with its type and an `About`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


R = TypeVar("R", bound=Row)


@cache
def columns_of(row: type[Row]) -> tuple[Column, ...]:
    """The columns of a row type, ascending by tag: the key's comes first."""
    hints = get_type_hints(row, include_extras=True)
    columns = []
    for field in fields(row):
        annotation, about = get_args(hints[field.name])
        types = get_args(annotation) or (annotation,)
        (type_,) = (one for one in types if one is not NoneType)
        kind = Kind.SLUG if about.slug else Kind(type_)
        assert not about.later or (NoneType in types and field.default is None), field.name
        columns.append(Column(field.name, kind, NoneType in types, about))
    columns.sort(key=lambda column: column.about.tag)
    assert [column.kind for column in columns].index(Kind.KEY) == 0, "rows go by their key"
    return tuple(columns)


def misfit(row: Row) -> str:
    """Which column of a row has a value that it may not have, and which; "" where all are well."""
    for column in columns_of(type(row)):
        value = getattr(row, column.name)
        if not column.admits(value):
            return f"{column.name} is {value!r}"
    return ""


def row_of(kind: type[R], values: Mapping[str, Any]) -> R:
    """A row from its values by name, as `dataclasses.asdict` and JSON give them.

    Names of columns that came after this release are skipped.

    Raises:
        ValueError: a column is missing, or has a value that it may not have.
    """
    known = {column.name for column in columns_of(kind)}
    try:
        row = kind(**{name: value for name, value in values.items() if name in known})
    except TypeError as error:
        raise ValueError(f"a {kind.__name__} lacks a column: {error}") from error
    if wrong := misfit(row):
        raise ValueError(f"a {kind.__name__} cannot be: {wrong}")
    return row
