"""Keys: they open a payload, answer one seal, and nothing else goes by their name."""

from __future__ import annotations

import pytest
from builders import NO_SEAL, body_of, hash32, identity, payload_key, reason_of, resigned, round_facts, submission
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol import wire
from muster.protocol.rules.admission import MAX_KEY_BYTES
from muster.protocol.wire import Key
from muster.protocol.wire.tlv import OPTIONAL

ALICE, BOB = identity("alice"), identity("bob")
RUN = round_facts().run_id
KEY, SEAL = payload_key(), hash32("seal")
OBJECT = wire.encode_key(ALICE, RUN, 3, KEY, SEAL)

digests = st.binary(min_size=32, max_size=32)


@given(st.integers(0, 2**64 - 1), digests, digests)
def test_any_key_round_trips(round_: int, key: bytes, seal: bytes) -> None:
    data = wire.encode_key(BOB, RUN, round_, key, seal)
    assert wire.decode_key(data, RUN, round_, BOB.public) == Key(key, seal, data)
    assert body_of(wire.encode_key(BOB, RUN, round_, key, seal)) == body_of(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (wire.encode_key(ALICE, RUN, 4, KEY, SEAL), "key_round"),
        (wire.encode_key(BOB, RUN, 3, KEY, SEAL), "key_hotkey"),
        (wire.encode_key(ALICE, RUN, 3, KEY[:-1], SEAL), "key_field_size"),
        (wire.encode_key(ALICE, RUN, 3, KEY + b"\0", SEAL), "key_field_size"),
        (wire.encode_key(ALICE, RUN, 3, KEY, SEAL[:-1]), "key_field_size"),
        (wire.encode_key(ALICE, hash32("another run"), 3, KEY, SEAL), "key_wrong_run"),
        (resigned(OBJECT, ALICE, RUN, lambda fields: fields.pop(4)), "key_missing_field"),
        (resigned(OBJECT, ALICE, RUN, lambda fields: fields.pop(5)), "key_missing_field"),
        (resigned(OBJECT, ALICE, RUN, lambda fields: fields.update({6: b""})), "key_unknown_field"),
        (OBJECT + b"\0", "key_trailing"),
        (OBJECT[:-1], "key_truncated"),
        (submission(round_facts(), ALICE, 0).head, "key_type"),
    ],
)
def test_an_object_that_is_not_the_key(data: bytes, reason: str) -> None:
    assert reason_of(lambda: wire.decode_key(data, RUN, 3, ALICE.public)) == reason


def test_a_key_with_a_field_of_a_later_version() -> None:
    data = resigned(OBJECT, ALICE, RUN, lambda fields: fields.update({OPTIONAL: b""}))
    assert wire.decode_key(data, RUN, 3, ALICE.public) == Key(KEY, SEAL, data)


def test_a_key_object_says_how_long_it_is() -> None:
    assert wire.key_object_bytes(OBJECT + b"ciphertext") == len(OBJECT) <= MAX_KEY_BYTES
    assert reason_of(lambda: wire.key_object_bytes(OBJECT[:5])) == "key_truncated"
    assert reason_of(lambda: wire.key_object_bytes(submission(round_facts(), ALICE, 0).head)) == "key_type"


def test_a_key_shown_for_no_seal_is_a_key() -> None:
    """Whether it counts is for who knows the seal to say."""
    assert wire.decode_key(submission(round_facts(), ALICE, 0).key(), RUN, 3, ALICE.public).seal == NO_SEAL
