"""Amendments: a signed path and value, in printable text of bounded length."""

from __future__ import annotations

import pytest
from builders import body_of, hash32, identity, reason_of, resigned
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol import wire
from muster.protocol.wire import Amendment
from muster.protocol.wire.amendment import MAX_PATH, MAX_VALUE
from muster.protocol.wire.tlv import OPTIONAL

OWNER = identity("owner")
RUN = hash32("run")
DATA = wire.encode_amendment(OWNER, RUN, 1, 9, "sparse.k", "32")

printable = st.characters(min_codepoint=32, max_codepoint=126)


numbers = st.integers(0, 2**64 - 1)


@given(numbers, numbers, st.text(printable, max_size=MAX_PATH), st.text(printable, max_size=200))
def test_any_amendment_round_trips(number: int, round_: int, path: str, value: str) -> None:
    data = wire.encode_amendment(OWNER, RUN, number, round_, path, value)
    read = wire.decode_amendment(data, RUN)
    assert read == Amendment(number, round_, path, value, OWNER.public)
    again = wire.encode_amendment(OWNER, RUN, read.number, read.round, read.path, read.value)
    assert body_of(again) == body_of(data)


def test_the_longest_texts_pass() -> None:
    read = wire.decode_amendment(wire.encode_amendment(OWNER, RUN, 1, 9, "p" * MAX_PATH, "1" * MAX_VALUE), RUN)
    assert (len(read.path), len(read.value)) == (MAX_PATH, MAX_VALUE)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (wire.encode_amendment(OWNER, RUN, 1, 9, "p" * (MAX_PATH + 1), "32"), "text"),
        (wire.encode_amendment(OWNER, RUN, 1, 9, "sparse.k", "1" * (MAX_VALUE + 1)), "text"),
        (wire.encode_amendment(OWNER, RUN, 1, 9, "sparse.k\n", "32"), "text"),
        (wire.encode_amendment(OWNER, RUN, 1, 9, "sparse.k", "\x7f"), "text"),
        (resigned(DATA, OWNER, RUN, lambda fields: fields.update({5: "½".encode()})), "text"),
        (resigned(DATA, OWNER, RUN, lambda fields: fields.pop(4)), "missing_field"),
        (resigned(DATA, OWNER, RUN, lambda fields: fields.pop(5)), "missing_field"),
        (resigned(DATA, OWNER, RUN, lambda fields: fields.pop(6)), "missing_field"),
        (resigned(DATA, OWNER, RUN, lambda fields: fields.update({6: bytes(7)})), "field_size"),
        (resigned(DATA, OWNER, RUN, lambda fields: fields.update({7: b""})), "unknown_field"),
        (resigned(DATA, identity("mallory"), RUN, lambda _: None), "signature"),
        (wire.encode_amendment(OWNER, hash32("another run"), 1, 9, "sparse.k", "32"), "wrong_run"),
        (wire.encode_key(OWNER, RUN, 9, bytes(32), bytes(32)), "type"),
        (DATA[:-1], "truncated"),
        (DATA + b"\0", "trailing"),
    ],
)
def test_an_object_that_is_not_an_amendment(data: bytes, reason: str) -> None:
    assert reason_of(lambda: wire.decode_amendment(data, RUN)) == reason


def test_a_field_of_a_later_version() -> None:
    data = resigned(DATA, OWNER, RUN, lambda fields: fields.update({OPTIONAL | 7: b"why"}))
    assert wire.decode_amendment(data, RUN) == wire.decode_amendment(DATA, RUN)
    assert wire.digest_of(data) != wire.digest_of(DATA)
