"""The outer step on a GPU, and what takes an update off θ or puts it back; see `muster.kernels.cuda.language`."""

import triton.language as tl

from muster.kernels.cuda.language import TILE, inline, lanes, program, signed, tile_at


@inline
def _scales(byte: tl.tensor, table: tl.tensor, limit: tl.tensor) -> tl.tensor:
    """The scales, low and high, of the bytes from `byte` on, up to a limit."""
    most = tl.load(limit)
    low = tl.minimum(tl.load(table + tl.load(byte).to(tl.int32)), most)
    return low, tl.minimum(tl.load(table + tl.load(byte + 1).to(tl.int32)), most)


@inline
def _step(
    line: tl.tensor, sums: tl.tensor, senders: tl.tensor, touched: tl.tensor, alpha: tl.tensor, divisors: tl.tensor
) -> tl.tensor:
    """What is at `line`, and what it becomes, where it is touched."""
    old = tl.load(line, mask=touched, other=0.0)
    step = tl.load(sums, mask=touched, other=0.0)
    step = tl.div_rn(step, tl.load(divisors + senders.to(tl.int32), mask=touched, other=1.0))
    return old, old - tl.load(alpha) * step


@inline
def _ranks(touched: tl.tensor) -> tl.tensor:
    """How many lanes before each one are touched, and how many there are."""
    one = touched.to(tl.int32)
    return tl.cumsum(one, 0) - one, tl.sum(one, 0)


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
    factors: tl.tensor,
    alpha: tl.tensor,
    divisors: tl.tensor,
    updates: tl.tensor,
    entries: tl.tensor,
    table: tl.tensor,
    scratch: tl.tensor,
    saved: tl.tensor,
    room: tl.tensor,
    counts: tl.tensor,
    TILE_COLS: tl.constexpr,
    KEPT: tl.constexpr,
) -> None:
    """The outer step of one tensor of so many tiles, shared between instances; see `muster.kernels.step.aggregate_`.

    (indices, codes) are (updates, entries), scales (updates, tiles, 2), of this tensor alone; factors (updates, 2):
    limit and weight; alpha fp32 (1,), divisors fp32 (updates + 1,), by number of senders. scratch, fp32 (instances, 2,
    TILE), is all 0 before and after: sums and numbers of senders, in the cache of the GPU. A tile has KEPT entries.
    saved (tiles, room) := the old bits of what is touched; counts, of the whole grid, := how many each tile has.
    """
    total = scratch + tl.program_id(0) * 2 * TILE
    listed, lane, zero = total + TILE, tl.arange(0, KEPT), tl.load(starts + first_tile)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        first = tl.load(starts + first_tile + tile)
        mine = lane < tl.load(starts + first_tile + tile + 1) - first
        for update in range(updates):
            at = tl.cast(update, tl.int64) * entries + (first - zero) + lane
            place = tl.load(indices + at, mask=mine, other=0).to(tl.int32)
            code = tl.load(codes + at, mask=mine, other=0).to(tl.int32)
            byte = scales + 2 * (tl.cast(update, tl.int64) * tiles + tile)
            low, high = _scales(byte, table, factors + 2 * update)
            term = tl.load(factors + 2 * update + 1) * signed(code, low, high)
            tl.store(total + place, tl.load(total + place, mask=mine, other=0.0) + term, mask=mine)
            tl.store(listed + place, tl.load(listed + place, mask=mine, other=0.0) + 1.0, mask=mine)
            # The next update's entries are other lanes'.
            tl.debug_barrier()
        begin, height, width = tile_at(tile, rows, cols, TILE_COLS)
        where, index, there = lanes(begin, height, width, cols, TILE_COLS)
        senders = tl.load(listed + index, mask=there, other=0.0)
        touched = senders > 0
        rank, count = _ranks(touched)
        old, new = _step(theta + where, total + index, senders, touched, alpha, divisors)
        tl.store(saved + tl.cast(tile, tl.int64) * room + rank, old, mask=touched)
        tl.store(counts + first_tile + tile, count)
        tl.store(theta + where, new, mask=touched)
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
    begin, _, width = tile_at(tile, rows, cols, TILE_COLS)
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
    low, high = _scales(scales + 2 * (first_tile + tile), table, limit)
    code = tl.load(codes + at, mask=mine, other=0).to(tl.int32)
    old = tl.load(theta + where, mask=mine, other=0.0)
    if SAVE:
        tl.store(saved + at, old, mask=mine)
    tl.store(theta + where, old - tl.load(factor) * signed(code, low, high), mask=mine)


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
        begin, height, width = tile_at(tile, rows, cols, TILE_COLS)
        where, index, there = lanes(begin, height, width, cols, TILE_COLS)
        touched = tl.load(listed + index, mask=there, other=0.0) > 0
        rank, count = _ranks(touched)
        log = tl.load(log_starts + first_tile + tile)
        there_are = tl.load(log_starts + first_tile + tile + 1) - log
        tl.store(bad, 1, mask=count != there_are)
        old = tl.load(values + log + rank, mask=touched & (rank < there_are), other=0.0)
        tl.store(theta + where, old, mask=touched)
        tl.debug_barrier()
        tl.store(listed + index, tl.zeros((TILE,), tl.float32), mask=touched)
        tl.debug_barrier()
