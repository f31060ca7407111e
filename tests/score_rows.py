"""Hypothesis strategies for rows: any value that a column may have, whatever columns there are."""

from __future__ import annotations

from typing import Any, TypeVar

from hypothesis import strategies as st

from muster.protocol.columns import MAX_COUNT, Column, Kind, Row, columns_of
from muster.protocol.identity import hotkey_of

R = TypeVar("R", bound=Row)

KEYS = st.binary(min_size=32, max_size=32).map(hotkey_of)


def values_of(column: Column) -> st.SearchStrategy[Any]:
    """Every value that a column admits."""
    low, high = (None if abs(bound) == float("inf") else bound for bound in (column.about.low, column.about.high))
    values: dict[Kind, st.SearchStrategy[Any]] = {
        Kind.KEY: KEYS,
        Kind.SLUG: st.from_regex(r"\A[a-z_]{0,32}\Z"),
        Kind.COUNT: st.integers(0, MAX_COUNT),
        Kind.NUMBER: st.floats(low, high, allow_nan=False, allow_infinity=False),
        Kind.FLAG: st.booleans(),
    }
    return st.none() | values[column.kind] if column.nullable else values[column.kind]


def rows_of(kind: type[R]) -> st.SearchStrategy[R]:
    """Any row of a type."""
    return st.builds(kind, **{column.name: values_of(column) for column in columns_of(kind)})
