"""The frame: sizes before anything else, one canonical body, a signature over all of it."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from blake3 import blake3
from builders import field, framed, hash32, identity, reason_of, split_fields
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.errors import WireError
from muster.protocol.wire import MAX_BODY_BYTES, PREFIX_BYTES, Type, digest_of, head_digest, read_object, read_prefix
from muster.protocol.wire.envelope import write_object
from muster.protocol.wire.tlv import OPTIONAL, u64

ALICE, BOB = identity("alice"), identity("bob")
RUN = hash32("run")
HEAD = write_object(Type.KEY, ALICE, RUN, 5, {4: b"value"})
FIELDS = ((1, RUN), (2, ALICE.public), (3, u64(5)), (4, b"value"))
BODY = b"".join(field(tag, value) for tag, value in FIELDS)


def test_a_head_is_what_the_layout_says() -> None:
    assert HEAD[:PREFIX_BYTES] == b"MSTR\x02\x02\0\0" + len(BODY).to_bytes(4, "little")
    assert HEAD[PREFIX_BYTES:-64] == BODY
    assert len(HEAD) == PREFIX_BYTES + len(BODY) + 64


def test_a_head_round_trips() -> None:
    envelope = read_object(HEAD, Type.KEY, RUN)
    assert (envelope.type, envelope.run_id, envelope.signer, envelope.round) == (Type.KEY, RUN, ALICE.public, 5)
    assert envelope.hotkey == ALICE.hotkey
    assert envelope.fields.raw(4) == b"value"
    assert envelope.digest == digest_of(HEAD) == blake3(b"muster/key/v2" + BODY).digest()


def test_the_digest_does_not_cover_the_signature() -> None:
    again = write_object(Type.KEY, ALICE, RUN, 5, {4: b"value"})
    assert again[-64:] != HEAD[-64:]
    assert digest_of(again) == digest_of(HEAD)


@given(st.integers(0, 8 * len(framed(Type.HEAD, ALICE, RUN, BODY)) - 1))
def test_the_digest_of_a_head_covers_every_bit_of_it(bit: int) -> None:
    head = framed(Type.HEAD, ALICE, RUN, BODY)
    flipped = bytearray(head)
    flipped[bit // 8] ^= 1 << bit % 8
    assert digest_of(head) == head_digest(head) == blake3(b"muster/head/v2" + head).digest()
    assert head_digest(bytes(flipped)) != head_digest(head)


def test_the_digest_tells_types_apart() -> None:
    assert digest_of(framed(Type.SEAL, ALICE, RUN, BODY)) != digest_of(HEAD)


PREFIX = HEAD[:PREFIX_BYTES]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (PREFIX[:-1], "truncated"),
        (b"mSTR" + PREFIX[4:], "magic"),
        (b"MSTR\x01" + PREFIX[5:], "format"),
        (b"MSTR\x03" + PREFIX[5:], "format"),
        (b"MSTR\x02\x01" + PREFIX[6:], "type"),
        (b"MSTR\x02\xff" + PREFIX[6:], "type"),
        (b"MSTR\x02\x02\x01\0" + PREFIX[8:], "reserved"),
        (b"MSTR\x02\x02\0\x01" + PREFIX[8:], "reserved"),
        (PREFIX[:8] + (MAX_BODY_BYTES + 1).to_bytes(4, "little") + PREFIX[12:], "body_size"),
        (PREFIX[:8] + b"\xff" * 4 + PREFIX[12:], "body_size"),
    ],
)
def test_a_prefix_that_is_not_one(data: bytes, reason: str) -> None:
    assert reason_of(lambda: read_prefix(data, Type.KEY)) == reason
    assert reason_of(lambda: read_object(data, Type.KEY, RUN)) == reason


def test_sizes_of_a_prefix() -> None:
    prefix = read_prefix(PREFIX, Type.KEY)
    assert (prefix.body, prefix.total_bytes) == (len(BODY), len(HEAD))


def test_an_object_of_the_first_format_is_refused_in_one_sentence() -> None:
    """Its prefix was eight bytes longer, and begins as this one does."""
    old = struct.pack("<4sBBHIQ", b"MSTR", 1, Type.KEY, 0, len(BODY), 0) + BODY + bytes(64)
    with pytest.raises(WireError, match=r"^format: format 1; this release reads 2$"):
        read_object(old, Type.KEY, RUN)


@pytest.mark.parametrize("declared", [2**32 - 1, MAX_BODY_BYTES])
def test_a_declared_size_takes_no_memory(declared: int) -> None:
    data = PREFIX[:8] + declared.to_bytes(4, "little") + PREFIX[12:]
    tracemalloc.start()
    try:
        assert reason_of(lambda: read_object(data, Type.KEY, RUN)) in {"body_size", "truncated"}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def rebuilt(*fields: tuple[int, bytes]) -> bytes:
    """A properly signed object of these fields in this order."""
    return framed(Type.KEY, ALICE, RUN, b"".join(field(tag, value) for tag, value in fields))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (HEAD[:-1], "truncated"),
        (HEAD + b"\0", "trailing"),
        (rebuilt(*FIELDS[1:]), "missing_field"),
        (rebuilt(FIELDS[0], *FIELDS[2:]), "missing_field"),
        (rebuilt(*FIELDS[:2]), "missing_field"),
        (rebuilt((1, RUN[1:]), *FIELDS[1:]), "field_size"),
        (rebuilt(FIELDS[0], (2, b""), *FIELDS[2:]), "field_size"),
        (rebuilt(*FIELDS[:2], (3, u64(5) + b"\0")), "field_size"),
        (rebuilt(FIELDS[1], FIELDS[0], *FIELDS[2:]), "field_order"),
        (rebuilt(*FIELDS, FIELDS[3]), "field_order"),
        (rebuilt((1, hash32("another run")), *FIELDS[1:]), "wrong_run"),
        (rebuilt(FIELDS[0], (2, BOB.public), *FIELDS[2:]), "signature"),
        (framed(Type.KEY, BOB, RUN, BODY), "signature"),
        (framed(Type.KEY, ALICE, hash32("another run"), BODY), "signature"),
        (HEAD[:PREFIX_BYTES] + framed(Type.SEAL, ALICE, RUN, BODY)[PREFIX_BYTES:], "signature"),
        (HEAD[:-64] + bytes(64), "signature"),
        (rebuilt(FIELDS[0], (2, b"\xff" * 32), *FIELDS[2:]), "signature"),
    ],
)
def test_a_head_that_is_not_one(data: bytes, reason: str) -> None:
    assert reason_of(lambda: read_object(data, Type.KEY, RUN)) == reason


@given(st.integers(0, 64 * 8 - 1))
def test_no_bit_of_a_signature_may_change(bit: int) -> None:
    data = bytearray(HEAD)
    data[len(HEAD) - 64 + bit // 8] ^= 1 << bit % 8
    assert reason_of(lambda: read_object(bytes(data), Type.KEY, RUN)) == "signature"


@given(st.binary(max_size=30))
def test_an_optional_field_is_signed_though_nobody_knows_it(value: bytes) -> None:
    data = rebuilt(*FIELDS, (OPTIONAL | 1, value + b"!"))
    envelope = read_object(data, Type.KEY, RUN)
    envelope.fields.raw(4)
    envelope.fields.end()
    assert envelope.digest != digest_of(HEAD)
    changed = data[:-65] + b"?" + data[-64:]
    assert reason_of(lambda: read_object(changed, Type.KEY, RUN)) == "signature"


@given(
    st.sampled_from(Type),
    st.integers(0, 2**64 - 1),
    st.dictionaries(st.integers(4, 2**16 - 1), st.binary(max_size=30), max_size=5),
)
def test_any_fields_round_trip_in_one_form(kind: Type, round_: int, fields: dict[int, bytes]) -> None:
    data = write_object(kind, BOB, RUN, round_, fields)
    envelope = read_object(data, kind, RUN)
    assert envelope.round == round_
    assert dict(split_fields(data[PREFIX_BYTES:-64])) == {1: RUN, 2: BOB.public, 3: u64(round_), **fields}
    assert write_object(kind, BOB, RUN, round_, {t: envelope.fields.raw(t) for t in fields})[:-64] == data[:-64]
