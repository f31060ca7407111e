"""Whether a CPU's bf16 products are faster than its fp32 ones for this model: measured, as nobody can tell by its name.

With AVX512-BF16 or AMX they are half as fast again at 30M parameters, and slower on models whose matrices are small.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from muster.node.compute import Compute
from muster.node.miner.passes import Passes
from muster.node.models import model_class
from muster.protocol.spec import ModelSpec
from muster.protocol.spec.layout import layout_of

WORTH_TRYING = 1 << 22
"""Models from so many parameters on are timed; smaller ones lose by it, and should start at once."""

_MARGIN = 1.1
"""How much faster bf16 must be: it is less exact, and a choice that noise turns over makes lives that differ."""

_LAYERS = 2
_LENGTH = 256
_PAIRS = 3


def settled(compute: Compute, model: ModelSpec, clock: Callable[[], float] = time.perf_counter) -> tuple[Compute, str]:
    """`compute` with `autocast` decided, and a sentence that says why; "" where it was decided before.

    On a few passes of two layers of the model, embedding and head, with weights that are thrown away: a second of
    processor time at 30M parameters, six at 150M.
    """
    if compute.autocast is not None:
        return compute, ""
    if layout_of(model).parameters < WORTH_TRYING:
        return replace(compute, autocast=False), "fp32 products: this model is too small for bf16 to be faster"
    ratio = _gain(model, compute, clock)
    faster = ratio >= _MARGIN
    return replace(compute, autocast=faster), f"{'bf16' if faster else 'fp32'} products: bf16 is {ratio:.2f}× as fast"


def _gain(model: ModelSpec, compute: Compute, clock: Callable[[], float]) -> float:
    """Seconds of a pass in fp32 over those in bf16: the medians of alternating ones, after one of each."""
    with compute.device:
        few = model.model_copy(update={"layers": min(model.layers, _LAYERS)})
        trial, draw = model_class(few)(few), torch.Generator().manual_seed(0)
        for parameter in trial.parameters():
            parameter.detach().normal_(std=model.init_std, generator=draw)
        windows = torch.arange(min(model.context, _LENGTH) + 1).unsqueeze(0) % model.vocab
    plain = replace(compute, compiled=False)
    ways = [Passes(trial, replace(plain, autocast=autocast)) for autocast in (False, True)]
    seconds: list[list[float]] = [[], []]
    for _ in range(1 + _PAIRS):
        for way, taken in zip(ways, seconds, strict=True):
            began = clock()
            way.gradient(windows)
            taken.append(clock() - began)
    return statistics.median(seconds[0][1:]) / statistics.median(seconds[1][1:])
