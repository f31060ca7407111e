"""What a trained model is to the rest of Muster, whatever its family: weights in layout order, and a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812 (the field's own name)
from torch import Tensor, nn

from muster.protocol.spec import ModelSpec


class LanguageModel(nn.Module, ABC):
    """A model of the next token.

    `parameters()` and `state_dict()` are in layout order and hold each trained storage once. Weights of a
    new model are unset, so building one costs no random numbers, and under `torch.device("meta")` no memory
    either. While `recompute` is set a backward pass makes the activations inside each layer again.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.recompute = False

    @classmethod
    def over(cls, spec: ModelSpec, parameters: Sequence[Tensor]) -> Self:
        """A model whose weights *are* the given tensors (layout order), without a copy.

        It computes with whatever the tensors hold at the time of each call and does not ask for gradients.

        Raises:
            ValueError: the tensors do not have the shapes of the spec.
        """
        with torch.device("meta"):
            model = cls(spec)
        names = list(model.state_dict())
        if [t.shape for t in parameters] != [p.shape for p in model.parameters()]:
            raise ValueError("the tensors do not have the shapes of this model's layout")
        model.load_state_dict(dict(zip(names, parameters, strict=True)), assign=True)
        return model.requires_grad_(False)

    @staticmethod
    @abstractmethod
    def genesis_std(spec: ModelSpec, name: str) -> float:
        """The standard deviation of a matrix's first weights; consensus, as genesis follows from it to the bit."""

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Logits, fp32 (batch, length, vocab), of the token after each of `tokens`, int64 (batch, length)."""

    @abstractmethod
    def block_matrices(self) -> list[nn.Parameter]:
        """The matrices inside the blocks: all but embeddings, output head and gains."""

    def loss(self, windows: Tensor) -> Tensor:
        """Mean cross-entropy in nat/token over `windows`, int64 (batch, length + 1); a scalar fp32."""
        return F.cross_entropy(self(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())

    def window_losses(self, windows: Tensor) -> Tensor:
        """Mean cross-entropy in nat/token, fp32 (batch,), of each window, int64 (batch, length + 1)."""
        logits = self(windows[:, :-1])
        return F.cross_entropy(logits.transpose(1, 2), windows[:, 1:], reduction="none").mean(1)
