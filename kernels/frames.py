"""Codec 1: an update as independent frames of bytes, and back, from bytes that a stranger may have made up.

A frame is one entry of `grid.frames` and is decoded alone. It is

    u32 little-endian, length of the next part ‖ scales and gaps, a zstd frame ‖ codes

Scales: for each tile the high scale byte minus the one of the tile before (0 before the first), then for each tile
the high scale byte minus the low one; both mod 256. Gaps: for each tile, the first index, then each index − previous
− 1; a gap g is ⌊g/255⌋ bytes of 255 and one byte g mod 255. The zstd frame has level 1, its content size, no checksum
and no dictionary (RFC 8878 §3.1.1); the encoder ends a block between scales and gaps, which have little in common.
Codes: code j of the frame in bits 2·(j mod 4) of byte ⌊j/4⌋; the bits after the last code are zero.

On real pseudo-gradients of 11.6M parameters (`benchmarks/quantiser_study.py`), bits a kept value, against the bound
log2 C(4096, k) / k + 2, of uniform places and free scales (real places are not uniform, so gaps may cost less):

     k    gaps    codes   scales    all    bound
    32    8.40     2.00     0.19  10.59    10.32
    64    7.31     2.00     0.10   9.42     9.36
   128    6.30     2.00     0.04   8.34     8.38
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

import numpy as np
import numpy.typing as npt
import torch
import zstandard

from muster.kernels.backend import entry_loops
from muster.kernels.codec import Codec
from muster.kernels.update import SparseUpdate

_Bytes = npt.NDArray[np.uint8]
_Ints = npt.NDArray[np.int64]
_Out = tuple[npt.NDArray[np.int16], _Bytes, _Bytes]
"""Indices, codes and scale bytes."""

ZSTD_LEVEL = 1
"""Gap bytes hold no long repeats: levels above 1 cost time and save under 1 %."""
MAX_WINDOW_BYTES = 8 << 20
"""A frame may ask its decoder for no more history: what RFC 8878 §3.1.1.1.2 tells every decoder to offer."""
_SCALES = 2
"""Scale bytes a tile, low then high."""
_ESCAPE = 255
_LENGTH_BYTES = 4
_CODE_SHIFTS = np.array([0, 2, 4, 6], np.uint8)


class FrameError(ValueError):
    """Bytes that are not a codec 1 payload of the grid; `reason` is a stable slug.

    frame_truncated  the payload ends inside a frame
    frame_length     a declared size is above what the grid and k allow
    frame_zstd       scales and gaps are not exactly one plain zstd frame with its content size
    frame_gaps       the gap bytes do not hold exactly the frame's entries
    index_range      an index is outside its tile
    code_padding     a bit after the last code is set
    scale_zero       a value of scale 0 has a code that is not 0
    frame_trailing   bytes follow the last frame
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def _code_bytes(entries: int) -> int:
    return -(-entries // 4)


def _gap_bytes_each(sizes: _Ints, counts: _Ints) -> _Ints:
    """The most gap bytes each tile of `sizes` entries with `counts` kept can have.

    A tile's gaps sum to its last index − (count − 1) ≤ size − count; each costs a byte and one per full 255.
    """
    return counts + (sizes - counts) // _ESCAPE


def _compress_bound(size: int) -> int:
    """The most bytes zstd makes of `size` bytes: ZSTD_COMPRESSBOUND of zstd.h, in its stable interface."""
    small = ((128 << 10) - size) >> 11 if size < (128 << 10) else 0
    return size + (size >> 8) + small


def _frame_sizes(codec: Codec, start: int, stop: int) -> tuple[_Ints, _Ints]:
    """Entries and kept entries of the frame's tiles."""
    starts = codec.grid.entry_starts(codec.k)
    return codec.grid.tile_sizes[start:stop].astype(np.int64), np.diff(starts[start : stop + 1])


@lru_cache(maxsize=8)
def _gap_bounds(codec: Codec) -> _Ints:
    """The sum of `_gap_bytes_each` of each frame, int64 (frames,)."""
    grid = codec.grid
    if not grid.frames:
        return np.zeros(0, np.int64)
    sizes, counts = _frame_sizes(codec, 0, grid.tiles)
    return np.add.reduceat(_gap_bytes_each(sizes, counts), np.array([start for start, _ in grid.frames]))


@lru_cache(maxsize=8)
def max_encoded_bytes(codec: Codec) -> int:
    """The most bytes `encode` makes of any update of this codec; a longer payload is not an honest one.

    Per frame: 4 + the zstd bound of its scale bytes and most gap bytes + its code bytes.
    """
    starts = codec.grid.entry_starts(codec.k)
    total = 0
    for (start, stop), gaps in zip(codec.grid.frames, _gap_bounds(codec).tolist(), strict=True):
        squeezed = _compress_bound(_SCALES * (stop - start) + gaps)
        total += _LENGTH_BYTES + squeezed + _code_bytes(int(starts[stop] - starts[start]))
    return total


def encode(update: SparseUpdate) -> bytes:
    """The frames of an update, in grid order.

    The bytes may differ between versions of zstd; what they decode to may not.

    Raises:
        ValueError: the update has a scale limit, which the format does not carry.
    """
    if update.scale_limit is not None:
        raise ValueError("only an update as its miner made it can be encoded, not one with a scale limit")
    grid, starts = update.grid, update.grid.entry_starts(update.k)
    indices, codes, scales = update.indices.numpy(), update.codes.numpy(), update.scales.numpy()
    compressor = zstandard.ZstdCompressor(
        level=ZSTD_LEVEL, write_content_size=True, write_checksum=False, write_dict_id=False
    )
    out = BytesIO()  # grows a frame at a time: one call for all of a large payload would stop every other thread
    for start, stop in grid.frames:
        entries = slice(int(starts[start]), int(starts[stop]))
        counts = np.diff(starts[start : stop + 1])
        gaps = _gap_bytes(indices[entries].astype(np.int64), counts)
        squeezed = _squeeze(compressor, _scale_bytes(scales[start:stop]), gaps)
        out.write(len(squeezed).to_bytes(_LENGTH_BYTES, "little"))
        out.write(squeezed)
        out.write(_pack(codes[entries]).data)
    return out.getvalue()


def decode(data: bytes | memoryview, codec: Codec) -> SparseUpdate:
    """The update that `data` encodes. No byte of it is trusted; sizes are checked before memory is taken.

    Takes the memory of the update, which the codec alone decides, and a few frames' beside it.

    Raises:
        FrameError: not a payload of this codec, with the reason.
    """
    grid, starts = codec.grid, codec.grid.entry_starts(codec.k)
    if len(data) > max_encoded_bytes(codec):
        raise FrameError("frame_length", f"{len(data)} bytes are more than any update of this grid has")
    indices, codes = np.empty(starts[-1], np.int16), np.empty(starts[-1], np.uint8)
    scales = np.empty((len(starts) - 1, _SCALES), np.uint8)
    view, at, decompressor = memoryview(data), 0, zstandard.ZstdDecompressor()
    loops = entry_loops(sum(grid.numel))
    for (start, stop), gaps in zip(grid.frames, _gap_bounds(codec).tolist(), strict=True):
        here = slice(int(starts[start]), int(starts[stop]))
        fixed, entries = _SCALES * (stop - start), here.stop - here.start
        content, at = _take_squeezed(decompressor, view, at, fixed + entries, fixed + gaps)
        out = indices[here], codes[here], scales[start:stop]
        packed = np.frombuffer(view[at : at + _code_bytes(entries)], np.uint8)
        tiles = grid.tile_sizes[start:stop], starts[start : stop + 1]
        if loops is None or not loops.read_frame(content, packed, *tiles, out):
            _read_frame(content, packed, _frame_sizes(codec, start, stop), out)
        at += len(packed)
    if at != len(data):
        raise FrameError("frame_trailing", f"{len(data) - at} bytes follow the last frame")
    return SparseUpdate(
        codec=codec,
        indices=torch.from_numpy(indices),
        codes=torch.from_numpy(codes),
        scales=torch.from_numpy(scales),
    )


def _read_frame(content: _Bytes, packed: _Bytes, tiles: tuple[_Ints, _Ints], out: _Out) -> None:
    """Write what the frame's scale and gap bytes and its code bytes, as far as they are there, stand for."""
    (sizes, counts), (indices, codes, scales) = tiles, out
    scales[:] = _scales(content[: _SCALES * len(sizes)])
    indices[:] = _indices(content[_SCALES * len(sizes) :], sizes, counts)
    if len(packed) < _code_bytes(len(codes)):
        raise FrameError("frame_truncated", f"{_code_bytes(len(codes))} code bytes expected, {len(packed)} left")
    codes[:] = _unpack(packed, len(codes))
    _check_zero_scales(scales, codes, counts)


def _first(counts: _Ints) -> _Ints:
    """Where each tile's entries begin in the frame; every tile keeps at least one."""
    return np.cumsum(counts) - counts


def _gap_bytes(indices: _Ints, counts: _Ints) -> _Bytes:
    """The gap bytes of the frame's indices (`counts` of them in each tile)."""
    first = _first(counts)
    gaps = np.diff(indices, prepend=0) - 1
    gaps[first] = indices[first]
    assert (gaps >= 0).all(), "the indices of an update increase inside each tile"
    escapes = gaps // _ESCAPE
    out = np.full(len(gaps) + int(escapes.sum()), _ESCAPE, np.uint8)
    out[np.cumsum(escapes + 1) - 1] = gaps % _ESCAPE
    return out


def _indices(gaps: _Bytes, sizes: _Ints, counts: _Ints) -> npt.NDArray[np.int16]:
    """The indices that gap bytes stand for: the inverse of `_gap_bytes`, for bytes it may not have made."""
    ends = np.flatnonzero(gaps != _ESCAPE)
    if len(ends) != int(counts.sum()) or ends[-1] != len(gaps) - 1:
        raise FrameError("frame_gaps", f"{len(ends)} gaps where the tiles keep {int(counts.sum())} entries")
    escapes = np.diff(ends, prepend=-1) - 1
    steps = escapes * _ESCAPE + gaps[ends] + 1
    # A gap is at most 255 × the frame's bytes, so sums over the frame stay far inside int64.
    reached = np.cumsum(steps)
    first = _first(counts)
    before = reached[first] - steps[first]
    indices = reached - np.repeat(before, counts) - 1
    last = indices[first + counts - 1]
    # Indices increase inside a tile, so the last one decides for all.
    if (last >= sizes).any():
        raise FrameError("index_range", "an index is outside its tile")
    return indices.astype(np.int16)


def _scale_bytes(scales: _Bytes) -> _Bytes:
    """What is written of the frame's scale bytes (tiles, 2): differences of neighbours, then of each tile's two."""
    low, high = scales.T
    return np.concatenate([np.diff(high, prepend=np.uint8(0)), high - low])


def _scales(written: _Bytes) -> _Bytes:
    """The inverse of `_scale_bytes`; every byte string of the right length is one of scales."""
    steps, spreads = written.reshape(_SCALES, -1)
    high = np.cumsum(steps, dtype=np.uint8)
    return np.stack([high - spreads, high], axis=1)


def _pack(codes: _Bytes) -> _Bytes:
    assert (codes <= 3).all(), "a code has two bits"
    padded = np.zeros(_code_bytes(len(codes)) * 4, np.uint8)
    padded[: len(codes)] = codes
    quads = padded.reshape(-1, 4)
    packed: _Bytes = np.bitwise_or.reduce(quads << _CODE_SHIFTS, axis=1)
    return packed


def _unpack(packed: _Bytes, entries: int) -> _Bytes:
    codes: _Bytes = (packed[:, None] >> _CODE_SHIFTS & np.uint8(3)).reshape(-1)
    if codes[entries:].any():
        raise FrameError("code_padding", "a bit after the last code is set")
    return codes[:entries]


def _check_zero_scales(scales: _Bytes, codes: _Bytes, counts: _Ints) -> None:
    """A value of zero has one form: where the scale is 0, so is the code."""
    tiles = np.repeat(np.arange(len(counts)), counts)
    if ((scales[tiles, codes & 1] == 0) & (codes != 0)).any():
        raise FrameError("scale_zero", "a value of scale 0 has a code that is not 0")


def _take(view: memoryview, at: int, size: int) -> tuple[memoryview, int]:
    if len(view) - at < size:
        raise FrameError("frame_truncated", f"{size} bytes expected at {at}, {len(view) - at} left")
    return view[at : at + size], at + size


def _take_squeezed(
    decompressor: zstandard.ZstdDecompressor, view: memoryview, at: int, least: int, most: int
) -> tuple[_Bytes, int]:
    """The decompressed scale and gap bytes at `at`, between `least` and `most` of them."""
    prefix, at = _take(view, at, _LENGTH_BYTES)
    length = int.from_bytes(prefix, "little")
    if length > _compress_bound(most):
        raise FrameError("frame_length", f"{length} bytes of scales and gaps are more than the frame's tiles can have")
    body, at = _take(view, at, length)
    return np.frombuffer(_decompress(decompressor, bytes(body), least, most), np.uint8), at


def _squeeze(compressor: zstandard.ZstdCompressor, scales: _Bytes, gaps: _Bytes) -> bytes:
    """One zstd frame of both, with a block's end between them."""
    stream = compressor.compressobj(size=len(scales) + len(gaps))
    return b"".join(
        (
            stream.compress(scales.tobytes()),
            stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK),
            stream.compress(gaps.tobytes()),
            stream.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH),
        )
    )


def _decompress(decompressor: zstandard.ZstdDecompressor, body: bytes, least: int, most: int) -> bytes:
    if body[:4] != zstandard.FRAME_HEADER:
        raise FrameError("frame_zstd", "scales and gaps do not begin with the magic number of a zstd frame")
    try:
        header = zstandard.get_frame_parameters(body)
        size = zstandard.frame_content_size(body)
    except zstandard.ZstdError as error:
        raise FrameError("frame_zstd", str(error)) from error
    if size < 0 or header.dict_id or header.has_checksum:
        raise FrameError("frame_zstd", "a frame must have its content size, no dictionary and no checksum")
    if not least <= size <= most or header.window_size > max(size, MAX_WINDOW_BYTES):
        raise FrameError("frame_length", f"{size} bytes of scales and gaps declared, {least} to {most} possible")
    try:
        # The output is allocated from the content size, which was checked above; zstd never writes past it.
        return decompressor.decompress(body, max_output_size=most, read_across_frames=False, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FrameError("frame_zstd", str(error)) from error
