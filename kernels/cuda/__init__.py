"""The GPU path: the same bits as the reference where the model already is, so it need not travel to be compressed.

Written in Triton, which torch's CUDA builds bring along; compiled when first used. Where it is missing or too old, the
reference runs.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch

FIRST_EXACT = (3, 6)
"""The first Triton whose correctly rounded division can be told to keep subnormal results: before it, `div_rn` is
div.rn.ftz.f32."""


@cache
def suits() -> bool:
    """Whether this installation can compile the programs, and to the reference's bits."""
    try:
        found = tuple(int(part) for part in version("triton").split(".")[:2])
    except PackageNotFoundError:
        return False
    # Torch's ROCm builds also call their device "cuda"; what is known of roundings here is known of NVIDIA's compiler.
    return torch.version.hip is None and found >= FIRST_EXACT
