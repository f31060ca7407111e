"""The compiled loops: why a round's tensor work runs at the speed of memory on a CPU, and to the same bits.

Every loop goes over tiles, holds no more than a strip of them, and touches each entry of a tensor once. All are
compiled without fast-math, so the compiler neither reorders sums nor fuses a product with one. They are in one
file on purpose: numba knows a cached loop is stale by the age of the file it is in, and of no other. For the
same reason the numbers of the quantiser are arguments.

A tensor is (rows, cols, tile_rows, tile_cols), flat and row-major (`Grid.matrix`); tiles are numbered within it.
"""

from __future__ import annotations

import math

import numpy as np

from muster.kernels.fast.jit import Bits, Bytes, Counts, Doubles, Floats, Longs, Matrix, Rule, Shorts, jit
from muster.kernels.grid import TILE

_GROUPS = 512
"""Groups of a tile whose largest entries bound the k-th largest from below. Eight entries each: at k = 64 the
bound then lets through 68 entries on average, and costs an eighth of a look at all of them."""
_MEMBERS = TILE // _GROUPS
_STRIP = 16
"""Tiles side by side that are read at once: rows of 4 KiB take half the time that rows of 256 bytes take, and the
strip still fits a core's cache."""
_MAGNITUDE, _INFINITY = np.int32(0x7FFFFFFF), 0x7F800000
_MANTISSA_BITS = 24


