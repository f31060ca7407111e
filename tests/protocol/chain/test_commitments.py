"""What is committed reads back, whatever a stranger commits reads as something harmless."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from muster.protocol.chain.commitments import (
    ANCHOR_BYTES,
    CHEAP_LOCATION,
    MAX_FIELDS,
    MAX_RAW,
    MIN_SPACE,
    SPARE_WRITES,
    Commitment,
    CommitSpace,
    Room,
    blocks_a_write,
    decode,
    encode,
    from_info,
    longest_location,
    space,
    to_info,
)
from muster.protocol.errors import ChainError, RateLimited
from muster.protocol.storage import parse_location
from muster.protocol.types import MAX_LOCATION, Anchor

LOCATION = "s3://READ:SECRET@host.example/bucket"
LEGACY = "a1" * 16 + "K" * 32 + "s" * 64

locations = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=MAX_LOCATION).filter(
    lambda text: len(text) != len(LEGACY)
)
digests = st.binary(min_size=32, max_size=32)
anchors = st.builds(Anchor, st.integers(0, 2**64 - 1), digests, st.none() | digests)
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
    assert len(fields[1]) == (ANCHOR_BYTES if anchor.seal is None else ANCHOR_BYTES + 32) <= MAX_RAW
    assert ANCHOR_BYTES == 41
    (named,) = to_info(fields)["fields"]
    sizes = [(next(iter(field)), len(data)) for field, data in zip(named, fields, strict=True)]
    assert all(name == (f"Raw{size}" if size <= MAX_RAW else "BigRaw") for name, size in sizes)
    assert space(fields) == max(MIN_SPACE, len(location) + len(fields[1]))


def test_the_bytes_of_an_anchor() -> None:
    _, field = encode(Commitment("x", Anchor(258, bytes(range(32)))))
    assert field.hex() == "020201000000000000" + bytes(range(32)).hex()
    _, field = encode(Commitment("x", Anchor(258, bytes(range(32)), bytes(32))))
    assert field.hex() == "020201000000000000" + bytes(range(32)).hex() + "00" * 32


SUBNET = CommitSpace(3100, 360)
"""Bittensor's, with the epochs that subnets have."""


@pytest.mark.parametrize(
    ("location", "seal", "blocks"), [(1, False, 12), (59, False, 12), (60, False, 13), (128, False, 22), (59, True, 17)]
)
def test_how_often_a_leader_may_anchor(location: int, seal: bool, blocks: int) -> None:
    assert blocks_a_write(location, SUBNET, seal=seal) == blocks


def test_up_to_59_bytes_a_location_costs_nothing() -> None:
    """One write a round then carries rounds of 2.4 minutes on: 31 of 100 bytes in 360 blocks of 12 s, one to spare."""
    assert CHEAP_LOCATION == 59
    assert space(encode(Commitment("x" * 59, Anchor(1, bytes(32))))) == MIN_SPACE
    assert space(encode(Commitment("x" * 60, Anchor(1, bytes(32))))) == MIN_SPACE + 1


@given(st.integers(MIN_SPACE, 10_000), st.integers(1, 1000), st.integers(1, 2000), st.booleans())
def test_the_longest_location_is_the_longest(limit: int, tempo: int, every: int, seal: bool) -> None:
    room = CommitSpace(limit, tempo)

    def fits(location: int) -> bool:
        try:
            return blocks_a_write(location, room, seal=seal) <= every
        except ChainError:
            return False

    longest = longest_location(room, every, seal=seal)
    assert longest is None or fits(longest)
    beyond = 1 if longest is None else longest + 1
    assert beyond > MAX_LOCATION or not fits(beyond)


@given(st.integers(1, MAX_LOCATION), st.integers(MIN_SPACE, 10_000), st.integers(1, 1000), st.booleans())
def test_writes_so_far_apart_never_take_more_than_the_chain_gives(
    location: int, limit: int, tempo: int, seal: bool
) -> None:
    size = space(encode(Commitment("x" * location, Anchor(1, bytes(32), bytes(32) if seal else None))))
    if size * (1 + SPARE_WRITES) > limit:
        with pytest.raises(ChainError, match=f"a commitment of {size} bytes does not go 2 times into the {limit}"):
            blocks_a_write(location, CommitSpace(limit, tempo), seal=seal)
        return
    apart = blocks_a_write(location, CommitSpace(limit, tempo), seal=seal)
    assert apart >= 1
    for first in range(apart):
        needed = len(range(first, tempo, apart)) + SPARE_WRITES
        assert needed * size <= limit, "in no epoch, wherever the writes begin"
    closer = apart - 1
    assert closer == 0 or (len(range(0, tempo, closer)) + SPARE_WRITES) * size > limit, "and no closer would do"


@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(1, 1000), st.booleans())
def test_a_location_leaves_room_for_the_next_anchor(limit: int, used: int, needed: int, before_anchor: bool) -> None:
    """And where the chain sets no limit (0), anything fits."""
    room = Room(CommitSpace(limit, 360), used, 4321)

    def fits(*, before_anchor: bool) -> bool:
        try:
            room.check(needed, before_anchor=before_anchor)
        except RateLimited as refusal:
            assert f"{used} of the {limit} bytes" in str(refusal)
            assert "from about block 4321" in str(refusal)
            assert ("kept for the next anchor" in str(refusal)) == before_anchor
            return False
        except ChainError:
            assert needed > limit
            return False
        return True

    assert fits(before_anchor=False) == (not limit or used + needed <= limit)
    if fits(before_anchor=True) and limit:
        assert Room(room.space, used + needed, 4321).check(needed, before_anchor=False) is None


@given(values)
@example({"fields": ["x"]})
@example({"fields": "x"})
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
        (b"", b"\x01" + bytes(40)),
        (b"", b"\x03" + bytes(40)),
        (b"", b"\x02" + bytes(39)),
        (b"", b"\x02" + bytes(41)),
        (b"", b"\x02" + bytes(71)),
        (b"", b"\x02" + bytes(73)),
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
        (Commitment("x", Anchor(0, bytes(32), bytes(31))), "an anchor is"),
        (Commitment("x", Anchor(0, bytes(32), b"")), "an anchor is"),
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
