"""Inner training on one device, the `local` engine: H optimizer steps, which turn θ into a pseudo-gradient.

The inner loop of SparseLoCo (arXiv 2508.15706 §3). Moments live from round to round; the weights do not:
each run starts from a copy of the θ it is given, so a drifted working copy can never leak into the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from muster.node.compute import CPU, Compute
from muster.node.miner.engine import Delta, Diverged, Job, OnStep, RoundLost, ThetaView
from muster.node.miner.optimizers import InnerOptimizer
from muster.node.miner.passes import Passes, full
from muster.node.miner.schedule import learning_rate
from muster.node.miner.state import Entry
from muster.node.models import model_class
from muster.protocol.spec import InnerSpec, ModelSpec


class LocalEngine:
    """A working model and the optimizers' moments that belong to it, on one device.

    An amendment may change what a job's `inner` says but for the optimizer, whose moments are no other's. Not safe to
    use from two threads at once.
    """

    def __init__(
        self,
        model: ModelSpec,
        inner: InnerSpec,
        compute: Compute = CPU,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Train as `compute` says (fp32 products unless it says bf16), with cold moments; `clock` returns seconds."""
        self._clock = clock
        with compute.device:
            self._model = model_class(model)(model)
        self._device = compute.device
        self._passes = Passes(self._model, compute)
        self._optimizer = InnerOptimizer(self._model, inner, compute.moments)

    def run(
        self, theta: ThetaView, job: Job, on_step: OnStep | None = None, stop: Callable[[], bool] | None = None
    ) -> Delta:
        """Run up to H inner steps from θ on consecutive batches of the job's windows; see `Engine.run`."""
        inner, steps = job.inner, job.steps
        if inner.optimizer != self._optimizer.name:
            raise ValueError(f"this engine's optimizer is {self._optimizer.name}, not {inner.optimizer}")
        parameters = list(self._model.parameters())
        theta.copy_into(parameters)
        losses: list[float] = []
        began = self._clock()
        windows = job.windows.to(self._device)
        try:
            for h in range(steps):
                batch = windows[h * inner.batch : (h + 1) * inner.batch]
                losses.append(self._step(batch, job.first_step + h, inner))
                if on_step is not None:
                    on_step(job.first_step + h, losses[-1])
                if stop is not None and stop():
                    break
            seconds = self._clock() - began
            self._model.zero_grad()  # their memory is Δ's now
            delta = tuple(theta.delta(parameters))
        except torch.cuda.OutOfMemoryError as error:  # of moments, of an optimizer's work, of Δ
            raise RoundLost(full(str(error))) from error
        return Delta(delta, len(losses), math.fsum(losses) / len(losses), seconds)

    def state(self) -> Iterator[Entry]:
        """What is kept of the optimizer's moments, to be saved before the next step; see `InnerOptimizer.state`."""
        return self._optimizer.state()

    def load_state(self, entries: Iterable[Entry]) -> None:
        """Continue with what `state` gave; see `InnerOptimizer.load_state`."""
        self._optimizer.load_state(entries)

    def _step(self, windows: Tensor, inner_step: int, inner: InnerSpec) -> float:
        """One optimizer step on one batch; returns its loss before the step."""
        mean = self._passes.gradient(windows)
        size = nn.utils.clip_grad_norm_(self._model.parameters(), inner.clip or math.inf)
        loss, norm = torch.stack((mean, size)).tolist()  # one wait for a GPU, not two
        if not math.isfinite(norm):
            raise Diverged(
                f"the gradient of inner step {inner_step} is not finite (loss {loss}); "
                "check this machine's memory, then lower the inner learning rate by an amendment"
            )
        self._optimizer.step(inner, learning_rate(inner, inner_step))
        return float(loss)
