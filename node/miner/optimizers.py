"""What turns gradients into inner steps: one object, so that training does not care which optimizers a run names.

"adamw" is AdamW (Loshchilov & Hutter, arXiv 1711.05101) for everything. "muon" is Muon (Jordan et al., 2024), which
orthogonalises a matrix's momentum, for the matrices inside the blocks, and AdamW for embeddings, output head and norm
gains. With many workers its pseudo-gradients keep their direction better than AdamW's (MuLoCo, arXiv 2505.23725).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from muster.node.miner.state import Entry
from muster.node.models import LanguageModel
from muster.protocol.errors import ConfigError, MusterError
from muster.protocol.spec import InnerSpec

_ADAMW_STATE = ("exp_avg", "exp_avg_sq", "step")
_MUON_STATE = ("momentum_buffer",)
_SCALAR = "step"
"""The one tensor of them that does not have its parameter's shape."""
_MUON_TORCH = "2.9"
"""The first torch that has Muon."""
_MUON: dict[str, Any] = {
    "momentum": 0.95,
    "nesterov": True,
    "ns_steps": 5,  # Newton–Schulz
    # 0.2 · √(longer side) of each matrix: the root mean square of AdamW's steps (Liu et al., arXiv 2502.16982), so
    # that the spec's one rate and one decay mean the same for both optimizers.
    "adjust_lr_fn": "match_rms_adamw",
}
"""The authors' constants; no fields of the spec, so one thing less to agree on."""


@dataclass(frozen=True, slots=True)
class _Trained:
    """A parameter, the optimizer that trains it, and the names of the moments kept of it."""

    parameter: nn.Parameter
    optimizer: torch.optim.Optimizer
    moments: tuple[str, ...]

    def fits(self, kept: Mapping[str, Tensor]) -> bool:
        """Whether these are its moments, by name, shape and type."""
        shape = self.parameter.shape
        return kept.keys() == set(self.moments) and all(
            tensor.dtype == torch.float32 and tensor.shape == (torch.Size() if key == _SCALAR else shape)
            for key, tensor in kept.items()
        )


class InnerOptimizer:
    """The optimizers of one working model, stepped, saved and loaded as one."""

    def __init__(self, model: LanguageModel, inner: InnerSpec) -> None:
        """For the parameters of `model`, with cold moments.

        Raises:
            ConfigError: the run trains with an optimizer that this torch does not have.
        """
        self.name = inner.optimizer
        hidden = model.block_matrices() if self.name == "muon" else []
        inside = {id(p) for p in hidden}
        self._muon = muon = _muon(hidden) if hidden else None
        self._adamw = _adamw([p for p in model.parameters() if id(p) not in inside])
        self._trained = {
            name: _Trained(p, self._adamw, _ADAMW_STATE)
            if muon is None or id(p) not in inside
            else _Trained(p, muon, _MUON_STATE)
            for name, p in model.named_parameters()
        }

    def step(self, inner: InnerSpec, rate: float) -> None:
        """One step by the parameters' gradients, with a learning rate and the other constants of `inner`."""
        decayed, plain = self._adamw.param_groups
        for group in (decayed, plain):
            group["lr"] = rate
            group["betas"] = (inner.beta1, inner.beta2)
            group["eps"] = inner.eps
        decayed["weight_decay"] = inner.weight_decay
        self._adamw.step()
        if self._muon is not None:
            (group,) = self._muon.param_groups
            group["lr"] = rate
            group["weight_decay"] = inner.weight_decay
            self._muon.step()

    def state(self) -> Iterator[Entry]:
        """The moments of each parameter, by its name, where they are, not copied; nothing when cold.

        The next step changes them: save them before it. They are "exp_avg", "exp_avg_sq" (fp32, the parameter's shape)
        and "step" (fp32 scalar); of a parameter that Muon trains "momentum_buffer" (fp32, its shape) alone.
        """
        for name, trained in self._trained.items():
            kept = trained.optimizer.state.get(trained.parameter, {})
            if kept:
                yield name, {key: value.detach() for key, value in kept.items()}

    def load_state(self, entries: Iterable[Entry]) -> None:
        """Continue with what `state` gave, bit for bit, in the very tensors; nothing makes the moments cold.

        Raises:
            MusterError: the tensors do not belong to this model and these optimizers; nothing was changed.
        """
        fresh: dict[str, dict[str, Tensor]] = {}
        for name, kept in entries:
            trained = self._trained.get(name)
            if trained is None or not trained.fits(kept):
                raise _foreign()
            fresh[name] = {key: kept[key].to(trained.parameter.device) for key in trained.moments}
        if fresh and fresh.keys() != self._trained.keys():
            raise _foreign()
        for name, trained in self._trained.items():
            trained.optimizer.state.pop(trained.parameter, None)
            if fresh:
                trained.optimizer.state[trained.parameter] = fresh[name]


def _foreign() -> MusterError:
    return MusterError(
        "the saved optimizer state is not of this run's model and optimizer; remove it to start with cold moments"
    )


def _adamw(parameters: list[nn.Parameter]) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves norm gains alone.

    The fused kernel is a third of the time of the others on one CPU thread (0.7 ms against 2.1 ms a step for
    0.9M parameters) and the usual choice on CUDA.
    """
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, fused=True)


def _muon(matrices: list[nn.Parameter]) -> torch.optim.Optimizer:
    if not hasattr(torch.optim, "Muon"):
        raise ConfigError(
            f"this run trains with Muon, which needs torch {_MUON_TORCH} or later; torch {torch.__version__} is here"
        )
    return torch.optim.Muon(matrices, **_MUON)
