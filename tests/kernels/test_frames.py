"""Codec 1: round trips, the size bound, and the reason given for each kind of bad bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from kernel_inputs import KEPT, SHAPES, update

from muster.kernels import Codec, FrameError, Grid, SparseUpdate, decode, encode, max_encoded_bytes

GRID = Grid([(64, 128), (64,)])
"""One frame of three tiles; k = 64 keeps 64, 64 and 1 entries."""
K = 64


def framed(first: bytes, codes: bytes) -> bytes:
    """One frame with `first` as its already compressed part."""
    return len(first).to_bytes(4, "little") + first + codes


def squeezed(content: bytes) -> bytes:
    """A zstd frame of scale and gap bytes; an honest encoder's has a block more."""
    return zstandard.ZstdCompressor(level=1).compress(content)


STEPS, GAPS, CODES = bytes([2, 1, 255, 1, 2, 2]), bytes(129), bytes(33)
"""High scale bytes 2, 3, 2 and low ones 1, 1, 0; the first indices of each tile; positive low codes."""


@given(SHAPES, KEPT, st.integers(0, 2))
def test_round_trip_within_the_bound(shapes: list[tuple[int, ...]], k: int, salt: int) -> None:
    grid = Grid(shapes)
    made = update(grid, k, salt)
    data = encode(made)
    assert len(data) <= max_encoded_bytes(Codec(grid, k))
    assert decode(data, Codec(grid, k)).identical(made)


def test_round_trip_over_several_frames() -> None:
    grid = Grid([(200, 6500), (9000,), (130, 70)])
    assert len(grid.frames) > 1
    made = update(grid, 64, 5)
    assert decode(encode(made), Codec(grid, 64)).identical(made)


def test_the_largest_gaps_stay_within_the_bound() -> None:
    grid = Grid([(4096,), (300,)])
    made = SparseUpdate(
        codec=Codec(grid, 2),
        indices=torch.tensor([0, 4095, 299], dtype=torch.int16),
        codes=torch.zeros(3, dtype=torch.uint8),
        scales=torch.tensor([[2, 7], [12, 9]], dtype=torch.uint8),
    )
    content = bytes([7, 2, 5, 253, 0, *[255] * 16, 14, 255, 44])
    data = encode(made)
    assert data == framed(data[4:-1], bytes(1))
    assert zstandard.ZstdDecompressor().decompress(data[4:-1]) == content
    assert decode(encode(made), Codec(grid, 2)).identical(made)
    # 4 scale bytes, 3 entries, ⌊4094/255⌋ = 16 and ⌊299/255⌋ = 1 more; zstd's bound adds ⌊(2**17 − 24)/2048⌋ = 63.
    assert max_encoded_bytes(Codec(grid, 2)) == 4 + (24 + 63) + 1


def test_an_empty_grid_has_no_bytes() -> None:
    grid = Grid([(0, 4)])
    assert encode(update(grid, 64, 0)) == b""
    assert max_encoded_bytes(Codec(grid, 64)) == 0
    assert decode(b"", Codec(grid, 64)).identical(update(grid, 64, 0))


def test_a_limited_update_cannot_be_encoded() -> None:
    with pytest.raises(ValueError, match="scale limit"):
        encode(replace(update(GRID, K, 0), scale_limit=(1.0, 1.0)))


def test_the_layout_of_one_frame_by_hand() -> None:
    gaps = bytearray(GAPS)
    gaps[0], gaps[1], gaps[128] = 3, 254, 63
    codes = bytearray(CODES)
    codes[0], codes[32] = 0b11_10_01_00, 0b11
    made = decode(framed(squeezed(STEPS + bytes(gaps)), bytes(codes)), Codec(GRID, K))
    assert made.indices.tolist()[:4] == [3, 258, 259, 260]
    assert made.indices.tolist()[64:66] == [0, 1]
    assert made.indices.tolist()[-1] == 63
    assert made.codes.tolist()[:5] == [0, 1, 2, 3, 0]
    assert made.codes.tolist()[-1] == 3
    assert made.scales.tolist() == [[1, 2], [1, 3], [0, 2]]


def test_golden_bytes_decode_to_the_golden_update() -> None:
    """Pins decoding; the compressed stream itself may differ between versions of zstd."""
    grid = Grid([(3, 50), (70,)])
    data = bytes.fromhex("1700000028b52ffd200b200000e9ff040239000014060e280f2c09a62d")
    assert decode(data, Codec(grid, 150)).identical(update(grid, 150, 4))


