"""The local engine on a model of 2 layers: what tests of inner training and of its optimizers share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from muster.node.miner.engine import Delta, Job, OnStep
from muster.node.miner.inner import LocalEngine
from muster.node.miner.state import Entry
from muster.node.replica import Replica
from muster.protocol.spec import InnerSpec, ModelSpec

MODEL = ModelSpec(
    vocab=64,
    hidden=16,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=8,
    ffn=24,
    context=16,
    rope_theta=10_000.0,
    norm_eps=1e-5,
    tied=True,
    init_std=0.1,
)
SETTINGS: dict[str, Any] = {
    "steps": 4,
    "batch": 2,
    "lr": 0.01,
    "final_lr": 0.001,
    "warmup": 2,
    "total": 20,
    "beta1": 0.9,
    "beta2": 0.95,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "clip": 1.0,
}


def inner_of(**changes: Any) -> InnerSpec:
    return InnerSpec(**{**SETTINGS, **changes})


def changed(inner: InnerSpec, **changes: Any) -> InnerSpec:
    return InnerSpec(**{**inner.model_dump(), **changes})


class Trainer:
    """A local engine with the section of the spec that it is given at first, to be changed between runs."""

    def __init__(self, model: ModelSpec, inner: InnerSpec, **how: Any) -> None:
        self.inner = inner
        self._model = model
        self._engine = LocalEngine(model, inner, **how)

    def train(
        self,
        theta: Sequence[Tensor],
        windows: Tensor,
        first_step: int,
        on_step: OnStep | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Delta:
        """A run from these weights."""
        job = Job(0, first_step, self.inner, windows)
        return self._engine.run(Replica(self._model, bytes(32), theta, 0), job, on_step, stop)

    def state(self) -> dict[str, Tensor]:
        """The moments by "<parameter>/<moment>"."""
        return {f"{name}/{part}": tensor for name, entry in self._engine.state() for part, tensor in entry.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on with these."""
        self._engine.load_state(entries_of(state))


def entries_of(state: dict[str, Tensor]) -> Iterable[Entry]:
    """What `Trainer.state` gives, by parameter."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        name, _, part = key.partition("/")
        found.setdefault(name, {})[part] = tensor
    return found.items()


def windows_of(seed: int, count: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 16, (count, 9), generator=generator)


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
