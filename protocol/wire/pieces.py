"""Large objects handled a MiB at a time: a call for all of one would stop every other thread until it is done.

CPython keeps the interpreter's lock while it fills new `bytes`, and so do those who fill them for it: 0.2 s for 256 MiB
that are only put together, 0.4 s for as many that are encrypted, in which a daemon answers nobody. What grows in a
`BytesIO` is filled a piece at a time, and taken out of it without a copy.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.base import CipherContext
from cryptography.hazmat.primitives.poly1305 import Poly1305

PIECE_BYTES = 1 << 20
"""Half a millisecond of work, against the 5 ms after which CPython has threads take turns."""

TAG_BYTES = 16
_BLOCK_BYTES = 64
_KEY_BYTES = 32
_COUNTER = bytes(4)
"""Of the first block, which makes Poly1305's key; the message begins with the second (RFC 8439 §2.8)."""


def joined(*parts: bytes | memoryview) -> bytes:
    """The parts one after another."""
    out = BytesIO()
    for piece in _pieces(*parts):
        out.write(piece)
    return out.getvalue()


def encrypt(key: bytes, nonce: bytes, associated: bytes, *parts: bytes | memoryview) -> bytes:
    """ChaCha20-Poly1305 (RFC 8439 §2.8) of the parts one after another; the ciphertext with its tag, 16 bytes.

    `key` has 32 bytes, `nonce` 12. The same bytes as of a library's one call for it.
    """
    stream, tag = _begun(key, nonce, associated)
    out = BytesIO()
    for piece in _pieces(*parts):
        hidden = stream.update(piece)
        tag.update(hidden)
        out.write(hidden)
    _end(tag, associated, out.tell())
    out.write(tag.finalize())
    return out.getvalue()


def decrypt(key: bytes, nonce: bytes, associated: bytes, ciphertext: bytes | memoryview) -> bytes:
    """What `encrypt` was given; nothing is decrypted before the whole of it is known to be what the key's owner made.

    Raises:
        InvalidTag: it is not.
    """
    if len(ciphertext) < TAG_BYTES:
        raise InvalidTag
    stream, tag = _begun(key, nonce, associated)
    hidden = memoryview(ciphertext)[:-TAG_BYTES]
    for piece in _pieces(hidden):
        tag.update(piece)
    _end(tag, associated, len(hidden))
    try:
        tag.verify(bytes(ciphertext[-TAG_BYTES:]))
    except InvalidSignature as error:
        raise InvalidTag from error
    out = BytesIO()
    for piece in _pieces(hidden):
        out.write(stream.update(piece))
    return out.getvalue()


def _pieces(*parts: bytes | memoryview) -> Iterator[memoryview]:
    for part in parts:
        view = memoryview(part)
        for start in range(0, len(view), PIECE_BYTES):
            yield view[start : start + PIECE_BYTES]


def _begun(key: bytes, nonce: bytes, associated: bytes) -> tuple[CipherContext, Poly1305]:
    """The key stream where the message begins, and the tag's sum so far."""
    stream = Cipher(algorithms.ChaCha20(key, _COUNTER + nonce), mode=None).encryptor()
    tag = Poly1305(stream.update(bytes(_BLOCK_BYTES))[:_KEY_BYTES])
    tag.update(_filled(associated, len(associated)))
    return stream, tag


def _end(tag: Poly1305, associated: bytes, size: int) -> None:
    """Add to the sum what follows a ciphertext of so many bytes."""
    tag.update(_filled(b"", size) + struct.pack("<QQ", len(associated), size))


def _filled(data: bytes, size: int) -> bytes:
    """`data`, and the zeros that fill up what has `size` bytes to a whole number of Poly1305's blocks."""
    return data + bytes(-size % TAG_BYTES)
