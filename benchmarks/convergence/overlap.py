"""Training on while the last round's outer step is on its way: a peer's own weights, and how they take θ in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.convergence.variant import Merge
from muster.node.miner.ahead import MIXED, OwnWeights


class Local(OwnWeights):
    """A peer's own weights, of which it is known where training leads them."""

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
    return [torch.lerp(tensor, mine, MIXED) for tensor, mine in zip(theta, weights, strict=True)]
