"""Compression on a GPU, at the speed of its memory, and to the same bits; see `muster.kernels.cuda.language`."""

import triton.language as tl

from muster.kernels.cuda.language import inline, lanes, program, signed, tile_at

MAGNITUDE: tl.constexpr = tl.constexpr(0x7FFFFFFF)
INFINITY: tl.constexpr = tl.constexpr(0x7F800000)
FRACTION_BITS: tl.constexpr = tl.constexpr(23)
FRACTION: tl.constexpr = tl.constexpr((1 << 23) - 1)
UNIT_OF_POWER_0: tl.constexpr = tl.constexpr(-150)
"""log2 of the last bit of an fp32 number, less its biased exponent."""
BYTES: tl.constexpr = tl.constexpr(256)
HALF: tl.constexpr = tl.constexpr(16)
"""Bits of half a lane's int32: two counts of up to TILE share it."""
LOW_HALF: tl.constexpr = tl.constexpr((1 << 16) - 1)


@inline
def _bound(magnitude: tl.tensor, largest: tl.tensor, kept: tl.tensor, size: tl.tensor) -> tl.tensor:
    """A bound that `kept` of the magnitudes ≥ 0 reach, or the largest that more do: halving, by counting."""
    low, found = largest * 0, size
    # Not beyond infinity, so that the sum cannot overflow where the tile will be refused.
    high = tl.minimum(largest, INFINITY) + 1
    while (high - low > 1) & (found != kept):
        middle = low + ((high - low) >> 1)
        reach = tl.sum((magnitude >= middle).to(tl.int32), 0)
        enough = reach >= kept
        low, high = tl.where(enough, middle, low), tl.where(enough, high, middle)
        found = tl.where(enough, reach, found)
    return low


@inline
def _scale_byte(
    total: tl.tensor, count: tl.tensor, power: tl.tensor, mantissas: tl.tensor, powers: tl.tensor
) -> tl.tensor:
    """How many of the quantiser's bounds, mantissa · 2**power, are up to total / count · 2**power, by integers alone.

    A bound is where total · 2**shift ≥ count · mantissa. No number reaches 2**63: the right side is under 2**37 and
    at least 2**23, the total under 2**37, and larger shifts than the ones allowed change nothing. The reference
    divides in float64, which changes nothing either: sides that differ do so by more than 2**-37 of themselves.
    """
    which = tl.arange(0, BYTES)
    there = which < BYTES - 1
    shift = power - tl.load(powers + which, mask=there, other=0)
    least = count.to(tl.int64) * tl.load(mantissas + which, mask=there, other=0)
    down = tl.minimum(tl.maximum(shift, 0), 40).to(tl.int64)
    up = tl.minimum(tl.maximum(-shift, 0), 26).to(tl.int64)
    # One of the two is 0.
    least = ((least << up) + (tl.full((1,), 1, tl.int64) << down) - 1) >> down
    return tl.sum((there & (total >= least)).to(tl.int32), 0)


@inline
def _scale_bytes(
    magnitude: tl.tensor,
    largest: tl.tensor,
    chosen: tl.tensor,
    kept: tl.tensor,
    mantissas: tl.tensor,
    powers: tl.tensor,
) -> tl.tensor:
    """The scale bytes, low and high, of a tile's chosen entries; see `muster.kernels.quantiser.choose_scales`.

    A subnormal number has the exponent of the smallest normal ones, and no leading 1. Where the largest entry is
    subnormal too, the unit here is not the reference's; but then both bytes are 0 in any unit.
    """
    exponent, highest = magnitude >> FRACTION_BITS, tl.maximum(largest >> FRACTION_BITS, 1)
    mantissa = (magnitude & FRACTION) + tl.where(exponent > 0, FRACTION + 1, 0)
    below = tl.maximum(tl.minimum(highest - tl.maximum(exponent, 1), 31), 0)
    steps = tl.where(chosen, mantissa >> below, 0).to(tl.int64)
    total = tl.sum(steps, 0)
    high = chosen & (steps * kept >= total)
    high_total, high_count = tl.sum(tl.where(high, steps, 0), 0), tl.sum(high.to(tl.int32), 0)
    low_total = tl.where(high_count < kept, total - high_total, high_total)
    low_count = tl.where(high_count < kept, kept - high_count, high_count)
    power = highest + UNIT_OF_POWER_0
    return (
        _scale_byte(low_total, low_count, power, mantissas, powers),
        _scale_byte(high_total, high_count, power, mantissas, powers),
    )


@program("rows", "first_tile")
def compress_tiles(
    error: tl.tensor,
    delta: tl.tensor,
    beta: tl.tensor,
    rows: tl.tensor,
    cols: tl.tensor,
    first_tile: tl.tensor,
    starts: tl.tensor,
    mantissas: tl.tensor,
    powers: tl.tensor,
    table: tl.tensor,
    indices: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    bad: tl.tensor,
    TILE_COLS: tl.constexpr,
    IN_PLACE: tl.constexpr,
) -> None:
    """Compress one tile of one tensor, of grid tile `first_tile` and those after it, per instance.

    IN_PLACE: delta := a − Δ̂ of a = beta · error + delta. Otherwise a is delta, and nothing but (indices, codes, scales)
    is written. `beta` is fp32 (1,). bad := 1, and delta is void, where a value is not finite.
    """
    tile = tl.program_id(0)
    begin, height, width = tile_at(tile, rows, cols, TILE_COLS)
    where, index, there = lanes(begin, height, width, cols, TILE_COLS)
    value = tl.load(delta + where, mask=there, other=0.0)
    if IN_PLACE:
        value = tl.load(beta) * tl.load(error + where, mask=there, other=0.0) + value
    magnitude = tl.where(there, value.to(tl.int32, bitcast=True) & MAGNITUDE, -1)
    largest = tl.max(magnitude, 0)
    tl.store(bad, 1, mask=largest >= INFINITY)

    first = tl.load(starts + first_tile + tile)
    count = (tl.load(starts + first_tile + tile + 1) - first).to(tl.int32)
    bound = _bound(magnitude, largest, count, (height * width).to(tl.int32))
    above, level = (magnitude > bound).to(tl.int32), (magnitude == bound).to(tl.int32)
    both = above + (level << HALF)
    before = tl.cumsum(both, 0) - both
    ties, level_before = count - tl.sum(above, 0), before >> HALF
    # Without a finite bound more may be chosen than there is room for.
    chosen = (largest < INFINITY) & ((above != 0) | ((level != 0) & (level_before < ties)))
    slot = first + (before & LOW_HALF) + tl.minimum(level_before, ties)

    low_byte, high_byte = _scale_bytes(magnitude, largest, chosen, count, mantissas, powers)
    low, high = tl.load(table + low_byte), tl.load(table + high_byte)
    upper = tl.abs(value) >= (low + high) * 0.5
    code = ((value < 0).to(tl.int32) << 1) + upper.to(tl.int32)
    code = tl.where(tl.where(upper, high, low) > 0, code, 0)
    tl.store(indices + slot, index.to(tl.int16), mask=chosen)
    tl.store(codes + slot, code.to(tl.uint8), mask=chosen)
    tl.store(scales + 2 * (first_tile + tile), low_byte.to(tl.uint8))
    tl.store(scales + 2 * (first_tile + tile) + 1, high_byte.to(tl.uint8))
    if IN_PLACE:
        tl.store(delta + where, tl.where(chosen, value - signed(code, low, high), value), mask=there)
