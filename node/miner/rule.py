"""What an optimizer is here: a rule that moves parameters by their gradients, and what it must remember of each.

Plain functions over plain tensors. `torch.optim.Optimizer` would import a compiler into every miner when it is made
(torch 2.13: 1.5 s of processor time and 124 MiB or more), and knows nothing of moments in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from muster.protocol.spec import InnerSpec

Part = tuple[tuple[int, ...], torch.dtype]
"""Shape and type of a tensor that is kept."""

STEP: Part = ((), torch.float32)
"""How many steps a parameter has taken; on its device, as the fused kernel wants it."""


@dataclass(slots=True)
class Trained:
    """A parameter and what its rule keeps of it, by name; nothing before its first step."""

    parameter: nn.Parameter
    kept: dict[str, Tensor] = field(default_factory=dict)

    @property
    def gradient(self) -> Tensor:
        """Its gradient, which a training step always leaves."""
        assert self.parameter.grad is not None, "every parameter has a part in the loss"
        return self.parameter.grad


class Rule(Protocol):
    """How some of the parameters are trained."""

    def parts(self, shape: torch.Size) -> Mapping[str, Part]:
        """What is kept of a parameter of that shape; it begins with zeros."""

    def step(self, group: Sequence[Trained], inner: InnerSpec, rate: float) -> None:
        """Move parameters whose kept tensors are there; gradients are void afterwards. Called without autograd."""
