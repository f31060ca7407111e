"""Submissions and keys: what is signed comes back, and each thing that can be wrong has its own name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from blake3 import blake3
from builders import (
    body_of,
    framed,
    hash32,
    header,
    identity,
    payload_key,
    reason_of,
    resigned,
    round_facts,
    split_fields,
    submission,
    update,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from muster import kernels
from muster.protocol import wire
from muster.protocol.wire import Header, Type
from muster.protocol.wire.submission import KEPT_BYTES, _good_head
from muster.protocol.wire.tlv import OPTIONAL

ALICE, BOB = identity("alice"), identity("bob")
FACTS = round_facts()
RUN = FACTS.run_id
SENT = submission(FACTS, ALICE, 0)
HEAD, CIPHERTEXT, KEY_OBJECT = SENT.head, SENT.payload, SENT.key()
KEY = payload_key()
SIGNED = wire.decode_head(HEAD, RUN)

digests = st.binary(min_size=32, max_size=32)
u32s, u64s = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
headers = st.builds(
    Header,
    run_id=st.just(RUN),
    public=st.just(ALICE.public),
    round=u64s,
    base_round=u64s,
    uid=u32s,
    layout=digests,
    possession=digests,
    data_digest=digests,
    windows=u64s,
    tokens=u64s,
    payload_bytes=st.just(0),
    ciphertext_digest=digests,
    key_commitment=digests,
)


@given(headers, st.binary(min_size=16, max_size=60))
def test_any_submission_round_trips(made: Header, ciphertext: bytes) -> None:
    made = replace(made, payload_bytes=len(ciphertext) - 16)
    data = wire.encode_submission(made, ALICE, ciphertext)
    signed, payload = wire.decode_submission(data, RUN)
    assert (signed.header, payload) == (made, ciphertext)
    assert signed.head + payload == data
    assert signed.ciphertext_bytes == len(ciphertext)
    assert signed.digest == wire.head_digest(signed.head)
    assert wire.decode_head(signed.head, RUN) == signed
    assert body_of(wire.encode_head(signed.header, ALICE)) == body_of(signed.head)


def test_an_honest_submission_opens() -> None:
    assert wire.open_payload(SIGNED.header, CIPHERTEXT, KEY, update().codec).identical(update())
    assert SIGNED.header.hotkey == ALICE.hotkey
    assert SIGNED.header.key_commitment == blake3(KEY).digest() == wire.key_commitment(KEY)


def test_sealing_is_chacha20_poly1305_bound_to_run_round_and_peer() -> None:
    bound = b"muster/payload/v2" + RUN + (3).to_bytes(8, "little") + ALICE.public
    payload = ChaCha20Poly1305(KEY).decrypt(bytes(12), CIPHERTEXT, bound)
    assert payload == b"\x01" + kernels.encode(update())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (HEAD[:10], "truncated"),
        (HEAD[:-1], "truncated"),
        (HEAD, "ciphertext_size"),
        (HEAD + CIPHERTEXT[:-1], "ciphertext_size"),
        (HEAD + CIPHERTEXT + b"\0", "ciphertext_size"),
        (KEY_OBJECT, "type"),
        (framed(Type.HEAD, BOB, RUN, body_of(HEAD)) + CIPHERTEXT, "signature"),
    ],
)
def test_what_is_not_a_head_with_its_payload(data: bytes, reason: str) -> None:
    assert reason_of(lambda: wire.decode_submission(data, RUN)) == reason


@pytest.mark.parametrize(("data", "reason"), [(HEAD[:-1], "truncated"), (HEAD + b"\0", "trailing")])
def test_a_head_is_one_object(data: bytes, reason: str) -> None:
    assert reason_of(lambda: wire.decode_head(data, RUN)) == reason


def test_a_submission_of_another_run() -> None:
    assert reason_of(lambda: wire.decode_head(HEAD, hash32("another run"))) == "wrong_run"


@pytest.mark.parametrize("tag", range(1, 14))
def test_every_field_of_a_header_is_needed_and_has_one_size(tag: int) -> None:
    missing = resigned(HEAD, ALICE, RUN, lambda fields: fields.pop(tag))
    longer = resigned(HEAD, ALICE, RUN, lambda fields: fields.update({tag: fields[tag] + b"\0"}))
    assert reason_of(lambda: wire.decode_head(missing, RUN)) == "missing_field"
    assert reason_of(lambda: wire.decode_head(longer, RUN)) == "field_size"


def test_a_header_has_thirteen_fields() -> None:
    assert [tag for tag, _ in split_fields(body_of(HEAD))] == list(range(1, 14))


def test_a_field_of_a_later_version() -> None:
    optional = resigned(HEAD, ALICE, RUN, lambda fields: fields.update({OPTIONAL | 14: b"group 3"}))
    critical = resigned(HEAD, ALICE, RUN, lambda fields: fields.update({14: b"group 3"}))
    signed = wire.decode_head(optional, RUN)
    assert signed.header == SIGNED.header
    assert signed.digest != SIGNED.digest
    assert reason_of(lambda: wire.decode_head(critical, RUN)) == "unknown_field"


def test_what_is_kept_of_good_heads_is_bounded_in_bytes() -> None:
    """A head may be as large as a record, by fields that nobody knows; a leader that lies signs as many as it likes."""
    large = resigned(HEAD, ALICE, RUN, lambda fields: fields.update({OPTIONAL | 14: bytes(KEPT_BYTES)}))
    _good_head.cache_clear()
    for head, kept in ((large, 0), (HEAD, 1), (HEAD, 1)):
        assert wire.decode_head(head, RUN).header == SIGNED.header
        assert _good_head.cache_info().currsize == kept
    assert _good_head.cache_info().hits == 1


def sealed(payload: bytes, **bound: Any) -> bytes:
    """A payload as a header would bind it, with changes."""
    run, number, public = bound.get("run", RUN), bound.get("round", 3), bound.get("public", ALICE.public)
    data = b"muster/payload/v2" + run + number.to_bytes(8, "little") + public
    return ChaCha20Poly1305(KEY).encrypt(bytes(12), payload, data)


PAYLOAD = b"\x01" + kernels.encode(update())


@pytest.mark.parametrize(
    ("ciphertext", "key", "reason"),
    [
        (sealed(PAYLOAD), KEY[:-1], "key_mismatch"),
        (sealed(PAYLOAD), b"", "key_mismatch"),
        (sealed(PAYLOAD), payload_key(2), "key_mismatch"),
        (sealed(PAYLOAD, public=BOB.public), KEY, "payload_auth"),
        (sealed(PAYLOAD, round=4), KEY, "payload_auth"),
        (sealed(PAYLOAD, run=hash32("another run")), KEY, "payload_auth"),
        (bytes(100), KEY, "payload_auth"),
        (sealed(b""), KEY, "codec_version"),
        (sealed(b"\x02" + PAYLOAD[1:]), KEY, "codec_version"),
        (sealed(PAYLOAD[:1]), KEY, "frame_truncated"),
        (sealed(PAYLOAD[:-1]), KEY, "frame_truncated"),
        (sealed(PAYLOAD + b"\0"), KEY, "frame_trailing"),
        (sealed(PAYLOAD[:1] + b"\xff" * 4 + PAYLOAD[5:]), KEY, "frame_length"),
        (sealed(PAYLOAD[:5] + b"\0" + PAYLOAD[6:]), KEY, "frame_zstd"),
    ],
)
def test_a_payload_that_does_not_open(ciphertext: bytes, key: bytes, reason: str) -> None:
    made = header(FACTS, ALICE, 0, ciphertext, KEY)
    assert reason_of(lambda: wire.open_payload(made, ciphertext, key, update().codec)) == reason


def test_a_ciphertext_that_is_not_the_one_committed_to() -> None:
    made = SIGNED.header
    assert reason_of(lambda: wire.open_payload(made, CIPHERTEXT + b"\0", KEY, update().codec)) == "ciphertext_size"
    assert reason_of(lambda: wire.open_payload(made, CIPHERTEXT[:-1], KEY, update().codec)) == "ciphertext_size"
    swapped = bytes([CIPHERTEXT[0] ^ 1]) + CIPHERTEXT[1:]
    assert reason_of(lambda: wire.open_payload(made, swapped, KEY, update().codec)) == "ciphertext_digest"
