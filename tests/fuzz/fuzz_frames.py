"""Bytes no honest miner sends, against the decoder of codec 1: each is refused by name or is a whole, valid update.

    make fuzz MINUTES=30                                        batches, each in a process of its own
    python tests/fuzz/fuzz_frames.py --seed 7 --examples 1000   one batch, the same every time

A batch fails on any other exception (a crash), on an input that takes seconds (a hang), on memory above a cap, and
on an update that breaks a rule of the format. The smallest input that does it is kept in `corpus/`, which every
batch starts from; so a find is a regression test from then on.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import FrameType

import hypothesis
import numpy as np
import torch
import zstandard
from blake3 import blake3
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from muster.kernels import Codec, FrameError, Grid, SparseUpdate, compress, decode, encode, max_encoded_bytes

CORPUS = Path(__file__).parent / "corpus"
CASES: dict[str, tuple[Grid, int]] = {
    "tails": (Grid([(64, 128), (64,)]), 64),
    "small": (Grid([(3, 50), (70,), (), (0, 4)]), 150),
    "sparse": (Grid([(4096,), (300,)]), 2),
    "frames": (Grid([(128, 4160), (70, 70)]), 16),
}
"""Name → grid and k: whole, clipped and single-entry tiles, gaps of many bytes, several frames."""
REASONS = frozenset(
    {
        "frame_truncated", "frame_length", "frame_zstd", "frame_gaps", "index_range", "code_padding", "scale_zero",
        "frame_trailing",
    }
)  # fmt: skip
ACCEPTED = "accepted"

MEMORY_BYTES = 256 << 20
"""What a batch may map above what its imports do: the test's own needs, far below what a lying length asks for."""
SECONDS = 5.0
"""An input of a few kilobytes decodes in a millisecond; the rest is room for a busy machine."""
BATCH = 20_000
BATCH_SECONDS = 3600
LENGTH_BYTES = 4

Frames = list[tuple[bytes, bytes]]
"""The content of each frame's zstd part, and its codes."""


@cache
def honest(case: str, salt: int) -> bytes:
    """A payload as a miner makes it; an even salt leaves most entries zero."""
    grid, k = CASES[case]
    acc = []
    for shape in grid.shapes:
        x = (40_503 * np.arange(int(np.prod(shape)), dtype=np.int64) + 7_919 * salt) % 65_536
        values = ((x - 32_768) / 2.0 ** (16 + x % 5)).astype(np.float32)
        acc.append(torch.from_numpy(values * (x % 97 == 0 if salt % 2 == 0 else 1)).float().reshape(shape))
    return encode(compress(acc, Codec(grid, k)))


def split(case: str, payload: bytes) -> Frames:
    """The frames of an honest payload."""
    grid, k = CASES[case]
    starts, frames, at = grid.entry_starts(k), [], 0
    for start, stop in grid.frames:
        codes = at + LENGTH_BYTES + int.from_bytes(payload[at : at + LENGTH_BYTES], "little")
        end = codes - (-int(starts[stop] - starts[start]) // 4)
        content = zstandard.ZstdDecompressor().decompress(payload[at + LENGTH_BYTES : codes])
        frames.append((content, payload[codes:end]))
        at = end
    return frames


def join(frames: Frames, level: int, checksum: bool, sized: bool) -> bytes:
    """A payload of these frames, compressed as an encoder might."""
    squeeze = zstandard.ZstdCompressor(level=level, write_checksum=checksum, write_content_size=sized).compress
    parts = [(squeeze(content), codes) for content, codes in frames]
    return b"".join(len(first).to_bytes(LENGTH_BYTES, "little") + first + codes for first, codes in parts)


@cache
def corpus(case: str) -> tuple[bytes, ...]:
    """The kept inputs of a case, in a fixed order."""
    return tuple(path.read_bytes() for path in sorted(CORPUS.glob(f"{case}-*.bin")))


Edit = tuple[str, int, bytes]


def edited(data: bytes, edits: list[Edit]) -> bytes:
    """`data` after each edit in turn: (what, where, with which bytes); a place counts modulo the length."""
    for what, place, piece in edits:
        at = place % (len(data) + 1)
        if what == "insert":
            data = data[:at] + piece + data[at:]
        elif what == "write":
            data = data[:at] + piece + data[at + len(piece) :]
        elif what == "delete":
            data = data[:at] + data[at + len(piece) :]
        elif what == "cut":
            data = data[:at]
        else:
            data = data[:at] + bytes(byte ^ 1 << place % 8 for byte in data[at : at + 1]) + data[at + 1 :]
    return data


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "write", "delete", "cut", "flip", "flip"]),
        st.one_of(st.integers(0, 40), st.integers(0, 1 << 16)),
        st.one_of(st.binary(max_size=4), st.sampled_from([b"\xff" * 17, bytes(9), b"\xff\xff\xff\x7f"])),
    ),
    max_size=3,
)