def bad_frames() -> dict[str, tuple[str, bytes]]:
    """Name → (reason, bytes) of frames of GRID that must be refused."""
    content = STEPS + GAPS
    plain, honest = squeezed(content), framed(squeezed(content), CODES)
    beyond = STEPS + bytes([*[0] * 128, 64])
    past_tile = STEPS + bytes([*[255] * 16, 0, *[0] * 128])
    no_high_scale = bytes([0, *STEPS[1:]]) + GAPS
    checksum = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(content)
    unsized = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(content)
    skippable = b"\x50\x2a\x4d\x18" + (1).to_bytes(4, "little") + b"x"
    # Frame header: single segment, one-byte dictionary id 7, content size 135; one RLE block of 135 zeros.
    block = (1 | 1 << 1 | 135 << 3).to_bytes(3, "little") + b"\x00"
    named = zstandard.FRAME_HEADER + bytes([0x21, 7, 135]) + block
    lying = zstandard.FRAME_HEADER + bytes([0x20, 135]) + (1 | 1 << 1 | 99999 << 3).to_bytes(3, "little") + b"\x00"
    block_short = (1 | 1 << 1 | 134 << 3).to_bytes(3, "little") + b"\x00"
    boasting = zstandard.FRAME_HEADER + bytes([0x20, 135]) + block_short
    wide = zstandard.FRAME_HEADER + bytes([0x40, 17 << 3]) + (0).to_bytes(2, "little")
    return {
        "nothing": ("frame_truncated", b""),
        "half a length": ("frame_truncated", honest[:3]),
        "cut in the zstd frame": ("frame_truncated", honest[:9]),
        "cut in the codes": ("frame_truncated", honest[:-1]),
        "trailing": ("frame_trailing", honest + b"\x00"),
        "far too long": ("frame_length", honest + bytes(1000)),
        "length above the bound": ("frame_length", b"\xff\xff\xff\xff" + honest[4:]),
        "content above the bound": ("frame_length", framed(squeezed(bytes(1000)), CODES)),
        "content below the entries": ("frame_length", framed(squeezed(bytes(134)), CODES)),
        "window above what decoders offer": ("frame_length", framed(wide, CODES)),
        "empty zstd": ("frame_zstd", framed(b"", CODES)),
        "not zstd": ("frame_zstd", framed(b"not a zstd frame", CODES)),
        "header only": ("frame_zstd", framed(plain[:4], CODES)),
        "cut zstd": ("frame_zstd", framed(plain[:-1], CODES)),
        "zstd and a byte": ("frame_zstd", framed(plain + b"x", CODES)),
        "two zstd frames": ("frame_zstd", framed(plain + plain, CODES)),
        "skippable frame first": ("frame_zstd", framed(skippable + plain, CODES)),
        "skippable frame last": ("frame_zstd", framed(plain + skippable, CODES)),
        "checksum": ("frame_zstd", framed(checksum, CODES)),
        "no content size": ("frame_zstd", framed(unsized, CODES)),
        "dictionary": ("frame_zstd", framed(named, CODES)),
        "content size too small": ("frame_zstd", framed(lying, CODES)),
        "content size too large": ("frame_zstd", framed(boasting, CODES)),
        "one gap too many": ("frame_gaps", framed(squeezed(content + bytes(1)), CODES)),
        "one gap too few": ("frame_gaps", framed(squeezed(STEPS + bytes([255, *GAPS[1:]])), CODES)),
        "open gap at the end": ("frame_gaps", framed(squeezed(content + b"\xff"), CODES)),
        "index past the clipped tile": ("index_range", framed(squeezed(beyond), CODES)),
        "index past the tile": ("index_range", framed(squeezed(past_tile), CODES)),
        "padding": ("code_padding", framed(plain, CODES[:-1] + b"\x04")),
        "negative with low scale zero": ("scale_zero", framed(plain, CODES[:-1] + b"\x02")),
        "high with high scale zero": ("scale_zero", framed(squeezed(no_high_scale), b"\x01" + CODES[1:])),
        "negative with high scale zero": ("scale_zero", framed(squeezed(no_high_scale), b"\x03" + CODES[1:])),
    }


@pytest.mark.parametrize("name", bad_frames())
def test_bad_bytes_are_refused_with_their_reason(name: str) -> None:
    reason, data = bad_frames()[name]
    with pytest.raises(FrameError) as caught:
        decode(data, Codec(GRID, K))
    assert caught.value.reason == reason


def test_where_one_scale_is_zero_the_other_still_counts() -> None:
    low = decode(framed(squeezed(STEPS + GAPS), CODES), Codec(GRID, K))
    assert low.scales.tolist()[-1] == [0, 2]
    assert low.values(1).tolist() == [0.0]
    high = decode(framed(squeezed(STEPS + GAPS), CODES[:-1] + b"\x03"), Codec(GRID, K))
    assert high.values(1).tolist() == [-float(high.scale_values()[2, 1])]


def test_the_last_index_of_a_tile_is_in_range() -> None:
    gaps = bytes([*[0] * 63, *[255] * 15, 4032 - 15 * 255, *[0] * 64, 63])
    made = decode(framed(squeezed(STEPS + gaps), CODES), Codec(GRID, K))
    assert made.indices.tolist()[63] == 4095


@given(st.binary(max_size=300))
def test_noise_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode(data, Codec(GRID, K))


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_makes_a_valid_update(place: int, change: int) -> None:
    data = bytearray(encode(update(GRID, K, 1)))
    data[place % len(data)] ^= change
    try:
        made = decode(bytes(data), Codec(GRID, K))
    except FrameError:
        return
    for first, last in zip(GRID.entry_starts(K)[:-1], GRID.entry_starts(K)[1:], strict=True):
        assert (np.diff(made.indices[first:last].numpy()) > 0).all()
    assert decode(encode(made), Codec(GRID, K)).identical(made)


def test_a_value_costs_little_more_than_the_bound() -> None:
    """log2 C(4096, 64) / 64 = 7.36 bits for its place where places are uniform, 2 for its code."""
    made = update(Grid([(640, 640)]), 64, 3)
    assert 8 * len(encode(made)) / len(made.indices) < 9.75
