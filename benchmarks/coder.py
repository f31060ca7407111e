"""Would a coder that knows how full rows and columns are pay for its decoding? What its inner loop takes at least.

    THP_MEM_ALLOC_ENABLE=1 python benchmarks/coder.py [--millions 30] [--turns 11]

Real payloads hold 9.46 bits a value at 11.6 million parameters; with the counts of their own rows and columns as the
model 8.63 would do (entropy, no coder). Such a coder gives each place of a tile, or each column of a row, a probability
of its own, so it is an arithmetic one, whose every decision waits for the one before. Measured are the two shapes it
can have, stripped to what no coder can do without, with one table for all tiles that is given: no model is built or
adapted, nothing is checked, no index is written. *Places*: a binary range decoder (Martin 1979) that asks of each entry
of a tile whether it is there. *Columns*: for each row of a tile a range decoder finds how many entries it has, and for
each entry its column among 64, by cumulated frequencies; then the values' codes are unpacked as they are today. Both
are fed random bytes, which any such stream looks like. Beside them `muster.kernels.decode` of an update of as many
values, which does everything. Medians of turns, processor time, ratios to `decode`.

A codec 2 may take twice the target of decoding, which is commit 5c6907b's divided by 3.3; today's is that divided by
4.8 (`benchmarks.daemons`). So all of it may take 2.9 of today's decoding, and what is measured here is a part of it.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable

import numba
import numpy as np
import numpy.typing as npt
import torch

from muster.kernels import TILE, Codec, Grid, compress, decode, encode
from muster.kernels.fast.entry_loops import _codes

KEPT, SIDE = 64, 64
ALLOWED = 2 / 3.3 * 4.8
_TOP = 1 << 24
_SCALE = 12

Bytes = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.uint32]


@numba.njit(nogil=True)
def places(data: Bytes, chances: Counts, entries: int) -> int:
    """Decisions, one an entry; `chances` of 4096 that it is there, by its place in the tile. Returns how many are."""
    span, code, at, found = np.uint64(0xFFFFFFFF), np.uint64(0x12345678), 0, 0
    for i in range(entries):
        bound = (span >> np.uint64(_SCALE)) * np.uint64(chances[i & (TILE - 1)])
        if code < bound:
            span = bound
            found += 1
        else:
            span -= bound
            code -= bound
        while span < np.uint64(_TOP):
            span <<= np.uint64(8)
            code = code << np.uint64(8) | np.uint64(data[at])
            at += 1
    return found


@numba.njit(nogil=True)
def columns(data: Bytes, counted: Counts, below: Counts, values: int) -> int:
    """How many entries each row has, and a column for each; both tables are cumulated frequencies, 4096 in all.

    Returns the rows that it took for so many values.
    """
    span, code, at, rows, done = np.uint64(0xFFFFFFFF), np.uint64(0x12345678), 0, 0, 0
    while done < values:
        rows += 1
        left = -1  # the first symbol of a row is how many follow
        while left != 0:
            table = counted if left < 0 else below
            unit = span >> np.uint64(_SCALE)
            wanted = min(code // unit, np.uint64((1 << _SCALE) - 1))
            low, high = 0, len(table) - 1
            while high - low > 1:
                middle = (low + high) // 2
                if np.uint64(table[middle]) <= wanted:
                    low = middle
                else:
                    high = middle
            code -= unit * np.uint64(table[low])
            span = unit * np.uint64(table[low + 1] - table[low])
            if left < 0:
                left = low
                done += low
            else:
                left -= 1
            while span < np.uint64(_TOP):
                span <<= np.uint64(8)
                code = code << np.uint64(8) | np.uint64(data[at])
                at += 1
    return rows


def seconds(work: Callable[[], object]) -> float:
    """Processor time of some work."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, default=30)
    parser.add_argument("--turns", type=int, default=11)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = options.millions * 1_000_000 // TILE
    shape, draw = (rows // SIDE * SIDE, TILE), torch.Generator().manual_seed(0)
    codec = Codec(Grid([shape]), KEPT)
    payload = encode(compress([torch.randn(shape, generator=draw)], codec))
    random = np.random.default_rng(0)
    data = random.integers(0, 256, 4 * codec.count, dtype=np.uint8)
    weights = random.lognormal(size=SIDE)
    chances = np.maximum(1, np.outer(weights, weights).ravel() / np.outer(weights, weights).sum() * KEPT * TILE)
    below = np.concatenate([[0], np.cumsum(np.maximum(1, weights / weights.sum() * (TILE - SIDE)).astype(np.uint32))])
    below[-1] = TILE
    rows_with = np.array([math.exp(-1) / math.factorial(n) for n in range(9)])  # Poisson's: 64 entries in 64 rows
    counted = np.concatenate([[0], np.cumsum(np.maximum(1, rows_with * (TILE - 9)).astype(np.uint32))])
    counted[-1] = TILE
    packed, codes = data[: codec.count // 4], np.empty(codec.count, np.uint8)
    ways: dict[str, Callable[[], object]] = {
        "places": lambda: places(data, np.minimum(chances, TILE - 1).astype(np.uint32), shape[0] * shape[1]),
        "columns": lambda: (
            columns(data, counted.astype(np.uint32), below.astype(np.uint32), codec.count),
            _codes(packed, codes),
        ),
    }
    whole = lambda: decode(payload, codec)  # noqa: E731
    for work in (whole, *ways.values()):
        work()
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    taken = []
    for _ in range(options.turns):
        taken.append(seconds(whole))
        for name, work in ways.items():
            ratios[name].append(seconds(work) / taken[-1])
    print(f"decode of {codec.count} values: {statistics.median(taken) * 1e3:.2f} ms")
    for name, found in ratios.items():
        print(f"{name}: {statistics.median(found):.2f} of it")
    least = min(statistics.median(found) for found in ratios.values())
    print(f"so {least:.2f} of the {ALLOWED:.1f} that a codec 2 may take are gone before any model, index or check")
    return 0


if __name__ == "__main__":
    sys.exit(main())
