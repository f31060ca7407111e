"""Amendments: a signed path and value, in printable text of bounded length, and who else has signed them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import body_of, hash32, identity, reason_of, resigned
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol import wire
from muster.protocol.identity import Identity
from muster.protocol.wire import Amendment
from muster.protocol.wire.amendment import MAX_AMENDMENT_BYTES, MAX_COSIGNERS, MAX_PATH, MAX_VALUE
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


KEYS = sorted((identity(f"validator-{i}") for i in range(MAX_COSIGNERS + 1)), key=lambda one: one.public)
COSIGNATURE = 32 + 64


def cosigned(*signers: Identity, data: bytes = DATA) -> bytes:
    for signer in signers:
        data = wire.cosign_amendment(signer, RUN, data)
    return data


@given(st.permutations(KEYS[:4]), st.integers(0, 4))
def test_any_number_sign_in_any_order_and_say_the_same(order: list[Identity], count: int) -> None:
    data = cosigned(*order[:count])
    read = wire.decode_amendment(data, RUN)
    assert read.cosigners == tuple(sorted(one.public for one in order[:count]))
    assert read.signers == {OWNER.public, *read.cosigners}
    assert replace(read, cosigners=()) == wire.decode_amendment(DATA, RUN)
    assert len(data) == len(DATA) + COSIGNATURE * count
    assert wire.digest_of(data) == wire.digest_of(DATA)


def test_nobody_signs_twice() -> None:
    once = cosigned(KEYS[0])
    assert cosigned(KEYS[0], data=once) == once
    assert cosigned(OWNER, data=once) == once


def test_a_co_signature_is_a_signature_of_the_same_words() -> None:
    """Not of those of another amendment, and not by who only passes it on."""
    other = cosigned(KEYS[0], data=wire.encode_amendment(OWNER, RUN, 1, 9, "sparse.k", "33"))
    assert reason_of(lambda: wire.decode_amendment(DATA + other[-COSIGNATURE:], RUN)) == "cosignature"
    moved = DATA + KEYS[1].public + cosigned(KEYS[0])[-64:]
    assert reason_of(lambda: wire.decode_amendment(moved, RUN)) == "cosignature"


def test_as_many_as_a_run_can_list_sign_the_longest_texts() -> None:
    long = wire.encode_amendment(OWNER, RUN, 1, 9, "p" * MAX_PATH, "1" * MAX_VALUE)
    data = cosigned(*KEYS[:MAX_COSIGNERS], data=long)
    assert len(wire.decode_amendment(data, RUN).cosigners) == MAX_COSIGNERS
    assert len(data) <= MAX_AMENDMENT_BYTES


ONE, TWO = cosigned(KEYS[0])[-COSIGNATURE:], cosigned(KEYS[1])[-COSIGNATURE:]
ITSELF = DATA + OWNER.public + DATA[-64:]
PADDED = resigned(DATA, OWNER, RUN, lambda fields: fields.update({OPTIONAL | 7: bytes(MAX_AMENDMENT_BYTES)}))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (cosigned(KEYS[0])[:-1], "trailing"),
        (DATA + bytes(COSIGNATURE - 1), "trailing"),
        (DATA + TWO + ONE, "cosigners"),
        (DATA + ONE + ONE, "cosigners"),
        (ITSELF, "cosigners"),
        (DATA + bytes(COSIGNATURE), "cosignature"),
        (DATA + ONE[:-1] + bytes([ONE[-1] ^ 1]), "cosignature"),
        (DATA + ONE + TWO[:-1] + bytes([TWO[-1] ^ 1]), "cosignature"),
        (DATA[:-1] + bytes([DATA[-1] ^ 1]) + ONE, "signature"),
        (DATA + bytes(COSIGNATURE * (MAX_COSIGNERS + 1)), "too_many"),
        (PADDED, "amendment_size"),
        (bytes(MAX_AMENDMENT_BYTES + 1), "amendment_size"),
    ],
)
def test_co_signatures_that_are_none(data: bytes, reason: str) -> None:
    assert reason_of(lambda: wire.decode_amendment(data, RUN)) == reason
