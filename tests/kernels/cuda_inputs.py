"""Runs the GPU programs on a CPU, by Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np

from muster.kernels import backend
from muster.kernels.cuda import operations, step

CUT: list[tuple[int, ...]] = [(70, 130), (5000,), (), (0, 3), (3, 5, 4)]
"""Whole and clipped tiles of matrices, of vectors, of a number, of nothing, of a cube."""


@contextmanager
def on_gpu() -> Iterator[None]:
    """The public functions take the path of CUDA tensors, with few enough instances that each has several tiles."""
    # The interpreter computes with numpy, which warns where a sum overflows.
    with (
        np.errstate(all="ignore"),
        patch.object(backend, "choose", lambda *_of: operations),
        patch.object(step, "INSTANCES", 2),
    ):
        yield
