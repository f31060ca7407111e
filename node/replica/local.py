"""The replica: θ, and the only code that ever changes it.

Miner, validator, aggregator, audit and simulator hold one each. Equal state roots mean equal bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from muster.kernels import SparseUpdate, aggregate_, perturb_, restore_
from muster.node.models import model_class
from muster.node.replica.genesis import genesis_parameters
from muster.protocol.ledger import Applied
from muster.protocol.ledger.roots import GENESIS_RUN, chosen_tiles, proof_of, state_root
from muster.protocol.spec import ModelSpec, RunSpec
from muster.protocol.spec.layout import Layout, layout_of
from muster.protocol.wire import Kind

EVAL_BATCH = 16
"""Windows per forward pass of an evaluation; fixed, because a loss's last bits depend on it."""


class Replica:
    """One copy of θ after `outer_step` outer steps, fp32, as tensors in layout order.

    The evaluation model computes with θ's own storage. Not safe to use from two threads at once.
    """

    def __init__(self, model: ModelSpec, run_id: bytes, theta: Sequence[Tensor], outer_step: int) -> None:
        self.layout: Layout = layout_of(model)
        self.run_id = run_id
        self.outer_step = outer_step
        self._theta = [tensor.contiguous() for tensor in theta]
        self._model = model_class(model).over(model, self._theta)
        self._root: bytes | None = None
        self._tiles: tuple[bytes, bytes] | None = None

    @classmethod
    def genesis(cls, spec: RunSpec, run_id: bytes) -> Replica:
        """θ_0 of a run, from its seed."""
        return cls(spec.model, run_id, genesis_parameters(spec.model, spec.genesis.seed), 0)

    @property
    def theta(self) -> tuple[Tensor, ...]:
        """θ for reading; whoever writes to it breaks the run for itself."""
        return tuple(self._theta)

    def root(self) -> bytes:
        """The state root (32 bytes); hashed once per outer step."""
        if self._root is None:
            self._root = state_root(self._theta, self.layout, self.run_id, self.outer_step)
        return self._root

    def possession(self, beacon: bytes, public: bytes, round_: int) -> bytes:
        """The proof of possession peer `public` must show in a round; a beacon's tiles are read once per outer step."""
        if self._tiles is None or self._tiles[0] != beacon:
            self._tiles = beacon, chosen_tiles(self._theta, self.layout, beacon)
        return proof_of(self._tiles[1], beacon, public, round_)

    def copy_into(self, parameters: Sequence[Tensor]) -> None:
        """Make `parameters`, in layout order and on any device, a copy of θ.

        Raises:
            ValueError: they do not have the layout's shapes.
        """
        self._check(parameters)
        with torch.no_grad():
            for parameter, source in zip(parameters, self._theta, strict=True):
                parameter.copy_(source)

    def delta(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Δ = fl(θ − parameters), one rounding an entry: new fp32 tensors in layout order, on θ's devices.

        Raises:
            ValueError: they do not have the layout's shapes.
        """
        self._check(parameters)
        with torch.no_grad():
            return [before - after.to(before.device) for before, after in zip(self._theta, parameters, strict=True)]

    def _check(self, parameters: Sequence[Tensor]) -> None:
        if tuple(tuple(parameter.shape) for parameter in parameters) != self.layout.shapes:
            raise ValueError("the tensors do not have the shapes of this model's layout")

    def apply(self, applied: Applied, spec: RunSpec) -> None:
        """Take the outer step of a verified record; a null or closing record changes nothing."""
        if applied.record.kind is not Kind.ROUND:
            return
        alpha = spec.outer.alpha_at(self.outer_step)
        aggregate_(self._theta, applied.updates, applied.weights, alpha, spec.outer.rule)
        self.outer_step += 1
        self._root = self._tiles = None

    @contextmanager
    def perturbed(self, update: SparseUpdate, scale: float) -> Iterator[None]:
        """θ − scale·Δ̂ inside the block; the very bits of before after it, whatever happens inside."""
        saved = perturb_(self._theta, update, scale)
        try:
            yield
        finally:
            restore_(self._theta, saved)

    def loss(self, windows: Tensor) -> float:
        """Mean loss in nat/token of θ as it is now on windows, int64 (n, length + 1)."""
        with torch.no_grad():
            parts = [
                self._model.window_losses(windows[i : i + EVAL_BATCH]).double()
                for i in range(0, len(windows), EVAL_BATCH)
            ]
        return float(torch.cat(parts).mean())


def genesis_root(model: ModelSpec, seed: int) -> bytes:
    """The root a genesis spec pins: of θ_0, with zeros for the run id it is itself a part of."""
    return state_root(genesis_parameters(model, seed), layout_of(model), GENESIS_RUN, 0)
