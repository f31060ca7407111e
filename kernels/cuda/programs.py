"""The Triton programs: why a round's tensor work runs at the speed of a GPU's memory, and to the same bits.

A program handles one tile at a time. Its entries lie in TILE lanes, ordered by index: lane = row · tile_cols +
column of a whole tile, where a clipped tile leaves lanes empty. What decides is integers (which entries, which
scales), so no order of summation shows; what is fp32 is one rounded operation after another, in the order of the
reference; `OPTIONS` tell the compiler to leave them as they are.

A tensor is (rows, cols), row-major, in tiles of TILE / TILE_COLS rows and TILE_COLS columns (`Grid.matrix`).
`starts`, int64, says where each tile of the grid, and not of the tensor, has its entries.
"""

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

import triton
import triton.language as tl

from muster.kernels import grid

P = ParamSpec("P")
T = TypeVar("T")

OPTIONS = {"enable_fp_fusion": False, "enable_reflect_ftz": False, "num_stages": 1}
"""For every launch: no product is fused with a sum, division does not flush subnormal numbers, and (one stage) loads
are not moved ahead of the stores of an earlier pass of a loop."""

TILE: tl.constexpr = tl.constexpr(grid.TILE)
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


class Program(Protocol):
    """What a compiled program is for its callers: program[(number of instances,)](arguments)."""

    def __getitem__(self, instances: tuple[int]) -> Callable[..., None]:
        """The program, to be run so many times."""


def program(*varying: str) -> Callable[[Callable[..., None]], Program]:
    """Compile for launches from the host; not anew for the values of the arguments named."""

    def compiled(function: Callable[..., None]) -> Program:
        made: Program = triton.jit(function, do_not_specialize=varying)
        return made

    return compiled


def inline(function: Callable[P, T]) -> Callable[P, T]:
    """Compile for use by programs."""
    made: Callable[P, T] = triton.jit(function)
    return made