@st.composite
def payloads(draw: st.DrawFn) -> tuple[str, bytes]:
    """A case and bytes for it: an honest payload or a kept one, changed before or after compression, or noise."""
    case = draw(st.sampled_from(sorted(CASES)))
    kind = draw(st.sampled_from(["content", "content", "raw", "kept", "noise"]))
    if kind == "noise":
        return case, draw(st.binary(max_size=400))
    if kind == "kept" and corpus(case):
        return case, edited(draw(st.sampled_from(corpus(case))), draw(EDITS))
    payload = honest(case, draw(st.integers(0, 3)))
    if kind == "content":
        frames = split(case, payload)
        chosen = draw(st.integers(0, len(frames) - 1))
        content, codes = frames[chosen]
        frames[chosen] = edited(content, draw(EDITS)), edited(codes, draw(EDITS))
        level, plain = draw(st.sampled_from([1, 1, 3, -1])), draw(st.sampled_from([True, True, True, False]))
        payload = join(frames, level, checksum=not plain, sized=plain or draw(st.booleans()))
        return case, payload
    return case, edited(payload, draw(EDITS))


def verdict(case: str, data: bytes) -> str:
    """What becomes of the bytes: ACCEPTED or the reason; AssertionError where the decoder broke its word."""
    grid, k = CASES[case]
    try:
        made = decode(data, Codec(grid, k))
    except FrameError as error:
        assert error.reason in REASONS, error.reason
        return error.reason
    assert len(data) <= max_encoded_bytes(Codec(grid, k))
    check_valid(made)
    assert decode(encode(made), Codec(grid, k)).identical(made)
    return ACCEPTED


def check_valid(update: SparseUpdate) -> None:
    """Every rule of an update, entry by entry."""
    starts = update.grid.entry_starts(update.k).tolist()
    indices, codes, scales = update.indices.tolist(), update.codes.tolist(), update.scales.tolist()
    assert len(indices) == len(codes) == starts[-1]
    for tile, (first, last) in enumerate(pairwise(starts)):
        edges = [-1, *indices[first:last], int(update.grid.tile_sizes[tile])]
        assert all(before < after for before, after in pairwise(edges))
        for code in codes[first:last]:
            assert 0 <= code <= 3
            assert code == 0 or scales[tile][code & 1] > 0


class Hang(AssertionError):
    """An input took longer than SECONDS of processor time (a machine that sleeps is no find)."""


def _hung(_signal: int, _frame: FrameType | None) -> None:
    raise Hang(f"one input took more than {SECONDS} s of processor time")


def limit_memory() -> None:
    """No more address space than now and MEMORY_BYTES: an allocation above it is a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def batch(seed: int, examples: int) -> Counter[str]:
    """Try `examples` inputs and all kept ones; how often each verdict came.

    Raises:
        AssertionError, or whatever the decoder raised: the smallest input that did it is in the corpus.
    """
    verdicts: Counter[str] = Counter()
    last: list[tuple[str, bytes]] = []

    def attempt(given: tuple[str, bytes]) -> None:
        last[:] = [given]
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            verdicts[verdict(*given)] += 1
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(payloads())
    def run(given: tuple[str, bytes]) -> None:
        attempt(given)

    signal.signal(signal.SIGPROF, _hung)
    try:
        for case in CASES:
            for data in corpus(case):
                attempt((case, data))
        run()
    except BaseException:
        case, data = last[0]
        (CORPUS / f"{case}-found-{blake3(data).hexdigest()[:12]}.bin").write_bytes(data)
        raise
    return verdicts


def for_minutes(minutes: float, seed: int) -> int:
    """Batches in processes of their own until the time is over; the exit status of the first that fails."""
    end, total = time.monotonic() + 60 * minutes, Counter[str]()
    while time.monotonic() < end:
        command = [sys.executable, __file__, "--seed", str(seed), "--examples", str(BATCH)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=BATCH_SECONDS, check=False)
        if done.returncode:
            sys.stdout.write(f"{done.stdout}\n{done.stderr}\nbatch {seed} failed with status {done.returncode}\n")
            return 1
        total.update(json.loads(done.stdout))
        seed += 1
        sys.stdout.write(f"{total.total()} inputs: {json.dumps(dict(total.most_common()))}\n")
        sys.stdout.flush()
    return 0


def main() -> int:
    """One batch, or as many as fit the time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=int, default=BATCH)
    options = parser.parse_args()
    if options.minutes:
        return for_minutes(options.minutes, options.seed)
    torch.set_num_threads(1)
    limit_memory()
    sys.stdout.write(f"{json.dumps(batch(options.seed, options.examples))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
