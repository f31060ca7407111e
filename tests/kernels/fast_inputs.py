"""Tensors that a selection of largest values can get wrong, and ways to share the work out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from hypothesis import strategies as st
from kernel_inputs import integers, tensor
from torch import Tensor

from muster.kernels import Grid
from muster.kernels.fast import jobs

KINDS = st.sampled_from(["ties", "bits", "zeros", "equal", "subnormal", "rows", "spike", "wide"])
SPLITS = st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 3, 256]))
"""Threads, and tiles of a job."""
BIG = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 200), st.integers(1, 2500)),
        st.tuples(st.integers(4000, 40_000)),
        st.tuples(st.integers(1, 4), st.integers(60, 70), st.integers(60, 70)),
    ),
    min_size=1,
    max_size=3,
)
"""Shapes of many tiles: more than a strip side by side, short ones at the edges."""


@contextmanager
def shared_out(split: tuple[int, int]) -> Iterator[None]:
    """Work in so many threads, in jobs of so many tiles."""
    threads, tiles = split
    with patch("torch.get_num_threads", lambda: threads), patch.object(jobs, "JOB_TILES", tiles):
        yield


def awkward(shape: tuple[int, ...], kind: str, salt: int) -> Tensor:
    """A finite fp32 tensor of one of KINDS."""
    flat = tensor(shape, salt).flatten()
    count = flat.numel()
    where = torch.arange(count)
    if kind == "bits":  # every exponent there is, subnormal to 2**127
        raw = (integers(count, salt) & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        flat = torch.from_numpy(np.where(raw >> 23 & 0xFF == 0xFF, raw & 0x807FFFFF, raw).view(np.float32))
    elif kind == "zeros":
        flat = torch.where(where % 3 == 0, 0.0, -0.0)
    elif kind == "equal":
        flat = torch.where(where % 2 == 0, 0.25, -0.25)
    elif kind == "subnormal":
        flat = flat * 2.0**-140
    elif kind == "rows":
        flat = flat * 2.0 ** (where // 64 % 60 - 30).float()
    elif kind == "spike":
        flat = torch.where(where == count // 2, -(2.0**100), flat * 2.0**-60)
    elif kind == "wide":
        flat = flat * 2.0 ** (where * 7 % 200 - 120).float()
    return flat.reshape(shape)


def awkward_list(grid: Grid, kind: str, salt: int) -> list[Tensor]:
    """One of each of the grid's shapes."""
    return [awkward(shape, kind, 1000 * salt + i) for i, shape in enumerate(grid.shapes)]


def same_lists(left: list[Tensor], right: list[Tensor]) -> bool:
    """Whether all have the same bits and shapes."""
    return all(
        a.shape == b.shape and torch.equal(a.view(torch.int32), b.view(torch.int32))
        for a, b in zip(left, right, strict=True)
    )
