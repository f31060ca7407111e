"""What turns gradients into inner steps: one object, so that training does not care which optimizers a run names.

"adamw" is AdamW for everything. "muon" is Muon for the matrices inside the blocks, and AdamW for embeddings, output
head and norm gains. How much of their moments is kept is the miner's own choice; gains, which are few, keep all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from muster.node.miner.adamw import AdamW, BytewiseAdamW
from muster.node.miner.factored import Factored
from muster.node.miner.muon import BytewiseMuon, Muon
from muster.node.miner.rule import Rule, Trained
from muster.node.miner.state import Entry
from muster.node.models import LanguageModel
from muster.node.wished import Moments
from muster.protocol.errors import MusterError
from muster.protocol.spec import InnerSpec

log = logging.getLogger(__name__)

_GAINS = AdamW()
_MATRICES: Mapping[Moments, Rule] = {"full": AdamW(), "8bit": BytewiseAdamW(), "factored": Factored()}
_INSIDE: Mapping[Moments, Rule] = {"full": Muon(), "8bit": BytewiseMuon(), "factored": BytewiseMuon()}
"""Muon is nothing without its momentum, so that is kept in bytes where AdamW does without."""


class InnerOptimizer:
    """The optimizers of one working model, stepped, saved and loaded as one."""

    def __init__(self, model: LanguageModel, inner: InnerSpec, moments: Moments = "full") -> None:
        """For the parameters of `model`, with cold moments."""
        self.name = inner.optimizer
        self._moments = moments
        self._inside = {id(p) for p in model.block_matrices()} if self.name == "muon" else set()
        self._trained = {name: Trained(parameter) for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def step(self, inner: InnerSpec, rate: float) -> None:
        """One step by the parameters' gradients, with a learning rate and the other constants of `inner`."""
        groups: dict[Rule, list[Trained]] = {}
        for one in self._trained.values():
            groups.setdefault(self._rule(one, self._moments), []).append(one)
        for rule, group in groups.items():
            for one in group:
                if not one.kept:
                    one.kept = _cold(rule, one)
            rule.step(group, inner, rate)

    def state(self) -> Iterator[Entry]:
        """What is kept of each parameter, by its name, where it is, not copied; nothing when cold.

        The next step changes it: save it before. What it is, is the rule's (`Rule.parts`): of AdamW in full "exp_avg",
        "exp_avg_sq" and "step", of Muon "momentum_buffer".
        """
        for name, one in self._trained.items():
            if one.kept:
                yield name, dict(one.kept)

    def load_state(self, entries: Iterable[Entry]) -> None:
        """Continue with what `state` gave, bit for bit, in the very tensors; nothing makes the moments cold.

        So does what this run's optimizer kept under another setting of `moments`, which the log tells.

        Raises:
            MusterError: the tensors do not belong to this model and these optimizers; nothing was changed.
        """
        fresh: dict[str, dict[str, Tensor]] = {}
        other = False
        for name, kept in entries:
            one = self._trained.get(name)
            ways = self._ways(one, kept) if one else []
            if one is None or not ways:
                raise _foreign()
            other |= self._moments not in ways
            fresh[name] = {part: tensor.to(one.parameter.device) for part, tensor in kept.items()}
        if fresh and fresh.keys() != self._trained.keys():
            raise _foreign()
        if other:
            log.warning("moments begin cold: those of the last life were kept another way than %s", self._moments)
            fresh = {}
        for name, one in self._trained.items():
            one.kept = fresh.get(name, {})

    def _rule(self, one: Trained, moments: Moments) -> Rule:
        if id(one.parameter) in self._inside:
            return _INSIDE[moments]
        return _MATRICES[moments] if one.parameter.ndim > 1 else _GAINS

    def _ways(self, one: Trained, kept: Mapping[str, Tensor]) -> list[Moments]:
        """The settings of `moments` under which this would be kept of a parameter."""
        found = {part: (tuple(tensor.shape), tensor.dtype) for part, tensor in kept.items()}
        ways: list[Moments] = [
            moments for moments in _MATRICES if self._rule(one, moments).parts(one.parameter.shape) == found
        ]
        return ways


def _cold(rule: Rule, one: Trained) -> dict[str, Tensor]:
    parts, device = rule.parts(one.parameter.shape), one.parameter.device
    return {name: torch.zeros(shape, dtype=dtype, device=device) for name, (shape, dtype) in parts.items()}


def _foreign() -> MusterError:
    return MusterError(
        "the saved optimizer state is not of this run's model and optimizer; remove it to start with cold moments"
    )
