"""Inner training: H optimizer steps on a miner's own data, which turn θ into a pseudo-gradient.

The inner loop of SparseLoCo (arXiv 2508.15706 §3). Moments live from round to round; the weights do not:
each call starts from a copy of the θ it is given, so a drifted working copy can never leak into the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from muster.node.miner.optimizers import InnerOptimizer
from muster.node.models.llama import Llama
from muster.protocol.errors import RunFailed
from muster.protocol.spec import InnerSpec, ModelSpec


class RoundLost(RunFailed):
    """This round's work cannot be done or shown; the miner goes on with the next round's."""

    code = "run.round_lost"


class Diverged(RoundLost):
    """Training produced a number that is not finite. The optimizer keeps its state, as the last finite step left it."""

    code = "run.diverged"


class Theta(Protocol):
    """What training needs of a replica."""

    def copy_into(self, parameters: Iterable[Tensor]) -> None:
        """Make the parameters a copy of θ; ValueError where they do not have its shapes."""

    def delta(self, parameters: Iterable[Tensor]) -> list[Tensor]:
        """θ − the parameters, fp32, in layout order, as new tensors on θ's device."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What one round of inner training made.

    `delta` is Δ = θ − θ^(steps), fp32, in layout order, on θ's own devices. `steps` is how many inner steps
    ran, `loss` the mean training loss over them in nat/token, `seconds` the time they took.
    """

    delta: list[Tensor]
    steps: int
    loss: float
    seconds: float


def learning_rate(spec: InnerSpec, inner_step: int) -> float:
    """The rate of an inner step, counted from 0 over the whole run (outer step · H + h), so restarts keep it.

    Step s of the warm-up has lr·(s+1)/warmup; then half a cosine down to `final_lr` at `total`, and that for
    ever (Loshchilov & Hutter, arXiv 1608.03983, without restarts).
    """
    if inner_step < spec.warmup:
        return spec.lr * (inner_step + 1) / spec.warmup
    if inner_step >= spec.total:
        return spec.final_lr
    progress = (inner_step - spec.warmup) / (spec.total - spec.warmup)
    weight = (1 + math.cos(math.pi * progress)) / 2
    return weight * spec.lr + (1 - weight) * spec.final_lr


class InnerTrainer:
    """A working model and the optimizers' moments that belong to it.

    `inner` may be replaced between rounds, when an amendment changes it, but for its optimizer, whose moments are
    no other's. Not safe to use from two threads at once.
    """

    def __init__(
        self,
        model: ModelSpec,
        inner: InnerSpec,
        device: torch.device | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Train on `device` (CPU unless named), with cold moments; `clock` returns seconds.

        On CUDA matrix products run in bf16 (autocast) over fp32 weights; on CPU everything but Muon's is fp32.

        Raises:
            ConfigError: the run trains with an optimizer that this torch does not have.
        """
        self.inner = inner
        self._device = device or torch.device("cpu")
        self._clock = clock
        with self._device:
            self._model = Llama(model)
        self._optimizer = InnerOptimizer(self._model, inner)

    def train(
        self,
        theta: Theta,
        windows: Tensor,
        first_inner_step: int,
        on_step: Callable[[int, float], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> TrainResult:
        """Run up to H inner steps from `theta` on consecutive batches of `windows`; `theta` is left as it is.

        Args:
            theta: the replica.
            windows: int64 (n, window + 1), one training sequence a row; n // batch steps are run, H at most.
            first_inner_step: the run-wide number of the first step, which sets the learning rate.
            on_step: told (run-wide inner step, its loss in nat/token) after each step.
            stop: asked after each step whether to end the round there.

        Raises:
            ValueError: fewer windows than one batch, `theta` does not have the model's shapes, or `inner` names
                another optimizer than at first.
            Diverged: a gradient is not finite; the step it belongs to was not taken.
        """
        if self.inner.optimizer != self._optimizer.name:
            raise ValueError(f"this trainer's optimizer is {self._optimizer.name}, not {self.inner.optimizer}")
        batch = self.inner.batch
        steps = min(self.inner.steps, windows.shape[0] // batch)
        if steps == 0:
            raise ValueError(f"one inner step takes {batch} windows, only {windows.shape[0]} were given")
        theta.copy_into(self._model.parameters())
        losses: list[float] = []
        began = self._clock()
        for h in range(steps):
            losses.append(self._step(windows[h * batch : (h + 1) * batch], first_inner_step + h))
            if on_step is not None:
                on_step(first_inner_step + h, losses[-1])
            if stop is not None and stop():
                break
        seconds = self._clock() - began
        self._model.zero_grad()  # their memory is Δ's now
        delta = theta.delta(self._model.parameters())
        return TrainResult(delta, len(losses), math.fsum(losses) / len(losses), seconds)

    def state(self) -> dict[str, Tensor]:
        """The optimizers' moments, to be saved before the next step; see `InnerOptimizer.state`."""
        return self._optimizer.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue with what `state()` returned, bit for bit; an empty mapping makes the moments cold.

        Raises:
            MusterError: the tensors do not belong to this model and these optimizers; nothing was changed.
        """
        self._optimizer.load_state(state)

    def _step(self, windows: Tensor, inner_step: int) -> float:
        """One optimizer step on one batch; returns its loss before the step."""
        self._model.zero_grad()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            loss = self._model.loss(windows.to(self._device))
        torch.autograd.backward(loss)
        limit = self.inner.clip or math.inf
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), limit).item()
        if not math.isfinite(norm):
            raise Diverged(
                f"the gradient of inner step {inner_step} is not finite (loss {loss.item()}); "
                "check this machine's memory, then lower the inner learning rate by an amendment"
            )
        self._optimizer.step(self.inner, learning_rate(self.inner, inner_step))
        return loss.item()
