"""A batch's gradient, in as many forward and backward passes as the memory takes.

The mean over a batch is the sum of its parts' means, each weighed by its share of the windows; so the split is this
miner's own matter, and moves last bits only.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from muster.node.compute import Compute
from muster.node.miner.engine import RoundLost
from muster.node.models import LanguageModel
from muster.protocol.errors import ConfigError

log = logging.getLogger(__name__)


def full(problem: str) -> str:
    """What to do where a GPU's memory does not hold a round; `problem` as torch says it."""
    return (
        f"this GPU does not hold training this model ({problem.partition('. ')[0]}): set moments to 8bit or factored, "
        "free the card of other processes, or take one with more memory"
    )


class Passes:
    """The forward and backward passes of one model, which is changed by nothing else meanwhile.

    What does not fit a GPU is tried again in halves; then, a window at a time, with activations made again. What was
    found to fit stays.
    """

    def __init__(self, model: LanguageModel, compute: Compute) -> None:
        self._model = model
        self._device = compute.device.type
        self._autocast = bool(compute.autocast)
        self._most = compute.micro_batch
        self._loss = torch.compile(model.loss) if compute.compiled else model.loss
        self._uncompilable = (torch._dynamo.exc.TorchDynamoException,) if compute.compiled else ()
        model.recompute = compute.recompute

    def gradient(self, windows: Tensor) -> Tensor:
        """The mean loss of windows, int64 (n, length + 1) on the model's device: a scalar there, fp32, without a graph.

        Its gradient is left in the parameters.

        Raises:
            RoundLost: the device's memory does not hold the passes of one window.
            ConfigError: they are to be compiled, and cannot be.
        """
        while True:
            most = min(self._most or len(windows), len(windows))
            self._model.zero_grad()
            try:
                return self._in_parts(windows, most)
            except torch.cuda.OutOfMemoryError as error:
                problem = str(error).partition(". ")[0]
            except self._uncompilable as error:
                reason = str(error).strip().splitlines()[0]
                raise ConfigError(
                    f"compile is set, but torch cannot compile this model here ({reason}): unset it"
                ) from error
            self._model.zero_grad()  # outside of the handler, whose traceback holds the activations
            if self._device == "cuda":
                torch.cuda.empty_cache()
            self._shrink(most, problem)

    def _in_parts(self, windows: Tensor, most: int) -> Tensor:
        total: Tensor | None = None
        for part in torch.split(windows, most):
            with torch.autocast(self._device, torch.bfloat16, enabled=self._autocast):
                loss: Tensor = self._loss(part)
            if len(part) != len(windows):
                loss = loss * (len(part) / len(windows))
            torch.autograd.backward(loss)
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None, "a batch has windows"
        return total

    def _shrink(self, most: int, problem: str) -> None:
        if most > 1:
            self._most = -(-most // 2)
            log.warning("%s: trains %d windows at a time from here on", problem, self._most)
        elif not self._model.recompute:
            self._model.recompute = True
            log.warning("%s: makes activations again in the backward pass from here on", problem)
        else:
            raise RoundLost(full(problem))
