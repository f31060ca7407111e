"""AdamW without momentum whose second moment of a matrix is that of its rows times that of its columns.

Adafactor's (Shazeer & Stern, arXiv 1804.04235) with the run's rate, β2 and decay: beside weights and gradient it keeps
next to nothing, which is what a card that is too small for moments can still train with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from muster.node.miner.rule import STEP, Part, Trained
from muster.protocol.spec import InnerSpec

_FLOOR = 1e-30
"""ε1 of the paper (§6): added to squared gradients, so that a row without any is not divided by 0."""

_LARGEST = 1.0
"""d of the paper (§6): the root mean square of a step, in units of the rate, that a larger one is scaled down to."""


class Factored:
    """For matrices: fp32 means of squared gradients by row and by column."""

    def parts(self, shape: torch.Size) -> Mapping[str, Part]:
        """One number a row, one a column, and the count of steps."""
        columns = shape.numel() // shape[0]
        return {"row": ((shape[0],), torch.float32), "column": ((columns,), torch.float32), "step": STEP}

    def step(self, group: Sequence[Trained], inner: InnerSpec, rate: float) -> None:
        """One matrix after another, in the memory of its gradient.

        R ← β2·R + (1 − β2)·(mean over columns of g² + ε1), C likewise over rows; V = R·Cᵀ / (mean(R)·(1 − β2^t));
        u = g / √V; w ← (1 − rate·decay)·w − rate·u / max(1, RMS(u) / d)
        """
        for one in group:
            kept, weights = one.kept, one.parameter
            kept["step"].add_(1)
            scaled = one.gradient.reshape(weights.shape[0], -1)
            for part, along in (("row", 1), ("column", 0)):
                kept[part].mul_(inner.beta2).add_(_mean_square(scaled, along).add_(_FLOOR), alpha=1 - inner.beta2)
            unbiased = kept["row"].mean() * (1 - inner.beta2 ** kept["step"])
            scaled.div_(kept["row"].sqrt().unsqueeze(1)).mul_(unbiased.sqrt()).div_(kept["column"].sqrt())
            size = torch.linalg.vector_norm(scaled) / scaled.numel() ** 0.5
            scaled.div_((size / _LARGEST).clamp(min=1))
            weights.mul_(1 - rate * inner.weight_decay).add_(scaled.reshape(weights.shape), alpha=-rate)


def _mean_square(matrix: Tensor, along: int) -> Tensor:
    """Mean of squares along a dimension, without a copy of the matrix."""
    norms: Tensor = torch.linalg.vector_norm(matrix, dim=along)
    return norms.square_().div_(matrix.shape[along])
