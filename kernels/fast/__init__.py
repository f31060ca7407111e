"""The CPU path for real models: the same bits as the reference, at the speed of memory.

Compiled when first used, which takes seconds once a machine: small models stay with the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

FAST_ENTRIES = 1 << 22
"""Models from so many entries on are worth the compiled loops. Loading them takes 0.6 s in each process, compiling
them 5 s once a machine; here the reference takes that long for one or ten rounds of 4 million entries."""


@cache
def _compiler() -> bool:
    return find_spec("numba") is not None


def suits(tensors: Sequence[Tensor]) -> bool:
    """Whether the compiled loops can take these tensors, and are worth their start."""
    return (
        sum(tensor.numel() for tensor in tensors) >= FAST_ENTRIES
        and all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in tensors)
        and all(tensor.device.type == "cpu" for tensor in tensors)
        and _compiler()
    )
