"""Records: everything a round decided comes back to the bit, and nothing comes back that was not decided."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
from builders import body_of, framed, hash32, identity, opening, reason_of, resigned
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol import wire
from muster.protocol.types import Beacon, Block
from muster.protocol.wire import (
    MAX_AMENDMENTS,
    MAX_PROOFS,
    MAX_SEALED,
    Entry,
    Kind,
    Opening,
    Record,
    ScoresUsed,
    Type,
    UsedScore,
)
from muster.protocol.wire.record import MAX_REASON
from muster.protocol.wire.tlv import OPTIONAL, counted, u8, u32

LEADER = identity("leader")
RUN = hash32("run")
TENSORS = 3
A, B = (bytes([letter]) * 32 for letter in b"ab")
RECORD = Record(
    run_id=RUN,
    leader=LEADER.public,
    round=3,
    kind=Kind.ROUND,
    parent=hash32("parent"),
    turn=1,
    seal=hash32("seal"),
    outer_step=2,
    root=hash32("root"),
    spec_digest=hash32("spec"),
    entries=(Entry(A, 3, b"head of a", ""), Entry(B, 2, b"head of b", "possession")),
    scores=(ScoresUsed(LEADER.public, 10, 2, hash32("scores"), (UsedScore(A, 0.5, True), UsedScore(B, 0.0, False))),),
    weights=np.array([[1.0, 0.5, 0.25]], dtype=np.float32),
    unmoved=(0, 2),
    bundle=hash32("bundle"),
    bundle_bytes=1234,
    checkpoint=bytes(32),
    amendments=(b"an amendment",),
    proofs=(b"a proof",),
    opening=opening(),
)
DATA = wire.encode_record(RECORD, LEADER)
(
    KIND, PARENT, TURN, SEAL, STEP, ROOT, SPEC, ENTRIES, SCORES,
    WEIGHTS, BUNDLE, BUNDLE_BYTES, CHECKPOINT, AMENDMENTS, PROOFS, OPENING, UNMOVED,
) = range(4, 21)  # fmt: skip

digests = st.binary(min_size=32, max_size=32)
u32s, u64s = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
blocks = st.builds(Block, u64s, digests)
beacons = st.builds(Beacon, blocks, digests)
reasons = st.sampled_from(["", "possession", "r" * MAX_REASON])
rows = st.builds(UsedScore, digests, st.floats(allow_nan=False), st.booleans())
openings = st.builds(
    Opening,
    round=u64s,
    open=blocks,
    min_block=u64s,
    deadline=u64s,
    anchor_by=u64s,
    expected=st.lists(digests, max_size=3).map(tuple),
    base_round=u64s,
    spec_digest=digests,
    assign=beacons,
    possess=beacons,
)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Any record whose parts fit each other; weights are any 32 bits, NaN among them."""
    entries = draw(st.lists(st.builds(Entry, digests, u64s, st.binary(max_size=20), reasons), max_size=3))
    accepted = sum(not entry.reason for entry in entries)
    bits = draw(st.lists(u32s, min_size=accepted * TENSORS, max_size=accepted * TENSORS))
    kind = draw(st.sampled_from(Kind))
    score = st.builds(ScoresUsed, digests, u64s, u64s, digests, st.lists(rows, max_size=3).map(tuple))
    return Record(
        run_id=RUN,
        leader=LEADER.public,
        round=draw(u64s),
        kind=kind,
        parent=draw(digests),
        turn=draw(u32s),
        seal=draw(digests),
        outer_step=draw(u64s),
        root=draw(digests),
        spec_digest=draw(digests),
        entries=tuple(entries),
        scores=tuple(draw(st.lists(score, max_size=2))),
        weights=np.array(bits, dtype="<u4").view("<f4").reshape(accepted, TENSORS).astype(np.float32),
        unmoved=tuple(sorted(draw(st.sets(st.integers(0, TENSORS - 1))))),
        bundle=draw(digests),
        bundle_bytes=draw(u64s),
        checkpoint=draw(digests),
        amendments=tuple(draw(st.lists(st.binary(max_size=20), max_size=2))),
        proofs=tuple(draw(st.lists(st.binary(max_size=20), max_size=2))),
        opening=None if kind is Kind.CLOSE else draw(openings),
    )


def same(left: Record, right: Record) -> bool:
    """Whether two records agree in every field, weights to the bit."""
    plain = [field.name for field in fields(Record) if field.name != "weights"]
    return (
        all(getattr(left, name) == getattr(right, name) for name in plain)
        and left.weights.shape == right.weights.shape
        and np.array_equal(left.weights.view(np.uint32), right.weights.view(np.uint32))
    )


@given(records())
def test_any_record_round_trips(record: Record) -> None:
    data = wire.encode_record(record, LEADER)
    read, digest = wire.decode_record(data, RUN, TENSORS)
    assert same(read, record)
    assert digest == wire.digest_of(data)
    assert body_of(wire.encode_record(read, LEADER)) == body_of(data)


def test_the_accepted_entries() -> None:
    assert RECORD.accepted == RECORD.entries[:1]


def changed(tag: int, value: bytes | Callable[[bytes], bytes]) -> bytes:
    """The record with another value of one field, signed again."""

    def change(values: dict[int, bytes]) -> None:
        values[tag] = value if isinstance(value, bytes) else value(values[tag])

    return resigned(DATA, LEADER, RUN, change)


