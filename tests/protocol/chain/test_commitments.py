"""What is committed reads back, whatever a stranger commits reads as something harmless."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.chain.commitments import (
    ANCHOR_BYTES,
    MAX_FIELDS,
    MAX_RAW,
    MIN_SPACE,
    Commitment,
    decode,
    encode,
    from_info,
    space,
    to_info,
)
from muster.protocol.errors import ChainError
from muster.protocol.storage import parse_location
from muster.protocol.types import MAX_LOCATION, Anchor

LOCATION = "s3://READ:SECRET@host.example/bucket"
LEGACY = "a1" * 16 + "K" * 32 + "s" * 64

locations = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=MAX_LOCATION).filter(
    lambda text: len(text) != len(LEGACY)
)
anchors = st.builds(Anchor, st.integers(0, 2**64 - 1), st.binary(min_size=32, max_size=32))
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text() | st.binary() | st.from_regex(r"0x[0-9a-f]*", fullmatch=True),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["fields", "Raw5", "Raw41", "BigRaw", "None"]), inner, max_size=2)
    ),
    max_leaves=12,
)


@given(locations, st.none() | anchors)
def test_location_and_anchor_read_back_as_the_chain_shows_them(location: str, anchor: Anchor | None) -> None:
    fields = encode(Commitment(location, anchor))
    info = to_info(fields)
    assert from_info(info) == fields
    assert from_info({"fields": info["fields"][0]}) == fields, "some runtimes decode to a plain list"
    assert decode(fields) == Commitment(location, anchor)


@given(locations, anchors)
def test_the_chains_limits_are_kept(location: str, anchor: Anchor) -> None:
    fields = encode(Commitment(location, anchor))
    assert len(fields) == 2 <= MAX_FIELDS
    assert len(fields[1]) == ANCHOR_BYTES == 41
    (named,) = to_info(fields)["fields"]
    sizes = [(next(iter(field)), len(data)) for field, data in zip(named, fields, strict=True)]
    assert all(name == (f"Raw{size}" if size <= MAX_RAW else "BigRaw") for name, size in sizes)
    assert space(fields) == max(MIN_SPACE, len(location) + ANCHOR_BYTES)


def test_the_bytes_of_an_anchor() -> None:
    _, field = encode(Commitment("x", Anchor(258, bytes(range(32)))))
    assert field.hex() == "010201000000000000" + bytes(range(32)).hex()


@given(values)
def test_whatever_a_stranger_commits_reads_as_something(info: Any) -> None:
    found = decode(from_info(info))
    if found.location is not None:
        assert 0 < len(found.location.encode()) <= MAX_LOCATION


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (b"",),
        (b"\xff\xfe",),
        (b"a\nb",),
        (b"x" * (MAX_LOCATION + 1),),
        (b"", b"\x02" + bytes(40)),
        (b"", b"\x01" + bytes(39)),
        (b"", b"\x01" + bytes(41)),
    ],
)
def test_what_does_not_fit_is_absent(fields: tuple[bytes, ...]) -> None:
    assert decode(fields) == Commitment()


def test_the_form_of_existing_subnets_is_a_bucket_that_can_be_opened() -> None:
    location = decode((LEGACY.encode(),)).location
    account = "a1" * 16
    assert location == f"s3://{'K' * 32}:{'s' * 64}@{account}.r2.cloudflarestorage.com/{account}?region=auto"
    assert str(parse_location(location)) == location
    assert decode((LEGACY[:-1].encode(),)).location == LEGACY[:-1], "a character less is just a text"


@pytest.mark.parametrize(
    ("commitment", "says"),
    [
        (Commitment(), "needs the location"),
        (Commitment("x" * (MAX_LOCATION + 1)), "over 512"),
        (Commitment("\ud800"), "not valid Unicode"),
        (Commitment("x", Anchor(-1, bytes(32))), "an anchor is"),
        (Commitment("x", Anchor(2**64, bytes(32))), "an anchor is"),
        (Commitment("x", Anchor(0, bytes(31))), "an anchor is"),
    ],
)
def test_what_cannot_be_committed_is_refused(commitment: Commitment, says: str) -> None:
    with pytest.raises(ChainError, match=says):
        encode(commitment)


@pytest.mark.parametrize(
    ("field", "read"),
    [
        ({"Raw5": "0x68656c6c6f"}, b"hello"),
        ({"BigRaw": "hello"}, b"hello"),
        ({"Raw5": b"hello"}, b"hello"),
        ({"Sha256": "0x" + "00" * 32}, b""),
        ({"TimelockEncrypted": {"encrypted": "0x00"}}, b""),
        ({"Raw5": "0x6"}, b""),
        ("None", b""),
    ],
)
def test_fields_are_read_as_the_sdk_decodes_them(field: Any, read: bytes) -> None:
    assert from_info({"fields": [[field, {"Raw1": "0x41"}]]}) == (read, b"A")
