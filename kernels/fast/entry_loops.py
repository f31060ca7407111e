"""The compiled loops over what an update says, without θ: reading its frames, and counting what its norms are made of.

In a file of their own, with nothing but `jit` from elsewhere, because numba knows a cached loop is stale by the age of
its own file alone. Nothing here says why a frame is refused: `muster.kernels.frames` does, which reads it again then.
"""

from __future__ import annotations

import numpy as np

from muster.kernels.fast.jit import Bytes, Longs, Shorts, Sizes, jit

_ESCAPE = 255


@jit
def read_frame(content: Bytes, packed: Bytes, sizes: Sizes, starts: Longs, out: tuple[Shorts, Bytes, Bytes]) -> bool:
    """Read one frame into out = (indices, codes, scale bytes), of its tiles alone; False where anything is wrong.

    `content` are its scale and gap bytes, at least two a tile, `packed` its code bytes, however many there are. `sizes`
    are the entries of its tiles, `starts`, one more, where each has its kept entries among all. What is written is void
    where False is returned.
    """
    return (
        _codes(packed, out[1])
        and _gaps(content[2 * len(sizes) :], sizes, starts, out[0])
        and _scales(content, starts, out)
    )


@jit
def _codes(packed: Bytes, codes: Bytes) -> bool:
    """The codes; False where there are not as many bytes as they have, or a bit after the last one is set."""
    if len(packed) != (len(codes) + 3) // 4:
        return False
    whole = len(codes) // 4
    for i in range(whole):
        byte = packed[i]
        codes[4 * i], codes[4 * i + 1] = byte & 3, byte >> 2 & 3
        codes[4 * i + 2], codes[4 * i + 3] = byte >> 4 & 3, byte >> 6
    if whole == len(packed):
        return True
    rest = int(packed[whole])
    for j in range(4 * whole, len(codes)):
        codes[j] = rest & 3
        rest >>= 2
    return rest == 0


@jit
def _gaps(gaps: Bytes, sizes: Sizes, starts: Longs, indices: Shorts) -> bool:
    """The indices; False where the bytes are not exactly their gaps, or an index is outside its tile."""
    at, end, entry = 0, len(gaps), 0
    for tile in range(len(sizes)):
        index = -1
        for _ in range(starts[tile + 1] - starts[tile]):
            if at == end:
                return False
            byte = int(gaps[at])
            at += 1
            while byte == _ESCAPE:
                index += _ESCAPE
                if at == end:
                    return False
                byte = int(gaps[at])
                at += 1
            index += byte + 1
            indices[entry] = np.int16(index)
            entry += 1
        if index >= sizes[tile]:  # they increase inside a tile, so the last one decides for all
            return False
    return at == end


@jit
def _scales(written: Bytes, starts: Longs, out: tuple[Shorts, Bytes, Bytes]) -> bool:
    """The scale bytes; False where a value of scale 0 has a code that is not 0."""
    tiles, high = len(starts) - 1, 0
    for tile in range(tiles):
        high = high + int(written[tile]) & 255
        low = high - int(written[tiles + tile]) & 255
        out[2][tile, 0], out[2][tile, 1] = low, high
        if low == 0 or high == 0:
            for code in out[1][starts[tile] - starts[0] : starts[tile + 1] - starts[0]]:
                if code != 0 and (high if code & 1 else low) == 0:
                    return False
    return True


@jit
def count_high(codes: Bytes, starts: Longs, counts: Longs) -> None:
    """counts := how many codes of each tile have the high scale; `starts`, one more, says where each has its own."""
    for tile in range(len(counts)):
        found = np.uint32(0)
        for code in codes[starts[tile] : starts[tile + 1]]:
            found += np.uint32(code & 1)
        counts[tile] = found
