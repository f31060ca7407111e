"""Seals: a signed list in one order, each peer once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import block, body_of, hash32, identity, reason_of, resigned
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol import wire
from muster.protocol.types import Block
from muster.protocol.wire import MAX_SEALED, Seal
from muster.protocol.wire.seal import chunks
from muster.protocol.wire.tlv import OPTIONAL

LEADER = identity("leader")
RUN = hash32("run")
A, B, C = (bytes([letter]) * 32 for letter in b"abc")
SEAL = Seal(
    run_id=RUN,
    leader=LEADER.public,
    round=3,
    parent=hash32("parent"),
    turn=1,
    block=block(105),
    headers=((A, hash32("a")), (B, hash32("b"))),
)
DATA = wire.encode_seal(SEAL, LEADER)

digests = st.binary(min_size=32, max_size=32)
u64s = st.integers(0, 2**64 - 1)


@st.composite
def seals(draw: st.DrawFn) -> Seal:
    """Any seal an honest leader may make."""
    sealed = draw(st.dictionaries(digests, digests, max_size=4))
    return Seal(
        run_id=RUN,
        leader=LEADER.public,
        round=draw(u64s),
        parent=draw(digests),
        turn=draw(st.integers(0, 2**32 - 1)),
        block=Block(draw(u64s), draw(digests)),
        headers=tuple(sorted(sealed.items())),
    )


@given(seals())
def test_any_seal_round_trips(seal: Seal) -> None:
    data = wire.encode_seal(seal, LEADER)
    read, digest = wire.decode_seal(data, RUN)
    assert (read, digest) == (seal, wire.digest_of(data))
    assert body_of(wire.encode_seal(read, LEADER)) == body_of(data)


def test_who_is_sealed() -> None:
    assert [SEAL.sealed(peer) for peer in (A, B, C)] == [True, True, False]
    assert [SEAL.lists(peer, hash32("a")) for peer in (A, B, C)] == [True, False, False]


@pytest.mark.parametrize(
    "seal",
    [
        replace(SEAL, headers=SEAL.headers[::-1]),
        replace(SEAL, headers=(*SEAL.headers, SEAL.headers[1])),
        replace(SEAL, headers=(*SEAL.headers, (B, hash32("another header of b")))),
    ],
)
def test_a_seal_lists_each_peer_once_in_key_order(seal: Seal) -> None:
    assert reason_of(lambda: wire.decode_seal(wire.encode_seal(seal, LEADER), RUN)) == "seal_order"


@pytest.mark.parametrize("tag", range(4, 9))
def test_every_field_is_needed_and_has_its_size(tag: int) -> None:
    missing = resigned(DATA, LEADER, RUN, lambda fields: fields.pop(tag))
    longer = resigned(DATA, LEADER, RUN, lambda fields: fields.update({tag: fields[tag] + b"\0"}))
    assert reason_of(lambda: wire.decode_seal(missing, RUN)) == "missing_field"
    assert reason_of(lambda: wire.decode_seal(longer, RUN)) == "field_size"


def test_a_field_of_a_later_version() -> None:
    optional = resigned(DATA, LEADER, RUN, lambda fields: fields.update({OPTIONAL: b"x"}))
    critical = resigned(DATA, LEADER, RUN, lambda fields: fields.update({9: b"x"}))
    seal, digest = wire.decode_seal(optional, RUN)
    assert seal == SEAL
    assert digest != wire.digest_of(DATA)
    assert reason_of(lambda: wire.decode_seal(critical, RUN)) == "unknown_field"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (DATA[:-1], "truncated"),
        (DATA + b"\0", "trailing"),
        (resigned(DATA, identity("mallory"), RUN, lambda _: None), "signature"),
        (wire.encode_key(LEADER, RUN, 3, A, B), "type"),
        (wire.encode_seal(replace(SEAL, run_id=hash32("another run")), LEADER), "wrong_run"),
    ],
)
def test_an_object_that_is_not_a_seal(data: bytes, reason: str) -> None:
    assert reason_of(lambda: wire.decode_seal(data, RUN)) == reason


def test_a_list_has_a_largest_length() -> None:
    assert len(chunks(bytes(MAX_SEALED), 1)) == MAX_SEALED
    assert reason_of(lambda: chunks(bytes(MAX_SEALED + 1), 1)) == "field_size"


@given(st.dictionaries(digests, st.binary(max_size=50), max_size=5), st.data())
def test_what_a_leader_keeps_of_a_seal_comes_back(heads: dict[bytes, bytes], data: st.DataObject) -> None:
    written = wire.encode_sealed(DATA, heads)
    assert wire.decode_sealed(written) == (DATA, heads)
    cut = data.draw(st.integers(0, len(written) - 1))
    assert reason_of(lambda: wire.decode_sealed(written[:cut])) == "truncated"
    assert reason_of(lambda: wire.decode_sealed(written + b"x")) == "trailing"
