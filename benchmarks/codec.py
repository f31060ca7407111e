"""Is the sparse codec as fast as memory, and does its cost grow with the model and no faster?

    THP_MEM_ALLOC_ENABLE=1 python benchmarks/codec.py [--entries 32] [--threads 2] [--scale 10 30 100 300 1000]
                                                      [--csv benchmarks/codec.csv] [--plot benchmarks/codec.svg]

Speeds are GB/s of the dense fp32 model, and multiples of a memcpy of the same bytes in the same run. Compression and
the aggregate of 20 are timed in turns with `naive.py`, and the median of the pairs' ratios is judged: exits with 1
where one misses its target. With --scale, each size (millions of parameters; 1000 takes 11 GiB and a minute) runs in a
process of its own, and the memory an operation takes on top of its inputs is the growth of the process's peak.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import naive
import numpy as np
import torch
from capture import load
from quantiser_study import reference
from torch import Tensor

from muster.kernels import (
    TILE,
    Codec,
    Grid,
    SparseUpdate,
    aggregate_,
    compress,
    compress_,
    decode,
    encode,
    perturb_,
    undo_,
)

K = 64
DECAY = 0.95
SENDERS = 20
"""Updates of a round, as the 72B run had at most."""
PAIRS = 11
TARGETS = {"compress": 4.0, "aggregate of 20": 6.0}
"""Times as fast as the plain torch code."""
MEMORY_TARGET = 0.05
"""Of the model, on top of what it is called with, and of what it returns."""
UNDO_LOG = SENDERS * K / TILE
"""Of the model: room for the undo log that an outer step returns."""
JUDGED = 90_000_000
"""Parameters from which on memory is judged: below, the threads' own 2 MiB show."""
BITS_TARGETS = {32: 10.8, 64: 9.7, 128: 8.8}
ERROR_ROUNDS = (2, 10, 40)
ERROR_TARGET = 0.4
MIB = 1 << 20


@dataclass(frozen=True)
class Row:
    """One operation at one size: median seconds, those of a memcpy of the dense model in turns, bytes taken."""

    operation: str
    entries: int
    seconds: float
    memcpy_seconds: float
    memory: int

    @property
    def speed(self) -> float:
        """GB/s of dense fp32."""
        return 4 * self.entries / self.seconds / 1e9

    @property
    def share(self) -> float:
        """Memory taken, of the model's."""
        return self.memory / 4 / self.entries


