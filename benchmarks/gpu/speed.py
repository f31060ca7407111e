"""How near are the kernels to the card's memory: compress, decode and aggregate beside a copy within the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.bits import DECAY, RULES, TOY, through_host
from benchmarks.gpu.section import Found, Setting
from muster.kernels import Codec, Grid, aggregate_, compress_, decode, encode, perturb_, undo_

K = 64
SENDERS = 20
"""Updates of a round, as the 72B run had at most."""
PAIRS = 7
LAYER: list[tuple[int, ...]] = [(2048, 2048)] * 4 + [(5632, 2048)] * 2 + [(2048, 5632), (2048,), (2048,)]
"""Of a decoder of hidden size 2048: 51 million parameters, of which two and an embedding are 171 million."""
SHAPES: list[tuple[int, ...]] = [(32_768, 2048), *LAYER, *LAYER]


def work(setting: Setting) -> Found:
    """GB/s of the dense fp32 model, beside copies of it in the same run."""
    shapes = TOY if setting.dry else SHAPES
    grid, senders = Grid(shapes), 2 if setting.dry else SENDERS
    codec, size = Codec(grid, K), 4 * sum(grid.numel)
    theta, delta = _filled(shapes, 1, setting), _filled(shapes, 2, setting)
    error, left = ([tensor.cpu().clone() for tensor in theta] for _ in range(2))
    rows: list[tuple[str, ...]] = []
    with setting.programs():
        copied = setting.median(lambda: _copy(delta, theta), PAIRS)

        def row(operation: str, call: Callable[[], object], beside: float = copied) -> float:
            taken = setting.median(call, PAIRS)
            rows.append((operation, f"{1e3 * taken:.2f}", f"{1e-9 * size / taken:.1f}", f"{beside / taken:.0%}"))
            return taken

        row("a copy within the device", lambda: _copy(delta, theta))
        update = compress_(delta, theta, DECAY, codec)
        row("compress, e on the device", lambda: compress_(delta, theta, DECAY, codec))
        row("a copy of e to the device and back, nothing beside it", lambda: _there_and_back(error, left, setting))
        row("compress, e in host memory", lambda: through_host(setting, delta, error, codec, left))
        data = encode(update)
        row("encode (CPU)", lambda: encode(update))
        row("decode (CPU)", lambda: decode(data, codec))
        # From what the last one left, where the entries it sent are small, so that all list different ones.
        updates = [update, *(compress_(delta, delta, 0.0, codec) for _ in range(senders - 1))]
        weights = np.full((senders, len(shapes)), 0.9, np.float32)
        for rule in RULES[:1] if setting.dry else RULES:
            row(f"aggregate of {senders}, {rule}", partial(aggregate_, theta, updates, weights, 1.0, rule))
        row("perturb and restore", lambda: undo_(theta, updates[:1], perturb_(theta, updates[0], 0.2)))
    return Found(
        f"Kernels, of a model of {size / 4e6:.0f} million parameters",
        ("operation", "ms", "GB/s of the model", "of a device copy"),
        tuple(rows),
        ("Whole calls, the transfer of updates included; the median of seven.",),
    )


def _filled(shapes: list[tuple[int, ...]], seed: int, setting: Setting) -> list[Tensor]:
    generator = torch.Generator(setting.device).manual_seed(seed)
    return [torch.empty(shape, device=setting.device).normal_(0, 0.01, generator=generator) for shape in shapes]


def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    for a, b in zip(source, target, strict=True):
        b.copy_(a)


def _there_and_back(source: list[Tensor], target: list[Tensor], setting: Setting) -> None:
    for a, b in zip(source, target, strict=True):
        b.copy_(a.to(setting.device))
