"""Are the bits right: every kernel on the GPU against the reference on the CPU, on the same awkward numbers."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.section import Found, Setting
from benchmarks.gpu.toy import lanes
from muster.kernels import (
    Codec,
    Grid,
    Rule,
    SparseUpdate,
    aggregate_,
    backend,
    capped,
    compress,
    compress_,
    fold,
    perturb_,
    reference,
    residual,
    scale_caps,
    undo_,
)

DECAY = 0.95
RULES: tuple[Rule, ...] = ("mean", "sender_mean", "damped_mean")
KEPT = (64, 1, 300)
"""k: a preset's, the least, and one that is no power of two."""
SHAPES: list[tuple[int, ...]] = [(1024, 2048), (1000, 777), (400_000,), (5000,), (), (0, 3), (3, 50, 70)]
TOY: list[tuple[int, ...]] = [(65, 60), (0, 3), (3, 5, 4)]
KINDS = ("gaussian", "ties", "subnormal", "wide")


def values(shapes: list[tuple[int, ...]], seed: int) -> list[Tensor]:
    """fp32 tensors: gaussian, few different values, values below the normal range, 200 octaves; of each kind in turn.

    Zeros of both signs are among them.
    """
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i, shape in enumerate(shapes):
        kind, tensor = KINDS[(i + seed) % len(KINDS)], torch.empty(shape).normal_(0, 0.01, generator=generator)
        if kind == "ties":
            tensor = (tensor * 400).round() / 400
        elif kind == "subnormal":
            tensor = tensor * 2.0**-130
        elif kind == "wide":
            tensor = tensor * torch.randint(-100, 100, shape, generator=generator).float().exp2()
        made.append(tensor)
    return made


def everything(shapes: list[tuple[int, ...]], k: int, setting: Setting | None) -> dict[str, list[Tensor]]:
    """What each operation makes on the device, in host memory; None: by the reference, on the CPU."""
    device = torch.device("cpu") if setting is None else setting.device
    grid, made = Grid(shapes), dict[str, list[Tensor]]()
    codec, updates = Codec(grid, k), list[SparseUpdate]()
    error = values(shapes, 0)
    for n in range(1, 4):
        delta = [tensor.to(device) for tensor in values(shapes, n)]
        sent = compress(fold([tensor.to(device) for tensor in error], delta, DECAY), codec)
        made[f"compress {n}"] = [sent.indices, sent.codes, sent.scales]
        made[f"residual {n}"] = [tensor.cpu() for tensor in residual(delta, sent)]
        again = [tensor.clone() for tensor in delta]
        sent = compress_(delta, [tensor.to(device) for tensor in error], DECAY, codec)
        made[f"compress_ {n}"] = [sent.indices, sent.codes, sent.scales, *(tensor.cpu() for tensor in delta)]
        left = [torch.empty_like(tensor) for tensor in error]
        sent = through_host(setting, again, error, codec, left)
        made[f"compress_ {n} with e in host memory"] = [sent.indices, sent.codes, sent.scales, *left]
        updates.append(sent)
    caps = scale_caps(updates, 0.9)
    updates = [capped(update, caps) for update in updates]
    weights = np.linspace(-0.3, 1.0, len(updates) * len(shapes), dtype=np.float32).reshape(len(updates), len(shapes))
    theta = [tensor.to(device) for tensor in values(shapes, 9)]
    for rule in RULES:
        undo = aggregate_(theta, updates, weights, 0.65, rule)
        made[f"aggregate_ {rule}"] = [*(tensor.cpu() for tensor in theta), undo.values.cpu()]
        stepped = [tensor.clone() for tensor in theta]
        undo_(stepped, updates, undo)
        made[f"undo_ {rule}"] = [tensor.cpu() for tensor in stepped]
    saved = perturb_(theta, updates[0], 0.2)
    made["perturb_"] = [tensor.cpu() for tensor in theta]
    undo_(theta, updates[:1], saved)
    made["undo_ of one"] = [tensor.cpu() for tensor in theta]
    return made


def through_host(
    setting: Setting | None, delta: list[Tensor], error: list[Tensor], codec: Codec, left: list[Tensor]
) -> SparseUpdate:
    """`compress_` with e in host memory; a dry run names the way, which on a GPU follows from the devices."""
    if setting is None or not setting.dry:
        return compress_(delta, error, DECAY, codec, left)
    from muster.kernels.cuda.compress import compress_between

    return compress_between(delta, error, DECAY, codec, left, lanes())


def differences(setting: Setting, k: int) -> list[str]:
    """What has other bits on the device than by the reference."""
    shapes = TOY if setting.dry else SHAPES
    with setting.programs():
        ours = everything(shapes, k, setting)
    with patch.object(backend, "choose", lambda *_of: reference):
        right = everything(shapes, k, None)
    return [
        name
        for name, tensors in right.items()
        if any(not torch.equal(_bits(a), _bits(b)) for a, b in zip(tensors, ours[name], strict=True))
    ]


def work(setting: Setting) -> Found:
    """A row a k."""
    rows, differs = [], False
    for k in KEPT[:1] if setting.dry else KEPT:
        wrong = differences(setting, k)
        differs |= bool(wrong)
        rows.append((f"k = {k}", ", ".join(wrong) or "nothing"))
    return Found("Bits that are not the reference's", ("of each tile", "differs"), tuple(rows), differs=differs)


def _bits(tensor: Tensor) -> Tensor:
    """A tensor to compare: zeros of both signs are equal numbers."""
    return tensor.view(torch.int32) if tensor.dtype == torch.float32 else tensor
