"""Are the GPU programs right on a real GPU, and how near to its memory's speed?

    python benchmarks/gpu.py [--entries 100]

First compresses, steps, perturbs and restores a model of 12 million parameters on the GPU and by the reference on the
CPU, and exits with 1 where a bit differs. Then times whole calls on so many million parameters, the transfer of the
updates' entries between host and GPU included: GB/s of the dense fp32 model, and as a share of what copying the model
within the GPU reaches in the same run (median of 11 pairs). Without a GPU it says so and exits with 0.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import torch
from codec import DECAY, PAIRS, SENDERS, K, copy, model_shapes, seconds, values
from torch import Tensor

from muster.kernels import (
    Codec,
    Grid,
    Rule,
    SparseUpdate,
    aggregate_,
    backend,
    capped,
    compress_,
    cuda,
    perturb_,
    scale_caps,
    undo_,
)

CHECKED = 12_000_000
RULES: tuple[Rule, ...] = ("mean", "sender_mean", "damped_mean")


def everything(shapes: list[tuple[int, ...]], device: torch.device) -> dict[str, list[Tensor]]:
    """What each operation makes on a device, on the CPU."""
    grid = Grid(shapes)
    made: dict[str, list[Tensor]] = {}
    updates: list[SparseUpdate] = []
    error = [tensor.to(device) for tensor in values(shapes, 0)]
    for n in range(1, 4):
        delta = [tensor.to(device) for tensor in values(shapes, n)]
        sent = compress_(delta, error, DECAY, Codec(grid, K))
        updates.append(sent)
        made[f"update {n}"] = [sent.indices, sent.codes, sent.scales]
        made[f"residual {n}"] = [tensor.cpu() for tensor in delta]
    caps = scale_caps(updates, 0.9)
    updates = [capped(update, caps) for update in updates]
    weights = np.linspace(-0.3, 1.0, len(updates) * len(shapes), dtype=np.float32).reshape(len(updates), len(shapes))
    theta = [tensor.to(device) for tensor in values(shapes, 9)]
    for rule in RULES:
        undo = aggregate_(theta, updates, weights, 0.65, rule)
        made[rule] = [*(tensor.cpu() for tensor in theta), undo.values.cpu()]
        stepped = [tensor.clone() for tensor in theta]
        undo_(stepped, updates, undo)
        made[f"{rule} undone"] = [tensor.cpu() for tensor in stepped]
    saved = perturb_(theta, updates[0], 0.2)
    made["perturbed"] = [tensor.cpu() for tensor in theta]
    undo_(theta, updates[:1], saved)
    made["restored"] = [tensor.cpu() for tensor in theta]
    return made


def differences(shapes: list[tuple[int, ...]], device: torch.device) -> list[str]:
    """What has other bits on a device than by the reference."""
    ours = everything(shapes, device)
    with patch.object(backend, "choose", lambda *_of: reference):
        reference = everything(shapes, torch.device("cpu"))
    return [
        name
        for name, tensors in reference.items()
        if any(not torch.equal(bits(a), bits(b)) for a, b in zip(tensors, ours[name], strict=True))
    ]


def bits(tensor: Tensor) -> Tensor:
    """A tensor to compare: zeros of both signs are equal numbers."""
    return tensor.view(torch.int32) if tensor.dtype == torch.float32 else tensor


def speeds(entries: int, device: torch.device) -> None:
    """Print the table of one model of random values."""
    shapes = model_shapes(entries)
    grid, size = Grid(shapes), sum(Grid(shapes).numel)
    theta, delta = ([tensor.to(device) for tensor in values(shapes, seed)] for seed in (1, 2))
    updates = [compress_(delta, theta, 0.0, Codec(grid, K)) for _ in range(SENDERS)]
    weights = np.full((SENDERS, len(shapes)), 0.9, np.float32)
    print(
        f"{size / 1e6:.0f} million parameters: GB/s of the model, share of a copy's, bytes taken on top of the model's"
    )

    def done(work: Callable[[], object]) -> Callable[[], None]:
        def whole() -> None:
            work()
            torch.cuda.synchronize(device)

        return whole

    def row(operation: str, work: Callable[[], object]) -> None:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        done(work)()  # compiles
        taken = (torch.cuda.max_memory_allocated(device) - before) / 4 / size
        pairs = [(seconds(done(work)), seconds(done(lambda: copy(delta, theta)))) for _ in range(PAIRS)]
        ours, copied = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"{operation:20} {4e-9 * size / ours:8.1f} {copied / ours:7.1%} {taken:7.1%}")

    row("compress", lambda: compress_(delta, theta, DECAY, Codec(grid, K)))
    for rule in RULES:
        row(f"{rule} of {SENDERS}", lambda rule=rule: aggregate_(theta, updates, weights, 1.0, rule))
    row("perturb and restore", lambda: undo_(theta, updates[:1], perturb_(theta, updates[0], 0.2)))


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=float, default=100, help="millions of parameters to time (100)")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU here, so there is nothing to check or to time.")
        return 0
    device = torch.device("cuda", torch.cuda.current_device())
    if not cuda.suits():
        print("The GPU programs need an NVIDIA GPU and Triton 3.6 or later; without them the reference runs.")
        return 1
    shapes = [*model_shapes(CHECKED), (1000, 77), (5000,), (), (3, 5, 4)]
    wrong = differences(shapes, device)
    print(f"{torch.cuda.get_device_name(device)}: {', '.join(wrong) or 'nothing'} differs from the reference")
    if wrong:
        return 1
    speeds(int(arguments.entries * 1e6), device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
