"""Payloads no honest encoder makes: what a peer that knows all the keys can still get wrong, or try.

Each maker takes an honest update and returns bytes with the codec reasons they may be rejected for. A wrong
bit anywhere is not among them: in codes, scales or gaps it may well be another valid update.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import numpy as np
import zstandard

from muster import kernels
from muster.kernels import SparseUpdate

CODEC_REASONS = frozenset(
    {
        "frame_truncated", "frame_length", "frame_zstd", "frame_gaps", "index_range", "code_padding",
        "scale_zero", "frame_trailing",
    }
)  # fmt: skip

_LENGTH_BYTES = 4
_LARGEST_GAP = 254
"""The largest gap of one byte; 255 continues."""

Payload = tuple[bytes, set[str]]


def _split(update: SparseUpdate) -> tuple[bytes, bytes, bytes]:
    """The first frame's zstd part and codes, and all frames after it."""
    payload = kernels.encode(update)
    codes = _LENGTH_BYTES + int.from_bytes(payload[:_LENGTH_BYTES], "little")
    rest = codes + (_entries(update) + 3) // 4
    return payload[_LENGTH_BYTES:codes], payload[codes:rest], payload[rest:]


def _scale_bytes(update: SparseUpdate) -> int:
    """Scale bytes of the first frame: two a tile."""
    start, stop = update.grid.frames[0]
    return 2 * (stop - start)


def _squeeze(update: SparseUpdate, gaps: bytes) -> bytes:
    """A zstd part with these gap bytes; every scale byte is 1."""
    scales = bytes([1, *bytes(_scale_bytes(update) - 1)])
    return zstandard.ZstdCompressor(level=1).compress(scales + gaps)


def _entries(update: SparseUpdate) -> int:
    """Kept entries of the first frame."""
    start, stop = update.grid.frames[0]
    starts = update.grid.entry_starts(update.k)
    return int(starts[stop] - starts[start])


def _with_first(update: SparseUpdate, first: bytes) -> bytes:
    """The payload with another zstd part in its first frame."""
    _, codes, rest = _split(update)
    return len(first).to_bytes(_LENGTH_BYTES, "little") + first + codes + rest


@cache
def _bomb() -> bytes:
    """A few hundred bytes of zstd that stand for a megabyte."""
    return zstandard.ZstdCompressor(level=1).compress(bytes(1 << 20))


def _noise(update: SparseUpdate, rng: random.Random) -> Payload:
    """Random bytes: their first four are a length no frame can have, or too few follow."""
    return rng.randbytes(rng.randrange(100)), {"frame_truncated", "frame_length"}


def _noise_in_frame(update: SparseUpdate, rng: random.Random) -> Payload:
    return _with_first(update, rng.randbytes(len(_split(update)[0]))), {"frame_zstd"}


def _cut(update: SparseUpdate, rng: random.Random) -> Payload:
    payload = kernels.encode(update)
    return payload[: rng.randrange(len(payload))], {"frame_truncated"}


def _longer(update: SparseUpdate, rng: random.Random) -> Payload:
    return kernels.encode(update) + rng.randbytes(rng.randrange(1, 9)), {"frame_trailing"}


def _length(update: SparseUpdate, rng: random.Random) -> Payload:
    declared = rng.randrange(2**31, 2**32).to_bytes(_LENGTH_BYTES, "little")
    return declared + kernels.encode(update)[_LENGTH_BYTES:], {"frame_length"}


def _magic(update: SparseUpdate, rng: random.Random) -> Payload:
    first = bytearray(_split(update)[0])
    first[rng.randrange(4)] ^= 1 << rng.randrange(8)
    return _with_first(update, bytes(first)), {"frame_zstd"}


def _zstd_cut(update: SparseUpdate, rng: random.Random) -> Payload:
    """A zstd frame that ends early inside its own declared length."""
    first = _split(update)[0]
    return _with_first(update, first[: rng.randrange(4, len(first))]), {"frame_zstd"}


def _two_frames(update: SparseUpdate, rng: random.Random) -> Payload:
    first = _split(update)[0]
    return _with_first(update, first + zstandard.ZstdCompressor(level=1).compress(b"")), {"frame_zstd"}


def _no_content_size(update: SparseUpdate, rng: random.Random) -> Payload:
    plain = zstandard.ZstdCompressor(level=1, write_content_size=False)
    return _with_first(update, plain.compress(bytes(_scale_bytes(update) + _entries(update)))), {"frame_zstd"}


def _checksum(update: SparseUpdate, rng: random.Random) -> Payload:
    checked = zstandard.ZstdCompressor(level=1, write_checksum=True)
    return _with_first(update, checked.compress(bytes(_scale_bytes(update) + _entries(update)))), {"frame_zstd"}


def _decompression_bomb(update: SparseUpdate, rng: random.Random) -> Payload:
    return _with_first(update, _bomb()), {"frame_length"}


def _too_few_gaps(update: SparseUpdate, rng: random.Random) -> Payload:
    return _with_first(update, _squeeze(update, bytes(_entries(update) - 1))), {"frame_length"}


def _gaps_that_never_end(update: SparseUpdate, rng: random.Random) -> Payload:
    return _with_first(update, _squeeze(update, b"\xff" * _entries(update))), {"frame_gaps"}


def _index_outside(update: SparseUpdate, rng: random.Random) -> Payload:
    """Gaps as large as one byte holds: far outside every tile that keeps one entry in under 255."""
    return _with_first(update, _squeeze(update, bytes([_LARGEST_GAP]) * _entries(update))), {"index_range"}


def _scale_zero(update: SparseUpdate, rng: random.Random) -> Payload:
    first, codes, _ = _split(update)
    assert np.frombuffer(codes, np.uint8).any(), "an honest update has a negative value"
    content, scales = zstandard.ZstdDecompressor().decompress(first), _scale_bytes(update)
    zeroed = zstandard.ZstdCompressor(level=1).compress(bytes(scales) + content[scales:])
    return _with_first(update, zeroed), {"scale_zero"}


def _empty(update: SparseUpdate, rng: random.Random) -> Payload:
    return b"", {"frame_truncated"}


PAYLOADS: dict[str, Callable[[SparseUpdate, random.Random], Payload]] = {
    make.__name__.removeprefix("_"): make
    for make in (
        _noise, _noise_in_frame, _cut, _longer, _length, _magic, _zstd_cut, _two_frames, _no_content_size,
        _checksum, _decompression_bomb, _too_few_gaps, _gaps_that_never_end, _index_outside, _scale_zero,
        _empty,
    )
}  # fmt: skip
"""Every class by its label."""