@jit
def _tile(matrix: Matrix, tile: int) -> tuple[int, int, int]:
    """Where a tile begins in the flat tensor, its rows and its columns."""
    rows, cols, tile_rows, tile_cols = matrix
    across = -(-cols // tile_cols)
    top, left = tile // across * tile_rows, tile % across * tile_cols
    return top * cols + left, min(tile_rows, rows - top), min(tile_cols, cols - left)


@jit
def _offset(matrix: Matrix, width: int, index: int) -> int:
    """Where the entry of an index is, from where its tile of `width` columns begins."""
    # Unsigned: twice as fast as a division that must get negative numbers right.
    row = int(np.int64(np.uint64(index) // np.uint64(width)))
    return row * (matrix[1] - width) + index


@jit
def _strip(matrix: Matrix, tile: int, tiles: int) -> tuple[int, int, int]:
    """Where the strip of `tiles` tiles that starts with `tile` begins, its rows and its columns."""
    begin, height, _ = _tile(matrix, tile)
    last, _, width = _tile(matrix, tile + tiles - 1)
    return begin, height, last + width - begin


@jit
def _read(values: Floats, matrix: Matrix, tile: int, tiles: int, magnitudes: Bits) -> None:
    """The first `tiles` rows of magnitudes (_STRIP, 4096) := the bits of |values| of a strip, by tile."""
    begin, height, columns = _strip(matrix, tile, tiles)
    for row in range(height):
        for n in range(tiles):
            at, width = begin + row * matrix[1] + n * matrix[3], min(matrix[3], columns - n * matrix[3])
            source, target = values[at : at + width], magnitudes[n, row * width : (row + 1) * width]
            for i in range(width):
                target[i] = np.float32(source[i]).view(np.int32) & _MAGNITUDE


@jit
def _fold(
    error: Floats, delta: Floats, beta: np.float32, matrix: Matrix, tile: int, tiles: int, magnitudes: Bits
) -> None:
    """delta := fl(fl(beta · error) + delta) in a strip, and its magnitudes as `_read` gives them."""
    begin, height, columns = _strip(matrix, tile, tiles)
    for row in range(height):
        for n in range(tiles):
            at, width = begin + row * matrix[1] + n * matrix[3], min(matrix[3], columns - n * matrix[3])
            old, new = error[at : at + width], delta[at : at + width]
            target = magnitudes[n, row * width : (row + 1) * width]
            for i in range(width):
                value = beta * old[i] + new[i]
                new[i] = value
                target[i] = np.float32(value).view(np.int32) & _MAGNITUDE


@jit
def _at_least(values: Bits, count: int, bound: int) -> int:
    """How many of the first `count` values are ≥ bound."""
    found, limit = np.int32(0), np.int32(bound)
    for i in range(count):
        found = np.int32(found + np.int32(values[i] >= limit))
    return int(found)


@jit
def _bound(values: Bits, count: int, kept: int, low: int, high: int, slack: int) -> int:
    """The largest bound that `kept` of the first `count` values reach, or one that at most `slack` more do.

    `low` is reached by at least `kept` of them, `high` by fewer.
    """
    while high - low > 1:
        middle = (low + high) >> 1
        found = _at_least(values, count, middle)
        if found < kept:
            high = middle
        else:
            low = middle
            if found <= kept + slack:
                break
    return low


@jit
def _candidates(
    magnitudes: Bits, size: int, kept: int, largest: Bits, some: Bits, indices: Bits
) -> tuple[int, int, int]:
    """Entries among which the `kept` largest of a tile are, with their indices, ascending.

    Returns their number, a bound all of them reach, and the tile's largest magnitude. The `kept`-th largest
    of the groups' largest entries is such a bound, for as many groups have an entry that reaches it.
    """
    low, high = _MAGNITUDE, np.int32(0)
    for group in range(_GROUPS):
        most = magnitudes[group]
        for n in range(1, _MEMBERS):
            most = max(most, magnitudes[n * _GROUPS + group])
        largest[group] = most
        low, high = min(low, most), max(high, most)
    if kept > min(size, _GROUPS):
        for i in range(size):
            some[i], indices[i] = magnitudes[i], i
        return size, 0, int(high)
    bound = _bound(largest, _GROUPS, kept, max(int(low), 0), int(high) + 1, kept >> 3)
    groups = 0
    for group in range(_GROUPS):
        # The list of the groups that reach it takes the place of what has been looked at.
        reaches = largest[group] >= bound
        largest[groups] = group
        groups += reaches
    count = 0
    for begin in range(0, TILE, _GROUPS):
        for n in range(groups):
            index = begin + largest[n]
            value = magnitudes[index]
            # Written always and counted at times: no branch to guess wrong.
            some[count], indices[count] = value, index
            count += value >= bound
    return count, bound, int(high)


@jit
def _top(magnitudes: Bits, size: int, kept: int, largest: Bits, some: Bits, indices: Bits) -> bool:
    """The first `kept` of `indices` := those of the largest magnitudes, ties to the lower, ascending.

    False where a magnitude is that of an infinity or of no number.
    """
    count, bound, high = _candidates(magnitudes, size, kept, largest, some, indices)
    if high >= _INFINITY:
        return False
    if count > kept:
        bound = _bound(some, count, kept, bound, high + 1, 0)
    ties = kept - _at_least(some, count, bound + 1)
    chosen = 0
    for n in range(count):
        tie = some[n] == bound and ties > 0
        ties -= tie
        indices[chosen] = indices[n]
        chosen += tie or some[n] > bound
    return True


@jit
def _scale_bytes(values: Floats, bounds: Doubles) -> tuple[int, int]:
    """The two scale bytes of a tile's kept values: those of `muster.kernels.quantiser.choose_scales`, by its sums."""
    largest = np.float32(0)
    for value in values:
        largest = max(largest, abs(value))
    _, exponent = math.frexp(np.float64(largest))
    units = math.ldexp(1.0, _MANTISSA_BITS - exponent)
    total, high_total, high_count = 0, 0, 0
    for value in values:
        total += int(np.float64(abs(value)) * units)
    for value in values:
        steps = int(np.float64(abs(value)) * units)
        if len(values) * steps >= total:
            high_total += steps
            high_count += 1
    low_count = len(values) - high_count
    high = high_total / high_count / units
    low = (total - high_total) / low_count / units if low_count > 0 else high
    return int(np.searchsorted(bounds, low, side="right")), int(np.searchsorted(bounds, high, side="right"))


@jit
def _quantise(values: Floats, codes: Bytes, rule: Rule) -> tuple[int, int]:
    """Codes of a tile's kept values; returns its scale bytes. See `muster.kernels.quantiser.quantise`."""
    low_byte, high_byte = _scale_bytes(values, rule[1])
    low, high = rule[0][low_byte], rule[0][high_byte]
    middle = (low + high) * np.float32(0.5)
    for n in range(len(values)):
        above = abs(values[n]) >= middle
        codes[n] = 2 * (values[n] < 0) + above if (high if above else low) > 0 else 0
    return low_byte, high_byte


@jit
def _levels(low: np.float32, high: np.float32, factor: np.float32, levels: Floats) -> None:
    """levels := fl(factor · v) for the value v of each code."""
    levels[0], levels[1] = factor * low, factor * high
    levels[2], levels[3] = -levels[0], -levels[1]


@jit
def compress_tiles(
    error: Floats,
    delta: Floats,
    beta: np.float32,
    matrix: Matrix,
    tiles: tuple[int, int],
    starts: Longs,
    rule: Rule,
    out: tuple[Shorts, Bytes, Bytes],
    in_place: bool,
) -> bool:
    """Compress tiles[0] up to tiles[1] of one tensor; False where a value is not finite.

    Where `in_place`, delta := a − Δ̂ of a = β·error + delta; else a is delta and nothing but `out` is written. `starts`
    says where each of the tensor's tiles has its entries in out = (indices, codes, the tensor's scale bytes). What is
    written is void where False is returned.
    """
    magnitudes, largest = np.empty((_STRIP, TILE), np.int32), np.empty(_GROUPS, np.int32)
    some, indices = np.empty(TILE + 1, np.int32), np.empty(TILE + 1, np.int32)
    values, places = np.empty(TILE, np.float32), np.empty(TILE, np.int64)
    levels, one = np.empty(4, np.float32), np.float32(1)
    across, tile = -(-matrix[1] // matrix[3]), tiles[0]
    while tile < tiles[1]:
        strip = min(_STRIP, tiles[1] - tile, across - tile % across)
        if in_place:
            _fold(error, delta, beta, matrix, tile, strip, magnitudes)
        else:
            _read(delta, matrix, tile, strip, magnitudes)
        for n in range(strip):
            begin, height, width = _tile(matrix, tile)
            magnitudes[n, height * width :] = -1  # of no entry
            first, count = starts[tile], int(starts[tile + 1] - starts[tile])
            if not _top(magnitudes[n], height * width, count, largest, some, indices):
                return False
            for j in range(count):
                places[j] = begin + _offset(matrix, width, int(indices[j]))
                values[j] = delta[places[j]]
                out[0][first + j] = indices[j]
            codes = out[1][first : first + count]
            low, high = _quantise(values[:count], codes, rule)
            out[2][tile, 0], out[2][tile, 1] = low, high
            if in_place:
                _levels(rule[0][low], rule[0][high], one, levels)
                for j in range(count):
                    delta[places[j]] = values[j] - levels[codes[j]]
            tile += 1
    return True


@jit
def _add(
    indices: Shorts, codes: Bytes, levels: Floats, sums: Floats, by: Floats, counts: tuple[Counts, Floats]
) -> None:
    """sums += a tile's terms; by := how many each place has, or its divisor; counts = (how many, table or none)."""
    for j in range(len(indices)):
        # Unsigned: no look whether it counts from the end.
        place = np.uint64(indices[j])
        sums[place] += levels[codes[j]]
        if len(counts[1]) == 0:
            by[place] += np.float32(1)
        else:
            # Looked up here, per entry: per coordinate, the last loop would take three times as long.
            counts[0][place] += np.uint32(1)
            by[place] = counts[1][counts[0][place]]


@jit
def _move(line: Floats, sums: Floats, by: Floats, alpha: np.float32) -> None:
    """line −= alpha · (sums / by) where by > 0; `sums`, which nobody needs any more, := what line was."""
    for i in range(len(line)):
        old, step = line[i], sums[i] / by[i]
        line[i] = old - alpha * step if by[i] > 0 else old
        sums[i] = old


@jit
def step_tiles(
    theta: Floats,
    matrix: Matrix,
    tiles: tuple[int, int],
    starts: Longs,
    sent: tuple[Shorts, Bytes, Bytes],
    limits: Floats,
    weights: Floats,
    alpha: np.float32,
    divisors: Floats,
    scales: Floats,
    log: tuple[Floats, Longs],
) -> None:
    """The outer step of tiles[0] up to tiles[1] of one tensor; see `muster.kernels.step.aggregate_`.

    `sent` is (indices, codes, scale bytes) of R updates, (R, ...) each, of these tiles alone; limits and weights (R,);
    divisors (R + 1,), all but the first > 0. log := old bits (room for one more), and how many each of these tiles has.
    """
    total, divided = np.zeros((_STRIP, TILE), np.float32), np.zeros((_STRIP, TILE), np.float32)
    listed, levels = np.zeros(TILE, np.uint32), np.empty(4, np.float32)
    # Where the divisors are the numbers of senders, as for "sender_mean", no table has to be read.
    table = divisors[:0] if np.all(divisors[1:] == np.arange(1, len(divisors))) else divisors
    across, tile, saved = -(-matrix[1] // matrix[3]), tiles[0], 0
    while tile < tiles[1]:
        strip = min(_STRIP, tiles[1] - tile, across - tile % across)
        for n in range(strip):
            here = tile + n - tiles[0]
            first, last = starts[tile + n] - starts[tiles[0]], starts[tile + n + 1] - starts[tiles[0]]
            sums, by = total[n], divided[n]
            for update in range(len(weights)):
                low, high = scales[sent[2][update, here, 0]], scales[sent[2][update, here, 1]]
                _levels(min(low, limits[update]), min(high, limits[update]), weights[update], levels)
                indices, codes = sent[0][update, first:last], sent[1][update, first:last]
                _add(indices, codes, levels, sums, by, (listed, table))
            listed[:] = 0
        begin, height, columns = _strip(matrix, tile, strip)
        for row in range(height):
            for n in range(strip):
                at, width = begin + row * matrix[1] + n * matrix[3], min(matrix[3], columns - n * matrix[3])
                line = slice(row * width, (row + 1) * width)
                _move(theta[at : at + width], total[n, line], divided[n, line], alpha)
        for n in range(strip):
            _, height, width = _tile(matrix, tile + n)
            before, by, old, count = total[n], divided[n], log[0][saved:], np.uint64(0)
            for i in range(height * width):
                old[count] = before[i]  # always written, counted at times, as above
                count += np.uint64(by[i] > 0)
            log[1][tile + n - tiles[0]] = count
            saved += int(count)
        total[:strip], divided[:strip] = 0, 0
        tile += strip


@jit
def subtract_tiles(
    theta: Floats,
    matrix: Matrix,
    tiles: tuple[int, int],
    starts: Longs,
    sent: tuple[Shorts, Bytes, Bytes],
    limit: np.float32,
    factor: np.float32,
    scales: Floats,
    saved: Floats,
) -> None:
    """theta −= fl(factor · v) at the entries of one update; where `saved` has room, it gets what was there.

    `starts` says where each of the tensor's tiles has its entries in `saved` and in sent = (indices, codes, the
    tensor's scale bytes).
    """
    levels = np.empty(4, np.float32)
    for tile in range(tiles[0], tiles[1]):
        begin, _, width = _tile(matrix, tile)
        low, high = scales[sent[2][tile, 0]], scales[sent[2][tile, 1]]
        _levels(min(low, limit), min(high, limit), factor, levels)
        for j in range(starts[tile], starts[tile + 1]):
            at = begin + _offset(matrix, width, int(sent[0][j]))
            if len(saved) > 0:
                saved[j] = theta[at]
            theta[at] -= levels[sent[1][j]]


@jit
def put_tiles(
    theta: Floats, matrix: Matrix, tiles: tuple[int, int], starts: Longs, sent: Shorts, log: tuple[Longs, Floats]
) -> bool:
    """theta := the old bits at what R updates list in tiles[0] up to tiles[1] of one tensor; False if they are others'.

    `sent`, indices (R, ...), is of these tiles alone; log = (where each of the tensor's tiles has its own, old bits).
    """
    listed = np.zeros(TILE, np.uint8)
    for tile in range(tiles[0], tiles[1]):
        begin, height, width = _tile(matrix, tile)
        first, last = starts[tile] - starts[tiles[0]], starts[tile + 1] - starts[tiles[0]]
        at, count = log[0][tile], log[0][tile + 1] - log[0][tile]
        if len(sent) == 1:  # its entries are in the order of the log
            if count != last - first:
                return False
            for j in range(count):
                theta[begin + _offset(matrix, width, int(sent[0, first + j]))] = log[1][at + j]
            continue
        for update in range(len(sent)):
            for index in sent[update, first:last]:
                listed[index] = 1
        if listed.sum() != count:
            return False
        for index in range(height * width):
            if listed[index]:
                theta[begin + _offset(matrix, width, index)] = log[1][at]
                at += 1
        listed[:] = 0
    return True
