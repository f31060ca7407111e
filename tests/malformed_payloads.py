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

import kernels
from kernels import SparseUpdate

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


def _split(update: SparseUpdate) -> tuple[bytes, bytes, bytes, bytes]:
    """The first frame's zstd part, codes and scales, and all frames after it."""
    payload = kernels.encode(update)
    length = int.from_bytes(payload[:_LENGTH_BYTES], "little")
    scales = _LENGTH_BYTES + length + (_entries(update) + 3) // 4
    start, stop = update.grid.frames[0]
    rest = scales + stop - start
    codes = payload[_LENGTH_BYTES + length : scales]
    return payload[_LENGTH_BYTES : _LENGTH_BYTES + length], codes, payload[scales:rest], payload[rest:]


def _entries(update: SparseUpdate) -> int:
    """Kept entries of the first frame."""
    start, stop = update.grid.frames[0]
    starts = update.grid.entry_starts(update.k)
    return int(starts[stop] - starts[start])


def _join(gaps: bytes, codes: bytes, scales: bytes, rest: bytes) -> bytes:
    return len(gaps).to_bytes(_LENGTH_BYTES, "little") + gaps + codes + scales + rest


def _with_gaps(update: SparseUpdate, gaps: bytes) -> bytes:
    _, codes, scales, rest = _split(update)
    return _join(gaps, codes, scales, rest)


@cache
def _bomb() -> bytes:
    """A few hundred bytes of zstd that stand for a megabyte."""
    return zstandard.ZstdCompressor(level=1).compress(bytes(1 << 20))


def _noise(update: SparseUpdate, rng: random.Random) -> Payload:
    """Random bytes: their first four are a length no frame can have, or too few follow."""
    return rng.randbytes(rng.randrange(100)), {"frame_truncated", "frame_length"}


def _noise_in_frame(update: SparseUpdate, rng: random.Random) -> Payload:
    return _with_gaps(update, rng.randbytes(len(_split(update)[0]))), {"frame_zstd"}


def _cut(update: SparseUpdate, rng: random.Random) -> Payload:
    payload = kernels.encode(update)
    return payload[: rng.randrange(len(payload))], {"frame_truncated"}


def _longer(update: SparseUpdate, rng: random.Random) -> Payload:
    return kernels.encode(update) + rng.randbytes(rng.randrange(1, 9)), {"frame_trailing"}


def _length(update: SparseUpdate, rng: random.Random) -> Payload:
    declared = rng.randrange(2**31, 2**32).to_bytes(_LENGTH_BYTES, "little")
    return declared + kernels.encode(update)[_LENGTH_BYTES:], {"frame_length"}


def _magic(update: SparseUpdate, rng: random.Random) -> Payload:
    gaps = bytearray(_split(update)[0])
    gaps[rng.randrange(4)] ^= 1 << rng.randrange(8)
    return _with_gaps(update, bytes(gaps)), {"frame_zstd"}


def _zstd_cut(update: SparseUpdate, rng: random.Random) -> Payload:
    """A zstd frame that ends early inside its own declared length."""
    gaps = _split(update)[0]
    return _with_gaps(update, gaps[: rng.randrange(4, len(gaps))]), {"frame_zstd"}


def _two_frames(update: SparseUpdate, rng: random.Random) -> Payload:
    gaps = _split(update)[0]
    return _with_gaps(update, gaps + zstandard.ZstdCompressor(level=1).compress(b"")), {"frame_zstd"}


def _no_content_size(update: SparseUpdate, rng: random.Random) -> Payload:
    plain = zstandard.ZstdCompressor(level=1, write_content_size=False)
    return _with_gaps(update, plain.compress(bytes(_entries(update)))), {"frame_zstd"}


def _checksum(update: SparseUpdate, rng: random.Random) -> Payload:
    checked = zstandard.ZstdCompressor(level=1, write_checksum=True)
    return _with_gaps(update, checked.compress(bytes(_entries(update)))), {"frame_zstd"}


def _decompression_bomb(update: SparseUpdate, rng: random.Random) -> Payload:
    return _with_gaps(update, _bomb()), {"frame_length"}


def _too_few_gaps(update: SparseUpdate, rng: random.Random) -> Payload:
    gaps = zstandard.ZstdCompressor(level=1).compress(bytes(_entries(update) - 1))
    return _with_gaps(update, gaps), {"frame_length"}


def _gaps_that_never_end(update: SparseUpdate, rng: random.Random) -> Payload:
    gaps = zstandard.ZstdCompressor(level=1).compress(b"\xff" * _entries(update))
    return _with_gaps(update, gaps), {"frame_gaps"}


def _index_outside(update: SparseUpdate, rng: random.Random) -> Payload:
    """Gaps as large as one byte holds: far outside every tile that keeps one entry in under 255."""
    gaps = zstandard.ZstdCompressor(level=1).compress(bytes([_LARGEST_GAP]) * _entries(update))
    return _with_gaps(update, gaps), {"index_range"}


def _scale_zero(update: SparseUpdate, rng: random.Random) -> Payload:
    gaps, codes, scales, rest = _split(update)
    assert np.frombuffer(codes, np.uint8).any(), "an honest update has a negative value"
    return _join(gaps, codes, bytes(len(scales)), rest), {"scale_zero"}


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
