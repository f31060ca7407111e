"""Fields: one byte string per meaning, and a named reason for every other."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from builders import field, reason_of
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.errors import WireError
from muster.protocol.wire.tlv import OPTIONAL, Cursor, Fields, counted, f64, u8, u32, u64, whole, write_fields

tags = st.integers(0, 2**16 - 1)
some_fields = st.dictionaries(tags, st.binary(max_size=40), max_size=6)


@given(some_fields)
def test_fields_round_trip_in_one_form(fields: dict[int, bytes]) -> None:
    body = write_fields(fields)
    assert body == b"".join(field(tag, fields[tag]) for tag in sorted(fields))
    read = Fields(body)
    assert {tag: read.raw(tag) for tag in fields} == fields
    read.end()


@given(st.binary(max_size=60))
def test_any_bytes_are_fields_in_canonical_form_or_have_a_reason(body: bytes) -> None:
    try:
        read = Fields(body)
    except WireError as error:
        assert error.reason in {"truncated", "field_order"}
    else:
        present = {tag: value for tag in range(2**16) if (value := read.get(tag)) is not None}
        assert write_fields(present) == body


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (field(4, b"ab")[:-1], "truncated"),
        (field(4, b"ab") + b"\x05\x00\x00", "truncated"),
        (b"\x04\x00" + b"\xff" * 4, "truncated"),
        (field(5, b"") + field(4, b""), "field_order"),
        (field(4, b"a") + field(4, b"a"), "field_order"),
        (field(OPTIONAL, b"") + field(4, b""), "field_order"),
    ],
)
def test_a_body_that_is_not_canonical(body: bytes, reason: str) -> None:
    assert reason_of(lambda: Fields(body)) == reason


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (lambda f: f.raw(9), "missing_field"),
        (lambda f: f.sized(4, 3), "field_size"),
        (lambda f: f.digest(4), "field_size"),
        (lambda f: f.u8(4), "field_size"),
        (lambda f: f.u32(4), "field_size"),
        (lambda f: f.u64(4), "field_size"),
        (lambda f: f.text(4, 1), "text"),
        (lambda f: f.text(5, 10), "text"),
        (lambda f: f.end(), "unknown_field"),
    ],
)
def test_a_field_that_is_not_what_is_wanted(read: Callable[[Fields], object], reason: str) -> None:
    body = field(4, b"ab") + field(5, b"a\n")
    assert reason_of(lambda: read(Fields(body))) == reason


def test_an_unknown_field_is_ignored_only_where_it_is_optional() -> None:
    Fields(field(OPTIONAL | 7, b"from a later version")).end()
    assert reason_of(Fields(field(7, b"")).end) == "unknown_field"


@given(st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.floats(allow_nan=False))
def test_numbers_round_trip(a: int, b: int, c: int, d: float) -> None:
    cursor = Cursor(u8(a) + u32(b) + u64(c) + f64(d))
    read = (cursor.u8(), cursor.u32(), cursor.u64(), cursor.f64())
    assert read == (a, b, c, d)
    assert math.copysign(1, read[3]) == math.copysign(1, d)
    cursor.end()


def test_numbers_are_little_endian() -> None:
    assert (u8(1), u32(1), u64(1)) == (b"\x01", b"\x01\0\0\0", b"\x01\0\0\0\0\0\0\0")
    assert f64(1.0) == b"\0\0\0\0\0\0\xf0\x3f"


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_lists_round_trip(items: list[bytes]) -> None:
    assert whole(counted(items), lambda cursor: cursor.items(8)) == items


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (u32(9) + bytes(100), "too_many"),
        (b"\xff" * 4, "too_many"),
        (u32(1) + b"\xff" * 4, "truncated"),
        (u32(1), "truncated"),
        (b"", "truncated"),
        (counted([b"a"]) + b"\0", "trailing"),
    ],
)
def test_a_list_that_lies_about_its_sizes(data: bytes, reason: str) -> None:
    assert reason_of(lambda: whole(data, lambda cursor: cursor.items(8))) == reason


def test_the_rest_of_a_value_uses_it_up() -> None:
    assert whole(b"abc", lambda cursor: (cursor.take(1), cursor.rest())) == (b"a", b"bc")
