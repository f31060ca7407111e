"""Inputs made from integers alone, so no library's generator decides a golden value."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from muster.kernels import Codec, Grid, Rule, SparseUpdate, compress

SHAPES = st.lists(
    st.one_of(
        st.just(()),
        st.tuples(st.integers(0, 4200)),
        st.tuples(st.integers(0, 70), st.integers(0, 70)),
        st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    ),
    max_size=4,
)
KEPT = st.sampled_from([1, 2, 7, 64, 300, 4095, 4096])

LO, HI = 0.5, 1.0
"""What codes 0 and 1 of `one(…, 242)` stand for."""

GOLDEN_GRID = Grid([(130, 200), (4100,), (), (0, 3), (3, 50, 2), (256, 64)])
GOLDEN_UPDATE = "5341fbf58b81931925e9cbd253f1eaca2a8c6a065d974cf69bdc4a209d099537"
"""BLAKE3 of the indices, codes and scale bytes of `update(GOLDEN_GRID, 64, 0)`."""
GOLDEN_STEPS: list[tuple[Rule, str]] = [
    ("mean", "32c85d653c130010641dfb58cf90c1ffc4f7cacf235da57fdad07cef930e4c59"),
    ("sender_mean", "5290438f2db8f9ab75c3614dd8d7149074113009056639c831d7dc1401c6a7ff"),
    ("damped_mean", "09f87e7b4393a36e551bab6ba1feacaf9cf3c5f009287d92837adda80ab7060d"),
]
"""BLAKE3 of θ after the step that the tests named for it take, by rule."""


def integers(count: int, salt: int) -> np.ndarray:
    """uint64 (count,): splitmix64 of counters (Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        z = (np.arange(count, dtype=np.uint64) + np.uint64(salt << 32)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def tensor(shape: tuple[int, ...], salt: int) -> Tensor:
    """fp32 of signed 12-bit integers times 2**-12 to 2**-19: many ties, wide range, every value exact."""
    count = int(np.prod(shape, dtype=np.int64))
    bits = integers(count, salt)
    mantissa = (bits & np.uint64(0xFFF)).astype(np.float64) - 2048
    exponent = (bits >> np.uint64(12) & np.uint64(7)).astype(np.int64) + 12
    return torch.from_numpy(np.ldexp(mantissa, -exponent).astype(np.float32)).reshape(shape)


def tensors(grid: Grid, salt: int) -> list[Tensor]:
    """One tensor of each of the grid's shapes."""
    return [tensor(shape, salt * 1000 + i) for i, shape in enumerate(grid.shapes)]


def update(grid: Grid, k: int, salt: int) -> SparseUpdate:
    """A compressed update of `tensors(grid, salt)`."""
    return compress(tensors(grid, salt), Codec(grid, k))


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two fp32 tensors have the same bits; −0 is not +0."""
    return torch.equal(left.view(torch.int32), right.view(torch.int32))


def octave(*high: int) -> torch.Tensor:
    """Scale bytes (tiles, 2) of tiles with these high ones."""
    return torch.tensor([[max(byte - 8, 0), byte] for byte in high], dtype=torch.uint8)


def one(index: int, code: int, scale: int, size: int = 8) -> SparseUpdate:
    """An update of a vector that keeps one entry; `scale` is the high byte, the low one is an octave less."""
    return SparseUpdate(
        codec=Codec(Grid([(size,)]), 1),
        indices=torch.tensor([index], dtype=torch.int16),
        codes=torch.tensor([code], dtype=torch.uint8),
        scales=octave(scale),
    )
