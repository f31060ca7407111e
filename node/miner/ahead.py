"""What a miner has trained of a round before it is open, in a run with a delay, and how it goes on once it is.

The first steps are taken from the θ before, while the last round closes. When its outer step has come, the weights go
on from the new θ with what was trained on top, and Δ is what they are away from it: nothing is trained in vain, and
nobody's weights drift. Where all of the round is done by then, Δ is what it is. (docs/results.md compares the ways.)
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


@dataclass(frozen=True, slots=True)
class Ahead:
    """A round's work as far as it came before the round was open: its job, the windows by id, and Δ so far.

    Δ's tensors stay where the engine left them, so a device holds them beside θ until the round is over.
    """

    job: Job
    windows: Sequence[int]
    delta: Delta

    def belongs(self, job: Job, windows: Sequence[int]) -> bool:
        """Whether it is of this very work: round, data and schedule came as they were foreseen."""
        return (self.job.round, self.job.inner, list(self.windows)) == (job.round, job.inner, list(windows))

    def finish(self, engine: Engine, theta: ThetaView, job: Job, on_step: OnStep, stop: Callable[[], bool]) -> Delta:
        """Δ of the whole job, whose rest begins from θ with what was trained on top; fewer steps where `stop` says so.

        Raises:
            RoundLost: as `Engine.run`.
        """
        done = self.delta
        if done.steps >= job.steps:
            return done
        rest = replace(job, first_step=job.first_step + done.steps, windows=job.windows[done.steps * job.inner.batch :])
        more = engine.run(_Rebased(theta, done.tensors), rest, on_step, stop)
        steps = done.steps + more.steps
        loss = (done.loss * done.steps + more.loss * more.steps) / steps
        return Delta(more.tensors, steps, loss, done.seconds + more.seconds)


def foreseen(tip: Tip, assign: Beacon) -> Tip:
    """The next round as far as it is known before its record is there: its number and its assignment.

    The record that is awaited is taken to move θ.
    """
    opening = replace(tip.opening, round=tip.round + 1, base_round=tip.round, assign=assign)
    return replace(tip, opening=opening, outer_step=tip.outer_step + 1)


class _Rebased:
    """θ to be compared with, and θ − Δ to begin from."""

    def __init__(self, theta: ThetaView, delta: Sequence[Tensor]) -> None:
        self._theta = theta
        self._delta = delta

    @property
    def layout(self) -> Layout:
        """θ's tensors: names, shapes and order."""
        return self._theta.layout

    def copy_into(self, parameters: Sequence[Tensor]) -> None:
        """Make `parameters` θ − Δ."""
        self._theta.copy_into(parameters)
        with torch.no_grad():
            for parameter, change in zip(parameters, self._delta, strict=True):
                parameter.sub_(change.to(parameter.device, parameter.dtype))

    def delta(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """θ − parameters, which holds the Δ that was there before."""
        return self._theta.delta(parameters)
