"""The unit of a model's size: how long one copy of θ takes, in processor time of the process that measures."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

COPIES = 5
"""A unit is the median of so many."""


def cpu_seconds(work: Callable[[], object]) -> float:
    """Processor time of this process, all its threads, that some work takes."""
    gc.collect()
    began = time.process_time()
    work()
    return time.process_time() - began


def of_shapes(shapes: Iterable[tuple[int, ...]]) -> list[Tensor]:
    """Something of θ's size to copy; ones, as the kernel keeps one page for all that was only ever zero."""
    return [torch.ones(shape) for shape in shapes]


def memcpy_seconds(theta: list[Tensor]) -> float:
    """Processor time of copying θ into memory that is there already."""
    target = [torch.empty_like(tensor) for tensor in theta]

    def copy() -> None:
        for to, source in zip(target, theta, strict=True):
            to.copy_(source)

    copy()  # brings the pages in
    return sorted(cpu_seconds(copy) for _ in range(COPIES))[COPIES // 2]
