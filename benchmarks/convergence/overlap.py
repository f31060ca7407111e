"""Training on while the last round's outer step is on its way: a peer's own weights, and how they take θ in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.convergence.variant import Merge
from muster.protocol.spec.layout import Layout

_MIXED = 0.5
"""How much of a peer's own weights is kept by "mix" (Streaming DiLoCo, arXiv 2501.18512)."""


@dataclass(frozen=True, slots=True)
class Local:
    """A peer's own weights as an engine's θ: fp32 tensors in layout order, which stay as they are."""

    layout: Layout
    tensors: Sequence[Tensor]

    def copy_into(self, parameters: Sequence[Tensor]) -> None:
        """Make `parameters` a copy."""
        with torch.no_grad():
            for mine, theirs in zip(self.tensors, parameters, strict=True):
                theirs.copy_(mine)

    def delta(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """These weights minus `parameters`."""
        return [mine - theirs.detach() for mine, theirs in zip(self.tensors, parameters, strict=True)]

    def after(self, delta: Sequence[Tensor]) -> list[Tensor]:
        """The weights that training by `delta` led to."""
        return [mine - change for mine, change in zip(self.tensors, delta, strict=True)]


def merged(merge: Merge, theta: Sequence[Tensor], weights: Sequence[Tensor], unsent: Sequence[Tensor]) -> list[Tensor]:
    """A peer's weights once θ has come, new tensors.

    `unsent` is Δ of what was trained since the submission that is in this θ was made; the weights have taken it.
    """
    if merge == "take":
        return [tensor.clone() for tensor in theta]
    if merge in ("add", "fresh"):
        return [tensor - change for tensor, change in zip(theta, unsent, strict=True)]
    return [torch.lerp(tensor, mine, _MIXED) for tensor, mine in zip(theta, weights, strict=True)]
