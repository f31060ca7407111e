"""The outer step: what accepted updates do to θ, the same bits on every replica, and how it is taken back.

Sums over updates are in record order, one rounding each, so nothing depends on how a device arranges its work. θ and
the updates' values are fp32. No fused multiply-add: each product and each sum is its own operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.kernels import reference
from muster.kernels.backend import Backend, backend_of
from muster.kernels.grid import Grid
from muster.kernels.undo import Undo
from muster.kernels.update import SparseUpdate, common_grid

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


def aggregate_(
    theta: Sequence[Tensor],
    updates: Sequence[SparseUpdate],
    weights: npt.NDArray[np.float32],
    lr: float,
    rule: Rule,
) -> Undo:
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

    Returns:
        What `undo_` needs, beside the same updates, to give θ its old bits.

    Raises:
        ValueError: θ, the updates and the weights do not fit each other, or the rule is not known.
    """
    table = divisors(rule, len(updates))
    grid = common_grid(updates)
    _check_theta(theta, grid)
    expected = (len(updates), len(grid.shapes))
    if weights.dtype != np.float32 or weights.shape != expected:
        raise ValueError(f"weights must be fp32 {expected}, one per update and tensor")
    return _backend(theta, updates).step_(theta, updates, weights, lr, table)


def perturb_(
    theta: Sequence[Tensor],
    update: SparseUpdate,
    scale: float,
    weights: npt.NDArray[np.float32] | None = None,
) -> Undo:
    """θ ← θ − scale·w·Δ̂ in place, for a look at what one update does; `undo_` takes it back.

    θ = fl(θ − fl(factor·v)) at the update's entries, factor = fl32(fl32(scale)·w), w of its tensor (None: 1). Its
    cost goes by the update's entries, and not by the model's; `theta` as for `aggregate_`.

    Raises:
        ValueError: θ does not have the update's shapes, or there is not one weight a tensor.
    """
    _check_theta(theta, update.grid)
    if weights is None:
        weights = np.ones(len(theta), np.float32)
    if weights.shape != (len(theta),):
        raise ValueError(f"weights must be ({len(theta)},), one a tensor")
    factors: list[float] = (np.float32(scale) * weights).astype(np.float32).tolist()
    old = backend_of(theta).subtract_(theta, update, factors, save=True)
    return Undo(old, update.grid.entry_starts(update.k))


def undo_(theta: Sequence[Tensor], updates: Sequence[SparseUpdate], undo: Undo) -> None:
    """Give θ the very bits it had before the last `aggregate_` or `perturb_` of these updates.

    Saved bits are written, nothing is added, so steps that are undone in the reverse of their order leave no trace.

    Raises:
        ValueError: θ does not have the updates' shapes (θ is as it was), or the log is of other updates (θ is void).
    """
    grid = common_grid(updates)
    _check_theta(theta, grid)
    if undo.starts.shape != (grid.tiles + 1,):
        raise ValueError("the undo log is of another grid")
    _backend(theta, updates).put_(theta, updates, undo)


def _backend(theta: Sequence[Tensor], updates: Sequence[SparseUpdate]) -> Backend:
    """An amendment may change k between two rounds whose work meets in one record: rare, and the reference's."""
    return backend_of(theta) if len({update.codec for update in updates}) == 1 else reference


def _check_theta(theta: Sequence[Tensor], grid: Grid) -> None:
    if tuple(tuple(tensor.shape) for tensor in theta) != grid.shapes:
        raise ValueError("θ does not have the shapes of the updates' grid")
    if any(tensor.dtype != torch.float32 or not tensor.is_contiguous() for tensor in theta):
        raise ValueError("θ must be contiguous fp32 tensors")
