"""AdamW (Loshchilov & Hutter, arXiv 1711.05101), with its two moments in fp32 or in bytes.

Matrices decay, norm gains do not. The fused kernel of torch is called as a function: the bits are those of
`torch.optim.AdamW(fused=True)`, at a third of the time of its other forms on one CPU thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from muster.node.miner.bytewise import BLOCK, blocks, pack_positive, pack_signed, unpack_positive, unpack_signed
from muster.node.miner.rule import STEP, Part, Trained
from muster.protocol.spec import InnerSpec

SLAB = BLOCK << 14
"""Entries whose moments are fp32 at a time where they are kept in bytes: 32 MiB, and few launches on a GPU."""


class AdamW:
    """Both moments in fp32."""

    def parts(self, shape: torch.Size) -> Mapping[str, Part]:
        """Two tensors of the parameter's shape, and the count of steps."""
        return {"exp_avg": (shape, torch.float32), "exp_avg_sq": (shape, torch.float32), "step": STEP}

    def step(self, group: Sequence[Trained], inner: InnerSpec, rate: float) -> None:
        """All parameters in two calls: those that decay, and those that do not."""
        for decays in (True, False):
            members = [one for one in group if (one.parameter.ndim > 1) is decays]
            if members:
                steps = [one.kept["step"] for one in members]
                torch._foreach_add_(steps, 1)
                _fused(
                    [one.parameter for one in members],
                    [one.gradient for one in members],
                    [one.kept["exp_avg"] for one in members],
                    [one.kept["exp_avg_sq"] for one in members],
                    steps,
                    inner,
                    rate,
                    decays,
                )


class BytewiseAdamW:
    """Both moments in a byte an entry and a scale a block of 256 (Dettmers et al., arXiv 2110.02861), for matrices."""

    def parts(self, shape: torch.Size) -> Mapping[str, Part]:
        """Codes of both moments, their scales, and the count of steps."""
        entries = shape.numel()
        return {
            "exp_avg_codes": ((entries,), torch.uint8),
            "exp_avg_scales": ((blocks(entries),), torch.float32),
            "exp_avg_sq_codes": ((entries,), torch.uint8),
            "exp_avg_sq_scales": ((blocks(entries),), torch.float32),
            "step": STEP,
        }

    def step(self, group: Sequence[Trained], inner: InnerSpec, rate: float) -> None:
        """A slab at a time: out of the bytes, the step of AdamW, back into bytes."""
        for one in group:
            kept, entries = one.kept, one.parameter.numel()
            weights, gradient = one.parameter.view(-1), one.gradient.reshape(-1)
            kept["step"].add_(1)
            for start in range(0, entries, SLAB):
                here = slice(start, start + SLAB)
                held = slice(start // BLOCK, blocks(min(start + SLAB, entries)))
                first = kept["exp_avg_codes"][here], kept["exp_avg_scales"][held]
                second = kept["exp_avg_sq_codes"][here], kept["exp_avg_sq_scales"][held]
                m, v = unpack_signed(*first), unpack_positive(*second)
                _fused([weights[here]], [gradient[here]], [m], [v], [kept["step"]], inner, rate, decays=True)
                pack_signed(m, *first)
                pack_positive(v, *second)


def _fused(
    parameters: list[Tensor],
    gradients: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    steps: list[Tensor],
    inner: InnerSpec,
    rate: float,
    decays: bool,
) -> None:
    torch._fused_adamw_(
        parameters,
        gradients,
        first,
        second,
        [],
        steps,
        lr=rate,
        beta1=inner.beta1,
        beta2=inner.beta2,
        weight_decay=inner.weight_decay if decays else 0.0,
        eps=inner.eps,
        amsgrad=False,
        maximize=False,
    )
