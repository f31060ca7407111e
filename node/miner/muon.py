"""Muon (Jordan et al., 2024): the momentum of a matrix, made orthogonal, is its step.

`torch.optim.Muon` is the definition, operation for operation, so the bits are its own; the spec's `inner.muon` has the
constants. With many workers its pseudo-gradients keep their direction better than AdamW's (MuLoCo, arXiv 2505.23725).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from muster.node.miner.bytewise import blocks, pack_signed, unpack_signed
from muster.node.miner.rule import Part, Trained
from muster.protocol.spec import InnerSpec, MuonSpec


class Muon:
    """The momentum in fp32."""

    def parts(self, shape: torch.Size) -> Mapping[str, Part]:
        """One tensor of the parameter's shape."""
        return {"momentum_buffer": (shape, torch.float32)}

    def step(self, group: Sequence[Trained], inner: InnerSpec, rate: float) -> None:
        """One matrix after another."""
        for one in group:
            _move(one, one.kept["momentum_buffer"], inner, rate)


class BytewiseMuon:
    """The momentum in a byte an entry, out of which a whole matrix comes for its step."""

    def parts(self, shape: torch.Size) -> Mapping[str, Part]:
        """Codes and scales of the momentum."""
        entries = shape.numel()
        return {
            "momentum_codes": ((entries,), torch.uint8),
            "momentum_scales": ((blocks(entries),), torch.float32),
        }

    def step(self, group: Sequence[Trained], inner: InnerSpec, rate: float) -> None:
        """One matrix after another."""
        for one in group:
            kept = one.kept["momentum_codes"], one.kept["momentum_scales"]
            momentum = unpack_signed(*kept)
            _move(one, momentum.view(one.parameter.shape), inner, rate)
            pack_signed(momentum, *kept)


def _move(one: Trained, momentum: Tensor, inner: InnerSpec, rate: float) -> None:
    spec, gradient, weights = inner.muon, one.gradient, one.parameter
    momentum.lerp_(gradient, 1 - spec.momentum)
    step = orthogonal(gradient.lerp(momentum, spec.momentum) if spec.nesterov else momentum, spec)
    weights.mul_(1 - rate * inner.weight_decay)
    weights.add_(step, alpha=-rate * scale_of(spec, weights.shape))


def scale_of(spec: MuonSpec, shape: torch.Size) -> float:
    """What a step of a matrix of that shape is multiplied by besides the rate."""
    rows, columns = shape
    return 0.2 * math.sqrt(max(rows, columns)) if spec.scale == "match_rms_adamw" else math.sqrt(max(1, rows / columns))


def orthogonal(matrix: Tensor, spec: MuonSpec) -> Tensor:
    """About U·Vᵀ of a matrix U·S·Vᵀ, in bf16: Newton–Schulz steps of an odd polynomial, on the wide side."""
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.bfloat16().T if tall else matrix.bfloat16()
    wide.div_(wide.norm().clamp(min=spec.eps))
    for _ in range(spec.steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=spec.b, alpha=spec.c), wide, beta=spec.a)
    return wide.T if tall else wide
