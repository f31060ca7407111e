"""The first weights of a run, from integers alone, so that every machine and library makes the same bits.

A library's normal generator may change between versions and devices. Here each matrix entry is the sum of
four uniform 16-bit integers (close to a normal distribution: Irwin-Hall), exact in fp32, then scaled by one
fp32 multiplication, which IEEE 754 rounds the same way everywhere.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from muster.node.models import model_class
from muster.protocol.spec import ModelSpec
from muster.protocol.spec.layout import parameter_shapes

_DOMAIN = b"muster/genesis/v1"
_DRAWS = 4
_ENTRY_BYTES = 2 * _DRAWS
_SUM_MEAN = _DRAWS * 65_535 // 2
_SUM_STD = math.sqrt(_DRAWS * (65_536**2 - 1) / 12)
"""Standard deviation of the sum: four times the variance (n² − 1)/12 of a uniform integer below n = 65536."""
_BLOCK_ENTRIES = 1 << 20
"""Entries drawn at a time; bounds what genesis needs beside the weights to about 20 MB."""


def genesis_parameters(spec: ModelSpec, seed: int) -> list[Tensor]:
    """The weights a run of `spec` begins with: fp32 CPU tensors in layout order.

    Norm gains are 1. Matrices have the standard deviation that the model's family says.

    `seed` is a natural number below 2⁶⁴.
    """
    family = model_class(spec)
    return [
        torch.ones(shape) if len(shape) == 1 else _matrix(name, shape, family.genesis_std(spec, name), seed)
        for name, shape in parameter_shapes(spec)
    ]


def _matrix(name: str, shape: tuple[int, ...], std: float, seed: int) -> Tensor:
    """One matrix, row-major: entry j is made of bytes 8j … 8j+7 of the BLAKE3 output of (seed, name)."""
    stream = blake3(_DOMAIN + seed.to_bytes(8, "little") + name.encode())
    scale = np.float32(std / _SUM_STD)
    entries = np.empty(math.prod(shape), dtype=np.float32)
    for start in range(0, entries.size, _BLOCK_ENTRIES):
        block = entries[start : start + _BLOCK_ENTRIES]
        raw = stream.digest(length=block.size * _ENTRY_BYTES, seek=start * _ENTRY_BYTES)
        draws = np.frombuffer(raw, dtype="<u2").reshape(-1, _DRAWS)
        centred = np.full(block.size, -_SUM_MEAN, dtype=np.int32)
        for column in range(_DRAWS):  # a reduction over four columns takes six times as long
            centred += draws[:, column]
        np.multiply(centred.astype(np.float32), scale, out=block)
    return torch.from_numpy(entries).view(shape)
