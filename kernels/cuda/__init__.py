"""The GPU path: the same bits as the reference where the model already is, so it need not travel to be compressed.

Written in Triton, which torch's CUDA builds bring along; compiled when first used. Where it is missing or too old, the
reference runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

FIRST_EXACT = (3, 6)
"""The first Triton whose correctly rounded division can be told to keep subnormal results: before it, `div_rn` is
div.rn.ftz.f32."""


@cache
def _compiler() -> bool:
    try:
        found = tuple(int(part) for part in version("triton").split(".")[:2])
    except PackageNotFoundError:
        return False
    # Torch's ROCm builds also call their device "cuda"; what is known of roundings here is known of NVIDIA's compiler.
    return torch.version.hip is None and found >= FIRST_EXACT


def suits(tensors: Sequence[Tensor]) -> bool:
    """Whether the GPU programs can take these tensors: contiguous fp32 on one CUDA device."""
    return (
        len({tensor.device for tensor in tensors}) == 1
        and all(tensor.device.type == "cuda" for tensor in tensors)
        and all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in tensors)
        and _compiler()
    )
