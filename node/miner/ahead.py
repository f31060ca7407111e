"""How a miner of a run with a delay trains on while a round closes: from weights of its own, which take each new θ in.

When a round's submission is made the miner goes on at once, for the next round, from where its training ended. The
outer step that comes meanwhile is mixed in: its weights become the mean of what they are and of the new θ (Streaming
DiLoCo, arXiv 2501.18512, which keeps half of its own too). Δ is what all of a round's inner steps changed, before and
after that, so nothing is trained in vain. docs/results.md compares this with other ways to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from muster.node.miner.engine import Delta, Engine, Job, OnStep, ThetaView
from muster.protocol.ledger import Tip
from muster.protocol.spec.layout import Layout
from muster.protocol.types import Beacon

MIXED = 0.5
"""How much of the way to a new θ the miner's own weights go."""


def foreseen(tip: Tip, assign: Beacon) -> Tip:
    """The next round as far as it is known before its record is there: its number and its assignment.

    The record that is awaited is taken to move θ.
    """
    opening = replace(tip.opening, round=tip.round + 1, base_round=tip.round, assign=assign)
    return replace(tip, opening=opening, outer_step=tip.outer_step + 1)


class Ahead:
    """The weights of one miner's own, fp32 where the engine leaves Δ, and what it has done of the next round.

    It starts with neither, and so does a miner that comes back: then a round is trained from θ. Of the model's size it
    holds two, weights and Δ. Where training fails it forgets both.
    """

    def __init__(self) -> None:
        self._own: list[Tensor] | None = None
        self._reached = -1
        self._done: _Done | None = None

    def begin(
        self, engine: Engine, theta: ThetaView, job: Job, windows: Sequence[int], on_step: OnStep, stop: _Stop
    ) -> None:
        """Do a round's job before its θ is there, as far as it comes until `stop` says so; `theta` is the one before.

        Raises:
            ValueError, RoundLost: as `Engine.run`.
        """
        self._done = None
        own, self._own = self._own if self._reached == job.round - 1 else None, None
        delta = engine.run(theta if own is None else OwnWeights(theta.layout, own), job, on_step, stop)
        self._own = _after(theta, delta) if own is None else _moved(own, delta.tensors)
        self._reached, self._done = job.round, _Done(job, windows, delta)

    def train(
        self, engine: Engine, theta: ThetaView, job: Job, windows: Sequence[int], on_step: OnStep, stop: _Stop
    ) -> Delta:
        """Δ of a round that is open: its rest, where some of this very job has been done, else all of it, from θ.

        Raises:
            ValueError, RoundLost: as `Engine.run`.
        """
        done, self._done = self._done, None
        own, self._own = self._own, None
        if own is None or done is None or not done.belongs(job, windows):
            delta = engine.run(theta, job, on_step, stop)
            own = _after(theta, delta)
        else:
            for mine, away in zip(own, theta.delta(own), strict=True):
                mine.add_(away, alpha=MIXED)
            delta = done.delta
            if delta.steps < job.steps:
                delta = _joined(delta, engine.run(OwnWeights(theta.layout, own), done.rest(job), on_step, stop), own)
        self._own, self._reached = own, job.round
        return delta


_Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class _Done:
    """A job, its windows by id, and Δ of as many of its steps as were done before its round was open."""

    job: Job
    windows: Sequence[int]
    delta: Delta

    def belongs(self, job: Job, windows: Sequence[int]) -> bool:
        """Whether the job is the one that was foreseen; where the last record was null its rates are one step off."""
        return (self.job.round, self.job.inner, list(self.windows)) == (job.round, job.inner, list(windows))

    def rest(self, job: Job) -> Job:
        """What is left of it."""
        steps = self.delta.steps
        return replace(job, first_step=job.first_step + steps, windows=job.windows[steps * job.inner.batch :])


@dataclass(frozen=True, slots=True)
class OwnWeights:
    """Weights of a miner's own as an engine's θ: fp32 tensors in layout order, which stay as they are."""

    layout: Layout
    tensors: Sequence[Tensor]

    def copy_into(self, parameters: Sequence[Tensor]) -> None:
        """Make `parameters` a copy."""
        with torch.no_grad():
            for mine, theirs in zip(self.tensors, parameters, strict=True):
                theirs.copy_(mine)

    def delta(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """These weights minus `parameters`, fp32, where these are."""
        pairs = zip(self.tensors, parameters, strict=True)
        return [mine - theirs.detach().to(mine.device).float() for mine, theirs in pairs]


def _after(theta: ThetaView, delta: Delta) -> list[Tensor]:
    """θ − Δ, as new tensors where Δ is."""
    own = [torch.empty_like(tensor) for tensor in delta.tensors]
    theta.copy_into(own)
    return _moved(own, delta.tensors)


def _moved(own: list[Tensor], delta: Sequence[Tensor]) -> list[Tensor]:
    """The weights after training by Δ, in place."""
    for mine, change in zip(own, delta, strict=True):
        mine.sub_(change)
    return own


def _joined(first: Delta, then: Delta, own: list[Tensor]) -> Delta:
    """Δ of both, in the memory of the first; the weights, in place, where the second led them."""
    _moved(own, then.tensors)
    for all_of_it, change in zip(first.tensors, then.tensors, strict=True):
        all_of_it.add_(change)
    steps = first.steps + then.steps
    loss = (first.loss * first.steps + then.loss * then.steps) / steps
    return Delta(first.tensors, steps, loss, first.seconds + then.seconds)