def decoding(data: bytes) -> Callable[[], object]:
    """The call that decodes `data`."""
    return lambda: wire.decode_record(data, RUN, TENSORS)


@pytest.mark.parametrize("tag", [*range(1, OPENING), UNMOVED])
def test_every_field_but_the_opening_is_needed(tag: int) -> None:
    assert reason_of(decoding(resigned(DATA, LEADER, RUN, lambda f: f.pop(tag)))) == "missing_field"


@pytest.mark.parametrize(
    "tag", [KIND, PARENT, TURN, SEAL, STEP, ROOT, SPEC, WEIGHTS, BUNDLE, BUNDLE_BYTES, CHECKPOINT, OPENING]
)
def test_a_field_of_another_size(tag: int) -> None:
    assert reason_of(decoding(changed(tag, lambda value: value + b"\0"))) == "field_size"


@pytest.mark.parametrize("tag", [ENTRIES, SCORES, AMENDMENTS, PROOFS])
def test_a_nested_value_that_does_not_end_where_it_should(tag: int) -> None:
    assert reason_of(decoding(changed(tag, lambda value: value + b"\0"))) == "trailing"
    assert reason_of(decoding(changed(tag, lambda value: value[:-1]))) == "truncated"


ROW = A + struct.pack("<d", 0.5)
SCORE_HEAD = LEADER.public + bytes(8) + bytes(8) + bytes(32)


@pytest.mark.parametrize(
    ("tag", "value", "reason"),
    [
        (KIND, u8(3), "record_kind"),
        (KIND, u8(Kind.CLOSE), "record_opening"),
        (ENTRIES, u32(MAX_SEALED + 1), "too_many"),
        (ENTRIES, u32(1) + b"\xff" * 4, "truncated"),
        (ENTRIES, counted([A[:-1]]), "truncated"),
        (ENTRIES, counted([A + bytes(7)]), "truncated"),
        (ENTRIES, counted([A + bytes(8) + u8(5) + b"four"]), "truncated"),
        (ENTRIES, counted([A + bytes(8) + u8(MAX_REASON + 1) + b"r" * (MAX_REASON + 1)]), "text"),
        (ENTRIES, counted([A + bytes(8) + u8(2) + b"a\n"]), "text"),
        (SCORES, u32(MAX_SEALED + 1), "too_many"),
        (SCORES, counted([SCORE_HEAD + u32(MAX_SEALED + 1)]), "too_many"),
        (SCORES, counted([SCORE_HEAD + u32(2) + ROW + u8(1)]), "truncated"),
        (SCORES, counted([SCORE_HEAD + u32(1) + ROW + u8(4)]), "flag"),
        (SCORES, counted([SCORE_HEAD + u32(1) + ROW + u8(1) + b"\0"]), "trailing"),
        (WEIGHTS, bytes(4 * TENSORS * 2), "field_size"),
        (WEIGHTS, b"", "field_size"),
        (AMENDMENTS, u32(MAX_AMENDMENTS + 1), "too_many"),
        (PROOFS, u32(MAX_PROOFS + 1), "too_many"),
        (OPENING, bytes(100), "truncated"),
        (UNMOVED, bytes(3), "truncated"),
        (UNMOVED, u32(TENSORS), "unmoved"),
        (UNMOVED, u32(1) + u32(1), "unmoved"),
        (UNMOVED, u32(1) + u32(0), "unmoved"),
    ],
)
def test_a_value_that_is_not_one(tag: int, value: bytes, reason: str) -> None:
    assert reason_of(decoding(changed(tag, value))) == reason


def test_only_a_closing_record_has_no_opening() -> None:
    without = resigned(DATA, LEADER, RUN, lambda f: f.pop(OPENING))
    assert reason_of(decoding(without)) == "record_opening"
    closing = wire.encode_record(replace(RECORD, kind=Kind.CLOSE, opening=None), LEADER)
    assert wire.decode_record(closing, RUN, TENSORS)[0].opening is None


def test_weights_are_counted_by_the_models_tensors() -> None:
    assert reason_of(lambda: wire.decode_record(DATA, RUN, TENSORS + 1)) == "field_size"


def test_a_field_of_a_later_version() -> None:
    optional = resigned(DATA, LEADER, RUN, lambda f: f.update({OPTIONAL | 1: b"groups"}))
    critical = resigned(DATA, LEADER, RUN, lambda f: f.update({UNMOVED + 1: b"groups"}))
    record, digest = wire.decode_record(optional, RUN, TENSORS)
    assert same(record, RECORD)
    assert digest != wire.digest_of(DATA)
    assert reason_of(decoding(critical)) == "unknown_field"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (DATA[:-1], "truncated"),
        (DATA + b"\0", "trailing"),
        (resigned(DATA, identity("mallory"), RUN, lambda _: None), "signature"),
        (framed(Type.SEAL, LEADER, RUN, body_of(DATA)), "type"),
        (wire.encode_record(replace(RECORD, run_id=hash32("another run")), LEADER), "wrong_run"),
    ],
)
def test_an_object_that_is_not_a_record(data: bytes, reason: str) -> None:
    assert reason_of(decoding(data)) == reason
