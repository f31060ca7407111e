"""What the annotations of a row say is what everybody reads of it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import pytest
from builders import identity, score_row
from hypothesis import given
from score_rows import rows_of

from muster.protocol.columns import MAX_COUNT, About, Column, Kind, columns_of, misfit, row_of
from muster.protocol.incentive.row import PeerState, ScoreRow


@dataclass(frozen=True)
class Toy:
    """A row with a column of each kind, in another order than that of their tags."""

    share: Annotated[float, About(9, "a part", "share", low=0, high=1)]
    name: Annotated[str, About(1, "whose it is")]
    count: Annotated[int | None, About(3, "how many")] = None
    late: Annotated[bool | None, About(20, "came later", later=True)] = None


def test_columns_come_by_tag_with_what_their_fields_say() -> None:
    assert columns_of(Toy) == (
        Column("name", Kind.KEY, False, About(1, "whose it is")),
        Column("count", Kind.COUNT, True, About(3, "how many")),
        Column("share", Kind.NUMBER, False, About(9, "a part", "share", low=0, high=1)),
        Column("late", Kind.FLAG, True, About(20, "came later", later=True)),
    )


def test_every_field_of_a_score_row_is_a_column_with_a_tag_of_its_own() -> None:
    columns = columns_of(ScoreRow)
    assert {column.name for column in columns} == {field.name for field in fields(ScoreRow)}
    assert len({column.about.tag for column in columns}) == len(columns)
    assert columns_of(PeerState) == tuple(c for c in columns if c.name in PeerState.__dataclass_fields__)
    assert columns[0].name == "hotkey"


@given(rows_of(ScoreRow))
def test_json_gives_any_row_back(row: ScoreRow) -> None:
    again = json.loads(json.dumps(asdict(row), allow_nan=False))
    assert row_of(ScoreRow, again) == row
    assert row_of(ScoreRow, {**again, "of a later release": 1}) == row


WRONG: dict[str, list[Any]] = {
    "mu": [1.5, -1.0000001, math.nan, None, 1, "0.5"],
    "rating_mu": [math.inf, -math.inf],
    "rating_sigma": [-0.1],
    "evaluated": [-1, MAX_COUNT + 1, 1.0, True, None],
    "positive": [1, None],
    "peer_score": [-1e-9, math.inf],
    "incentive": [1.1, -0.1],
    "assigned_before": [math.nan],
    "hotkey": [None, b"x"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_value_that_its_column_may_not_have_is_named(name: str, value: Any) -> None:
    values = {**asdict(score_row("alice")), name: value}
    assert misfit(ScoreRow(**values)) == f"{name} is {value!r}"
    with pytest.raises(ValueError, match=f"a ScoreRow cannot be: {name} is "):
        row_of(ScoreRow, values)


def test_the_ends_of_a_range_are_in_it() -> None:
    for changes in ({"mu": 1.0}, {"mu": -1.0}, {"incentive": 1.0, "evaluated": MAX_COUNT}, {"incentive": 0.0}):
        assert misfit(score_row("alice", **changes)) == ""


def test_a_missing_column_is_named() -> None:
    values = asdict(score_row("alice"))
    del values["peer_score"]
    with pytest.raises(ValueError, match=r"a ScoreRow lacks a column: .*peer_score"):
        row_of(ScoreRow, values)


def test_a_later_column_is_optional() -> None:
    assert row_of(Toy, {"name": identity("alice").hotkey, "share": 0.5}).late is None

    @dataclass
    class Careless:
        name: Annotated[str, About(1, "whose it is")]
        late: Annotated[int, About(2, "came later, and older files have none", later=True)]

    with pytest.raises(AssertionError, match="late"):
        columns_of(Careless)