@inline
def _tile(tile: tl.tensor, rows: tl.tensor, cols: tl.tensor, TILE_COLS: tl.constexpr) -> tl.tensor:
    """Where a tile of the tensor begins, int64, and its rows and columns."""
    across = (cols + TILE_COLS - 1) // TILE_COLS
    top, left = (tile // across).to(tl.int64) * (TILE // TILE_COLS), (tile % across).to(tl.int64) * TILE_COLS
    return top * cols + left, tl.minimum(rows - top, TILE // TILE_COLS), tl.minimum(cols - left, TILE_COLS)


@inline
def _lanes(
    begin: tl.tensor, height: tl.tensor, width: tl.tensor, cols: tl.tensor, TILE_COLS: tl.constexpr
) -> tl.tensor:
    """For each lane: where its entry is, the entry's index inside the tile, and whether there is one."""
    lane = tl.arange(0, TILE)
    row, column = (lane // TILE_COLS).to(tl.int64), lane % TILE_COLS
    return begin + row * cols + column, row * width + column, (row < height) & (column < width)


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


@inline
def _signed(code: tl.tensor, low: tl.tensor, high: tl.tensor) -> tl.tensor:
    """The value of a code. A product, for Triton's negation is 0 − x, which makes +0 of +0."""
    return tl.where((code & 1) != 0, high, low) * tl.where((code & 2) != 0, -1.0, 1.0)


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
    begin, height, width = _tile(tile, rows, cols, TILE_COLS)
    where, index, there = _lanes(begin, height, width, cols, TILE_COLS)
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
        tl.store(delta + where, tl.where(chosen, value - _signed(code, low, high), value), mask=there)


@program("rows", "tiles", "first_tile", "updates", "entries", "room")
def step_tiles(
    theta: tl.tensor,
    rows: tl.tensor,
    cols: tl.tensor,
    tiles: tl.tensor,
    first_tile: tl.tensor,
    starts: tl.tensor,
    indices: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    limits: tl.tensor,
    weights: tl.tensor,
    alpha: tl.tensor,
    divisors: tl.tensor,
    updates: tl.tensor,
    entries: tl.tensor,
    table: tl.tensor,
    total: tl.tensor,
    listed: tl.tensor,
    saved: tl.tensor,
    room: tl.tensor,
    counts: tl.tensor,
    TILE_COLS: tl.constexpr,
    KEPT: tl.constexpr,
) -> None:
    """The outer step of one tensor of so many tiles, shared between instances; see `muster.kernels.step.aggregate_`.

    (indices, codes) are (updates, entries), scales (updates, tiles, 2), of this tensor alone; limits and weights fp32
    (updates,), alpha fp32 (1,), divisors fp32 (updates + 1,), by number of senders. `total` and `listed`, fp32
    (instances, TILE), are all 0 before and after: sums and numbers of senders, in the cache of the GPU. A tile has
    KEPT entries at most. saved (tiles, room) gets the old bits of what is touched, ascending, and counts int32, of
    the whole grid, how many each tile has.
    """
    total += tl.program_id(0) * TILE
    listed += tl.program_id(0) * TILE
    lane = tl.arange(0, KEPT)
    zero = tl.load(starts + first_tile)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        first = tl.load(starts + first_tile + tile)
        mine = lane < tl.load(starts + first_tile + tile + 1) - first
        for update in range(updates):
            at = tl.cast(update, tl.int64) * entries + (first - zero) + lane
            place = tl.load(indices + at, mask=mine, other=0).to(tl.int32)
            code = tl.load(codes + at, mask=mine, other=0).to(tl.int32)
            byte = scales + 2 * (tl.cast(update, tl.int64) * tiles + tile)
            limit, weight = tl.load(limits + update), tl.load(weights + update)
            low = tl.minimum(tl.load(table + tl.load(byte).to(tl.int32)), limit)
            high = tl.minimum(tl.load(table + tl.load(byte + 1).to(tl.int32)), limit)
            term = weight * _signed(code, low, high)
            tl.store(total + place, tl.load(total + place, mask=mine, other=0.0) + term, mask=mine)
            tl.store(listed + place, tl.load(listed + place, mask=mine, other=0.0) + 1.0, mask=mine)
            # The next update's entries are other lanes'.
            tl.debug_barrier()
        begin, height, width = _tile(tile, rows, cols, TILE_COLS)
        where, index, there = _lanes(begin, height, width, cols, TILE_COLS)
        senders = tl.load(listed + index, mask=there, other=0.0)
        touched = senders > 0
        step = tl.load(total + index, mask=touched, other=0.0)
        step = tl.div_rn(step, tl.load(divisors + senders.to(tl.int32), mask=touched, other=1.0))
        old = tl.load(theta + where, mask=touched, other=0.0)
        one = touched.to(tl.int32)
        tl.store(saved + tl.cast(tile, tl.int64) * room + tl.cumsum(one, 0) - one, old, mask=touched)
        tl.store(counts + first_tile + tile, tl.sum(one, 0))
        tl.store(theta + where, old - tl.load(alpha) * step, mask=touched)
        tl.debug_barrier()
        tl.store(total + index, tl.zeros((TILE,), tl.float32), mask=touched)
        tl.store(listed + index, tl.zeros((TILE,), tl.float32), mask=touched)
        tl.debug_barrier()


@inline
def _entries(
    tile: tl.tensor,
    rows: tl.tensor,
    cols: tl.tensor,
    first_tile: tl.tensor,
    starts: tl.tensor,
    indices: tl.tensor,
    TILE_COLS: tl.constexpr,
    KEPT: tl.constexpr,
) -> tl.tensor:
    """For each lane: the number of its entry in the update, where that is in the tensor, and whether there is one."""
    begin, _, width = _tile(tile, rows, cols, TILE_COLS)
    first = tl.load(starts + first_tile + tile)
    at = first + tl.arange(0, KEPT)
    mine = at < tl.load(starts + first_tile + tile + 1)
    index = tl.load(indices + at, mask=mine, other=0).to(tl.int32)
    across = width.to(tl.int32)
    return at, begin + (index // across).to(tl.int64) * cols + index % across, mine


@program("rows", "first_tile")
def subtract_tiles(
    theta: tl.tensor,
    rows: tl.tensor,
    cols: tl.tensor,
    first_tile: tl.tensor,
    starts: tl.tensor,
    indices: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    limit: tl.tensor,
    factor: tl.tensor,
    table: tl.tensor,
    saved: tl.tensor,
    TILE_COLS: tl.constexpr,
    KEPT: tl.constexpr,
    SAVE: tl.constexpr,
) -> None:
    """theta −= fl(factor · v) at an update's entries of one tile; with SAVE, `saved` gets what was there.

    limit and factor are fp32 (1,); the update's parts are of the whole grid.
    """
    tile = tl.program_id(0)
    at, where, mine = _entries(tile, rows, cols, first_tile, starts, indices, TILE_COLS, KEPT)
    byte = scales + 2 * (first_tile + tile)
    low = tl.minimum(tl.load(table + tl.load(byte).to(tl.int32)), tl.load(limit))
    high = tl.minimum(tl.load(table + tl.load(byte + 1).to(tl.int32)), tl.load(limit))
    code = tl.load(codes + at, mask=mine, other=0).to(tl.int32)
    old = tl.load(theta + where, mask=mine, other=0.0)
    if SAVE:
        tl.store(saved + at, old, mask=mine)
    tl.store(theta + where, old - tl.load(factor) * _signed(code, low, high), mask=mine)


@program("rows", "first_tile")
def put_tiles(
    theta: tl.tensor,
    rows: tl.tensor,
    cols: tl.tensor,
    first_tile: tl.tensor,
    starts: tl.tensor,
    indices: tl.tensor,
    values: tl.tensor,
    TILE_COLS: tl.constexpr,
    KEPT: tl.constexpr,
) -> None:
    """theta := values at an update's entries of one tile."""
    at, where, mine = _entries(tl.program_id(0), rows, cols, first_tile, starts, indices, TILE_COLS, KEPT)
    tl.store(theta + where, tl.load(values + at, mask=mine, other=0.0), mask=mine)


@program("rows", "tiles", "first_tile", "updates", "entries")
def put_listed_tiles(
    theta: tl.tensor,
    rows: tl.tensor,
    cols: tl.tensor,
    tiles: tl.tensor,
    first_tile: tl.tensor,
    starts: tl.tensor,
    indices: tl.tensor,
    log_starts: tl.tensor,
    values: tl.tensor,
    bad: tl.tensor,
    updates: tl.tensor,
    entries: tl.tensor,
    listed: tl.tensor,
    TILE_COLS: tl.constexpr,
    KEPT: tl.constexpr,
) -> None:
    """theta := the old bits at what the updates list in one tensor of so many tiles, shared between instances.

    `indices` (updates, entries) are of this tensor alone; log_starts, int64, of the whole grid. `listed`, fp32
    (instances, TILE), is all 0 before and after. bad := 1 where the log has another number of values.
    """
    listed += tl.program_id(0) * TILE
    lane = tl.arange(0, KEPT)
    zero = tl.load(starts + first_tile)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        first = tl.load(starts + first_tile + tile)
        mine = lane < tl.load(starts + first_tile + tile + 1) - first
        for update in range(updates):
            at = tl.cast(update, tl.int64) * entries + (first - zero) + lane
            place = tl.load(indices + at, mask=mine, other=0).to(tl.int32)
            tl.store(listed + place, 1.0, mask=mine)
        tl.debug_barrier()
        begin, height, width = _tile(tile, rows, cols, TILE_COLS)
        where, index, there = _lanes(begin, height, width, cols, TILE_COLS)
        touched = tl.load(listed + index, mask=there, other=0.0) > 0
        one = touched.to(tl.int32)
        log = tl.load(log_starts + first_tile + tile)
        there_are = tl.load(log_starts + first_tile + tile + 1) - log
        tl.store(bad, 1, mask=tl.sum(one, 0) != there_are)
        rank = tl.cumsum(one, 0) - one
        old = tl.load(values + log + rank, mask=touched & (rank < there_are), other=0.0)
        tl.store(theta + where, old, mask=touched)
        tl.debug_barrier()
        tl.store(listed + index, tl.zeros((TILE,), tl.float32), mask=touched)
        tl.debug_barrier()
