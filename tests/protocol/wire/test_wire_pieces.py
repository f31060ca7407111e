"""Large objects piece by piece: the same bytes as in one call, whatever falls on a piece's edge."""

from __future__ import annotations

import pytest
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.wire.pieces import PIECE_BYTES, TAG_BYTES, decrypt, encrypt, joined

KEY = bytes(range(32))
NONCE = bytes(range(12))

sizes = st.one_of(
    st.integers(0, 200),
    st.builds(lambda pieces, beside: pieces * PIECE_BYTES + beside, st.integers(1, 2), st.integers(-65, 65)),
)
"""Small ones, and those around one piece and two: by up to a block of the key stream, and one byte more."""

short = st.binary(max_size=70)


def noise(size: int) -> bytes:
    """Bytes without a pattern."""
    return blake3(b"noise").digest(length=size)


@given(sizes, short, short, st.binary(min_size=32, max_size=32))
def test_a_message_in_pieces_is_the_one_call(size: int, before: bytes, associated: bytes, key: bytes) -> None:
    message = noise(size)
    whole = ChaCha20Poly1305(key).encrypt(NONCE, before + message, associated)
    assert encrypt(key, NONCE, associated, before, message) == whole
    assert decrypt(key, NONCE, associated, whole) == before + message
    assert decrypt(key, NONCE, associated, memoryview(whole)) == before + message


@given(sizes, st.data())
def test_not_one_bit_may_be_another(size: int, data: st.DataObject) -> None:
    sealed = bytearray(encrypt(KEY, NONCE, b"round 3", noise(size)))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidTag):
        decrypt(KEY, NONCE, b"round 3", bytes(sealed))


@given(st.integers(1, 40))
def test_nor_may_anything_be_missing_or_of_another_message(less: int) -> None:
    sealed = encrypt(KEY, NONCE, b"round 3", noise(20))
    for key, associated, given_ in (
        (KEY, b"round 3", sealed[: max(0, len(sealed) - less)]),
        (KEY, b"round 4", sealed),
        (bytes(32), b"round 3", sealed),
    ):
        with pytest.raises(InvalidTag):
            decrypt(key, NONCE, associated, given_)


def test_the_least_there_is_has_a_tag() -> None:
    assert len(encrypt(KEY, NONCE, b"")) == TAG_BYTES
    assert decrypt(KEY, NONCE, b"", encrypt(KEY, NONCE, b"")) == b""


@given(st.lists(sizes, max_size=4))
def test_what_is_joined_is_its_parts(lengths: list[int]) -> None:
    parts = [noise(length) for length in lengths]
    assert joined(*parts) == b"".join(parts) == joined(*(memoryview(part) for part in parts))
