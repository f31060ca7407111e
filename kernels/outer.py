"""The outer step: what accepted updates do to θ, the same bits on every replica.

Sums over entries or updates are either in record order, one rounding each, or correctly rounded
(`math.fsum`), and every median is an order statistic, so nothing depends on how a device arranges its work.
θ and the updates' values are fp32. No fused multiply-add: each product and each sum is its own operation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.kernels import cuda, fast
from muster.kernels.grid import Grid
from muster.kernels.update import Saved, SparseUpdate

Rule = Literal["mean", "sender_mean", "damped_mean"]


def divisors(rule: Rule, count: int) -> npt.NDArray[np.float32]:
    """What `rule` divides the sum of an entry by, fp32 (count + 1,), by how many of `count` updates list the entry.

    1 for "mean", whose weights are divided already, c for "sender_mean", fl32(sqrt(c · count)) for "damped_mean":
    the geometric mean of the senders and of everybody, so that an entry that few updates list moves less than by
    their mean. The product is exact and the root correctly rounded in float64, then rounded to fp32 once.

    Raises:
        ValueError: the rule is not known.
    """
    senders = np.arange(count + 1, dtype=np.float64)
    if rule == "mean":
        return np.ones(count + 1, np.float32)
    if rule == "sender_mean":
        return senders.astype(np.float32)
    if rule == "damped_mean":
        return np.sqrt(senders * count).astype(np.float32)
    raise ValueError(f"unknown outer rule {rule!r}; there are {', '.join(get_args(Rule))}")


def scale_caps(updates: Sequence[SparseUpdate], cap: float) -> list[float]:
    """Per tensor, the largest scale in force: fl32(cap · lower median of the updates' largest scales).

    It keeps one update's spike on entries that nobody else sends from outweighing a round's work. The
    median is of the largest scales and not of all: tiles of one tensor differ by orders of magnitude when
    all is well (rows of an embedding whose tokens do not occur), and a median of those would cap every
    honest update. `cap` is rounded to fp32 first. Infinite where `cap` is 0, or the tensor has no tiles.

    Raises:
        ValueError: the updates are of different grids, or there are none.
    """
    grid = _common_grid(updates)
    if cap == 0:
        return [math.inf] * len(grid.shapes)
    caps = []
    for i, (first, last) in enumerate(grid.tensor_tiles):
        if first == last:
            caps.append(math.inf)
            continue
        peaks = sorted(float(update.tensor_scales(i).max()) for update in updates)
        caps.append(float(np.float32(cap) * np.float32(peaks[(len(peaks) - 1) // 2])))
    return caps


def capped(update: SparseUpdate, caps: Sequence[float]) -> SparseUpdate:
    """`update` with every scale of tensor i limited to caps[i] (fp32 values, or infinity)."""
    return replace(update, scale_limit=tuple(caps))


def norm(update: SparseUpdate, i: int) -> float:
    """The Euclidean norm of tensor i's values, float64.

    The square root of the correctly rounded sum, over tiles and their two scales, of count · scale²; in
    float64 scale² is exact and its product with the count rounds once.
    """
    first, last = update.grid.tensor_tiles[i]
    starts = update.grid.entry_starts(update.k)[first : last + 1]
    entries = update.codes.numpy()[starts[0] : starts[-1]]
    high = np.add.reduceat(entries & 1, starts[:-1] - starts[0], dtype=np.int64)  # no tile is without an entry
    low = starts[1:] - starts[:-1] - high
    levels = update.tensor_scales(i).double().numpy()
    squares = levels * levels
    return math.sqrt(math.fsum((low * squares[:, 0]).tolist() + (high * squares[:, 1]).tolist()))


def clip_weights(updates: Sequence[SparseUpdate]) -> npt.NDArray[np.float32]:
    """The median-norm clip, fp32 (R, tensors): min(1, median / norm) of each update's norm of each tensor.

    The lower median over the updates; divided in float64 and rounded to fp32 once; 1 where the norm is 0
    (Gauntlet, arXiv 2505.21684).

    Raises:
        ValueError: the updates are of different grids, or there are none.
    """
    grid = _common_grid(updates)
    norms = np.array([[norm(update, i) for i in range(len(grid.shapes))] for update in updates], np.float64)
    median = np.sort(norms, axis=0)[(len(updates) - 1) // 2]
    ratios = np.ones_like(norms)
    np.divide(median, norms, out=ratios, where=norms > median)
    return ratios.astype(np.float32)


def aggregate_(
    theta: Sequence[Tensor],
    updates: Sequence[SparseUpdate],
    weights: npt.NDArray[np.float32],
    lr: float,
    rule: Rule,
) -> None:
    """The outer step, in place: θ ← θ − α·u, where u is the updates' weighted sum, divided as the rule says.

    For each coordinate that an update lists, over the updates in the given order: t = fl(w·v), s = fl(s +
    t) from +0; u = fl(s / d), d the rule's divisor for the number of updates that list it: 1 for "mean" (w
    already holds 1/R), that number c for "sender_mean", √(c·R) for "damped_mean" (`divisors`); θ = fl(θ −
    fl(α·u)). Other coordinates keep their bits.

    Args:
        theta: contiguous fp32 tensors of the grid's shapes, all on one device.
        updates: R updates, in record order.
        weights: w, fp32 (R, tensors).
        lr: α; rounded to fp32 first.
        rule: how u is made.

    Raises:
        ValueError: θ, the updates and the weights do not fit each other, or the rule is not known.
    """
    table = divisors(rule, len(updates))
    grid = _common_grid(updates)
    _check_theta(theta, grid)
    expected = (len(updates), len(grid.shapes))
    if weights.dtype != np.float32 or weights.shape != expected:
        raise ValueError(f"weights must be fp32 {expected}, one per update and tensor")
    if fast.suits(theta) and len({update.k for update in updates}) == 1:
        from muster.kernels.fast.outer import aggregate_ as fast_aggregate_  # noqa: PLC0415 - takes a while to load

        fast_aggregate_(theta, updates, weights, lr, table)
        return
    if cuda.suits(theta) and len({update.k for update in updates}) == 1:
        from muster.kernels.cuda.outer import aggregate_ as cuda_aggregate_  # noqa: PLC0415 - needs Triton

        cuda_aggregate_(theta, updates, weights, lr, table)
        return
    alpha = float(np.float32(lr))
    for i, tensor in enumerate(theta):
        flat = tensor.detach().view(-1)
        total, listed = torch.zeros_like(flat), torch.zeros_like(flat, dtype=torch.int32)
        for update, weight in zip(updates, weights[:, i].tolist(), strict=True):
            positions, values = _entries(update, i, flat)
            total[positions] = total[positions] + weight * values
            listed[positions] = listed[positions] + 1
        touched = listed.nonzero().squeeze(1)
        # By a tensor and not a number: torch multiplies by the inverse of a number on some devices.
        step = total[touched] / torch.from_numpy(table).to(flat.device)[listed[touched]]
        flat[touched] = flat[touched] - alpha * step


def perturb_(theta: Sequence[Tensor], update: SparseUpdate, scale: float) -> Saved:
    """θ ← θ − scale·Δ̂ in place, for a look at what the update does; give the result to `restore_`.

    θ = fl(θ − fl(scale·v)) at the update's entries, scale rounded to fp32 first; `theta` as for `aggregate_`.

    Raises:
        ValueError: θ does not have the update's shapes.
    """
    _check_theta(theta, update.grid)
    if fast.suits(theta):
        from muster.kernels.fast.compress import subtract_  # noqa: PLC0415 - takes a while to load

        return Saved(update, subtract_(theta, update, scale, save=True))
    if cuda.suits(theta):
        from muster.kernels.cuda.compress import subtract_ as cuda_subtract_  # noqa: PLC0415 - needs Triton

        return Saved(update, cuda_subtract_(theta, update, scale, save=True))
    factor = float(np.float32(scale))
    before = torch.empty(len(update.indices))
    for i, tensor in enumerate(theta):
        flat = tensor.detach().view(-1)
        positions, values = _entries(update, i, flat)
        before[update.grid.entries(i, update.k)] = flat[positions].cpu()
        flat[positions] = flat[positions] - factor * values
    return Saved(update, before)


def restore_(theta: Sequence[Tensor], saved: Saved) -> None:
    """Put back what `perturb_` or `compress_` took off: saved bits are written, nothing is added.

    Raises:
        ValueError: θ does not have the update's shapes.
    """
    update = saved.update
    _check_theta(theta, update.grid)
    if fast.suits(theta):
        from muster.kernels.fast.compress import put_  # noqa: PLC0415 - takes a while to load

        put_(theta, update, saved.values.cpu())
        return
    if cuda.suits(theta):
        from muster.kernels.cuda.compress import put_ as cuda_put_  # noqa: PLC0415 - needs Triton

        cuda_put_(theta, update, saved.values)
        return
    for i, tensor in enumerate(theta):
        values = saved.values[update.grid.entries(i, update.k)]
        tensor.detach().view(-1)[update.positions(i).to(tensor.device)] = values.to(tensor.device)


def _entries(update: SparseUpdate, i: int, like: Tensor) -> tuple[Tensor, Tensor]:
    return update.positions(i).to(like.device), update.values(i).to(like.device)


def _common_grid(updates: Sequence[SparseUpdate]) -> Grid:
    if not updates:
        raise ValueError("there must be at least one update")
    if any(update.grid != updates[0].grid for update in updates):
        raise ValueError("the updates are of different grids")
    return updates[0].grid


def _check_theta(theta: Sequence[Tensor], grid: Grid) -> None:
    if tuple(tuple(tensor.shape) for tensor in theta) != grid.shapes:
        raise ValueError("θ does not have the shapes of the updates' grid")
    if any(tensor.dtype != torch.float32 or not tensor.is_contiguous() for tensor in theta):
        raise ValueError("θ must be contiguous fp32 tensors")