def model_shapes(entries: int) -> list[tuple[int, ...]]:
    """Tensors of a decoder of about so many parameters: an embedding, then layers until it is full."""
    hidden = 512 if entries < 50_000_000 else 2048
    ffn = hidden * 11 // 4
    layer: list[tuple[int, ...]] = [(hidden, hidden)] * 4 + [(ffn, hidden)] * 2 + [(hidden, ffn), (hidden,), (hidden,)]
    size = 4 * hidden**2 + 3 * hidden * ffn + 2 * hidden
    layers = max(1, int(0.9 * entries) // size)
    return [((entries - layers * size) // hidden, hidden), *layer * layers]


def values(shapes: list[tuple[int, ...]], seed: int) -> list[Tensor]:
    """Gaussian tensors with rows of different sizes, as a pseudo-gradient's are."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.empty(shape).normal_(0, 0.01, generator=generator) for shape in shapes]
    for matrix in (tensor for tensor in made if tensor.dim() == 2):
        matrix.mul_(torch.randn((len(matrix), 1), generator=generator).exp_())
    return made


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def status(field: str) -> int:
    """Bytes of VmRSS (resident now) or VmHWM (its peak) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    raise KeyError(field)


def taken(work: Callable[[], object]) -> int:
    """By how many bytes a call lifts the process's peak above what is resident before."""
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that malloc holds on to would hide what is taken
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident
    before = status("VmRSS")
    result = work()
    peak = status("VmHWM")
    del result
    return max(0, peak - before)


def measure(entries: int, times: int) -> list[Row]:
    """All operations on one model of random values; two copies of the model is what it holds."""
    shapes = model_shapes(entries)
    grid, size = Grid(shapes), sum(Grid(shapes).numel)
    theta, delta = values(shapes, 1), values(shapes, 2)
    updates = [compress(delta, Codec(grid, K))]  # loads the compiled loops
    rows: list[Row] = []

    def row(operation: str, work: Callable[[], object]) -> None:
        memory = taken(work)
        pairs = [(seconds(work), seconds(lambda: copy(delta, theta))) for _ in range(times)]
        ours, memcpy = (statistics.median(side) for side in zip(*pairs, strict=True))
        rows.append(Row(operation, size, ours, memcpy, memory))

    row("compress", lambda: compress_(delta, theta, DECAY, Codec(grid, K)))
    data = encode(updates[0])
    row("encode", lambda: encode(updates[0]))
    row("decode", lambda: decode(data, Codec(grid, K)))
    # From what the last one left, where the entries it sent are small, so that all list different ones.
    updates += [compress_(delta, delta, 0.0, Codec(grid, K)) for _ in range(SENDERS - 1)]
    weights = np.full((SENDERS, len(shapes)), 0.9, np.float32)
    row("aggregate of 20", lambda: aggregate_(theta, updates, weights, 1.0, "sender_mean"))
    log = aggregate_(theta, updates, weights, 1.0, "sender_mean")
    row("undo of 20", lambda: undo_(theta, updates, log))
    row("apply and restore", lambda: undo_(theta, updates[:1], perturb_(theta, updates[0], 0.2)))
    return rows


def copy(source: list[Tensor], target: list[Tensor]) -> None:
    """memcpy by torch."""
    for a, b in zip(source, target, strict=True):
        b.copy_(a)


def against_naive(entries: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of the plain torch code and ours, in turns."""
    shapes = model_shapes(entries)
    grid = Grid(shapes)
    error, delta, scratch = values(shapes, 1), values(shapes, 2), values(shapes, 2)
    ours: list[SparseUpdate] = []
    theirs: list[list[naive.NaiveUpdate]] = []
    for n in range(SENDERS):
        acc = values(shapes, 3 + n)
        ours.append(compress(acc, Codec(grid, K)))
        theirs.append([naive.compress(part, part, 0.0, kept(part))[0] for part in acc])
    weights = np.full((SENDERS, len(shapes)), 0.9, np.float32)

    def naive_aggregate() -> None:
        for i, part in enumerate(scratch):
            naive.aggregate_(part, [update[i] for update in theirs], weights[:, i].tolist(), 1.0)

    # The new error feedback replaces the old, as it would in use.
    def naive_compress() -> None:
        for i, part in enumerate(scratch):
            error[i] = naive.compress(error[i], part, DECAY, kept(part))[1]

    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "compress": (naive_compress, lambda: compress_(delta, error, DECAY, Codec(grid, K))),
        "aggregate of 20": (naive_aggregate, lambda: aggregate_(delta, ours, weights, 1.0, "sender_mean")),
    }
    times: dict[str, list[tuple[float, float]]] = {}
    for name, (plain, fast) in pairs.items():
        plain(), fast()
        times[name] = [(seconds(plain), seconds(fast)) for _ in range(PAIRS)]
    return times


def kept(part: Tensor) -> int:
    """k of the tiles of a tensor; a short vector's one tile keeps fewer."""
    return max(1, K * min(part.numel(), naive.TILE) // naive.TILE)


def huge_pages() -> str:
    """What decides how fast fresh memory is."""
    kernel = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    setting = kernel.read_text().strip() if kernel.exists() else "unknown"
    asked = {name: os.environ.get(name, "unset") for name in ("THP_MEM_ALLOC_ENABLE", "GLIBC_TUNABLES")}
    return f"huge pages: {setting}; " + ", ".join(f"{name} {value}" for name, value in asked.items())


def print_rows(rows: list[Row]) -> None:
    """The table of speeds and memory."""
    print(f"{'operation':<18} {'million':>8} {'ms':>9} {'GB/s':>7} {'× memcpy time':>14} {'memory':>9} {'of model':>9}")
    for row in rows:
        print(
            f"{row.operation:<18} {row.entries / 1e6:>8.0f} {1e3 * row.seconds:>9.1f} {row.speed:>7.2f}"
            f" {row.seconds / row.memcpy_seconds:>14.1f} {row.memory / MIB:>5.0f} MiB {row.share:>9.1%}"
        )


def print_bits() -> int:
    """Bits a kept value of a real pseudo-gradient; how many targets are missed."""
    acc, grid = load("11m", 3)
    missed = 0
    for k, target in BITS_TARGETS.items():
        update = compress(acc, Codec(grid, k))
        size = len(encode(update))
        bits = 8 * size / len(update.indices)
        missed += bits > target
        print(f"k = {k}: {bits:.3f} bits a kept value (target {target}), {4 * sum(grid.numel) / size:.1f} × smaller")
    return missed


def print_errors() -> int:
    """Error of the kept values against the 72B run's quantiser on the same ones; how many rounds miss the target."""
    missed = 0
    for round_ in ERROR_ROUNDS:
        acc, grid = load("tiny", round_)
        update = compress(acc, Codec(grid, K))
        ours = theirs = 0.0
        for i, tensor in enumerate(acc):
            kept = tensor.flatten()[update.positions(i)].double().numpy()
            ours += float(((update.values(i).double().numpy() - kept) ** 2).sum())
            theirs += float(((reference(kept) - kept) ** 2).sum())
        missed += ours > ERROR_TARGET * theirs
        print(f"round {round_} of tiny: {ours / theirs:.3f} × the 72B quantiser's error (target {ERROR_TARGET})")
    return missed


def scale(sizes: list[int]) -> list[Row]:
    """Every size in a process of its own, so that no peak hides another."""
    rows = []
    for size in sizes:
        command = [sys.executable, __file__, "--child", str(size), "--threads", str(torch.get_num_threads())]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = [Row(**entry) for entry in json.loads(output.splitlines()[-1])]
        print_rows(found)
        rows += found
    return rows


def plot(rows: list[Row], target: Path) -> None:
    """Time and memory against size, both logarithmic: linear cost is a line of slope 1."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for operation in dict.fromkeys(row.operation for row in rows):
        of = [row for row in rows if row.operation == operation]
        sizes = [row.entries for row in of]
        left.plot(sizes, [row.seconds for row in of], marker="o", label=operation)
        right.plot(sizes, [100 * row.share for row in of], marker="o", label=operation)
    copies = {row.entries: row.memcpy_seconds for row in rows if row.operation == "compress"}
    left.plot(list(copies), list(copies.values()), color="grey", linestyle="--", label="memcpy")
    right.axhline(100 * MEMORY_TARGET, color="grey", linestyle="--", label="target")
    left.set(xscale="log", yscale="log", xlabel="parameters", ylabel="seconds")
    right.set(xscale="log", ylim=(0, None), xlabel="parameters", ylabel="memory taken, % of the model")
    left.legend()
    right.legend()
    figure.savefig(target)


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=32, help="millions of parameters of the comparison")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--scale", type=int, nargs="*", default=[], help="millions of parameters")
    parser.add_argument("--csv", type=Path, default=None)
    parser.add_argument("--plot", type=Path, default=None)
    parser.add_argument("--child", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        print(json.dumps([asdict(row) for row in measure(options.child * 1_000_000, 5)]))
        return 0
    print(f"{options.threads} threads, torch {torch.__version__}; {huge_pages()}")
    missed = print_bits() + print_errors()
    for name, times in against_naive(options.entries * 1_000_000).items():
        plain, ours = (statistics.median(side) for side in zip(*times, strict=True))
        ratio = statistics.median(a / b for a, b in times)
        missed += ratio < TARGETS[name]
        print(
            f"{name}: {ratio:.1f} × plain torch, median of {PAIRS} pairs, target {TARGETS[name]}"
            f" ({1e3 * plain:.0f} and {1e3 * ours:.0f} ms)"
        )
    rows = scale(options.scale) if options.scale else measure(options.entries * 1_000_000, PAIRS)
    if not options.scale:
        print_rows(rows)
    logs = {"aggregate of 20": UNDO_LOG}
    missed += sum(row.share - logs.get(row.operation, 0) > MEMORY_TARGET for row in rows if row.entries >= JUDGED)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["operation", "entries", "seconds", "memcpy_seconds", "memory_bytes"])
            writer.writerows([r.operation, r.entries, r.seconds, r.memcpy_seconds, r.memory] for r in rows)
    if options.plot:
        plot(rows, options.plot)
    print("all targets met" if not missed else f"{missed} targets MISSED")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
