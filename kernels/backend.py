"""Which code computes: chosen once, by device and size, so that no operation asks again.

A back end is a module with the operations of `Backend`. All of them make the same bits; `muster.kernels.reference` says
which. The public functions (`muster.kernels.compress`, `muster.kernels.step`) check what they are given and hand it on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.kernels import cuda, fast, reference, small
from muster.kernels.codec import Codec
from muster.kernels.undo import Undo
from muster.kernels.update import SparseUpdate


class Backend(Protocol):
    """The operations whose work grows with the model. Every tensor of θ, Δ and e is contiguous fp32 on one device.

    Of `compress_`, e and what is left may be in host memory while Δ is on a device.
    """

    def compress(self, acc: Sequence[Tensor], codec: Codec) -> SparseUpdate:
        """The largest entries of each tile of `acc`, which is only read; ValueError where one is not finite."""

    def compress_(
        self,
        delta: Sequence[Tensor],
        error: Sequence[Tensor],
        decay: float,
        codec: Codec,
        left: Sequence[Tensor],
    ) -> SparseUpdate:
        """The same of a = fl(fl(decay · error) + delta); left, which may be delta, := fl(a − Δ̂); `error` is only read.

        `delta` is void then, unless it is `left`; both are where a value is not finite, a ValueError.
        """

    def subtract_(self, theta: Sequence[Tensor], update: SparseUpdate, factors: Sequence[float], save: bool) -> Tensor:
        """theta −= fl(fl32(factor) · Δ̂), a factor a tensor.

        Returns what was there, fp32 (N,) in the update's order, or nothing unless `save`.
        """

    def step_(
        self,
        theta: Sequence[Tensor],
        updates: Sequence[SparseUpdate],
        weights: npt.NDArray[np.float32],
        lr: float,
        divisors: npt.NDArray[np.float32],
    ) -> Undo:
        """The outer step of updates of one codec; see `muster.kernels.step.aggregate_`."""

    def put_(self, theta: Sequence[Tensor], updates: Sequence[SparseUpdate], undo: Undo) -> None:
        """theta := the old bits at what the updates, of one codec, list; ValueError where the log is of others.

        θ is void then.
        """


class EntryLoops(Protocol):
    """What is done with an update's own entries, whatever device θ is on: those are always in the host's memory."""

    def read_frame(
        self,
        content: npt.NDArray[np.uint8],
        packed: npt.NDArray[np.uint8],
        sizes: npt.NDArray[np.int32],
        starts: npt.NDArray[np.int64],
        out: tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8], npt.NDArray[np.uint8]],
    ) -> bool:
        """Read a frame of codec 1 into out = (indices, codes, scale bytes); False where it is not one, `out` is void.

        `content` are scale and gap bytes, `packed` code bytes, sizes (tiles,) the entries of the frame's tiles, starts
        (tiles + 1,) where each has its kept entries among all.
        """

    def count_high(
        self, codes: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
    ) -> None:
        """counts (tiles,) := how many codes of each tile have the high scale; starts (tiles + 1,) says which it has."""


def choose(device: torch.device, entries: int) -> Backend:
    """The back end for tensors of so many entries in all on a device."""
    if device.type == "cpu" and fast.suits(entries):
        from muster.kernels.fast import operations as compiled  # noqa: PLC0415 - takes a while to load

        return compiled
    if device.type == "cuda" and cuda.suits():
        from muster.kernels.cuda import operations as programs  # noqa: PLC0415 - needs Triton

        return programs
    if device.type == "cpu" and entries < fast.FAST_ENTRIES:
        return small
    return reference


def entry_loops(entries: int) -> EntryLoops | None:
    """The compiled loops over updates of a model of so many entries; None where that is not worth their start."""
    if not fast.suits(entries):
        return None
    from muster.kernels.fast import entry_loops as compiled  # noqa: PLC0415 - takes a while to load

    return compiled


def backend_of(tensors: Sequence[Tensor]) -> Backend:
    """The back end for these tensors; the reference alone takes tensors of several devices, or none."""
    devices = {tensor.device for tensor in tensors}
    if len(devices) != 1:
        return reference
    return choose(devices.pop(), sum(tensor.numel() for tensor in tensors))
