"""Small models on a CPU: all tensors at once, because what a call costs by itself is most of what a small tensor costs.

The same bits as the reference. What an update says is brought into *tile order*, in which the entries of all tensors
follow each other tile by tile: sums are made there, and only what the updates touch is looked up in the tensors. Beside
θ a grid's maps take 8 bytes an entry, so this is for models below `muster.kernels.fast.FAST_ENTRIES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.kernels import reference
from muster.kernels.codec import Codec
from muster.kernels.grid import Grid
from muster.kernels.quantiser import SCALES
from muster.kernels.undo import Undo
from muster.kernels.update import SparseUpdate

_Floats = npt.NDArray[np.float32]
_Ints = npt.NDArray[np.int64]

_CODES = 4
"""Values that a tile's entries can have: its low and its high scale, then both negated, by code."""


@dataclass(frozen=True)
class _Map:
    """Where the entries of updates of a codec are: what does not depend on what they say. All arrays are only read."""

    codec: Codec

    @property
    def grid(self) -> Grid:
        """The grid of the tensors."""
        return self.codec.grid

    @cached_property
    def tile_starts(self) -> _Ints:
        """Where each tile begins in tile order, and at the end the number of all entries: int64 (tiles + 1,)."""
        return np.concatenate([[0], np.cumsum(self.grid.tile_sizes, dtype=np.int64)])

    @cached_property
    def bases(self) -> _Ints:
        """Where the tile of each kept entry begins in tile order: int64 (N,)."""
        return np.repeat(self.tile_starts[:-1], self._counts)

    @cached_property
    def rows(self) -> _Ints:
        """Where the values of each kept entry's tile begin, `_CODES` a tile: int64 (N,)."""
        return np.repeat(np.arange(self.grid.tiles) * _CODES, self._counts)

    @cached_property
    def tensor_tiles(self) -> _Ints:
        """How many tiles each tensor has: int64 (tensors,)."""
        return np.array([last - first for first, last in self.grid.tensor_tiles], np.int64)

    @cached_property
    def order(self) -> _Ints:
        """In tile order, where each entry is in its own tensor: int64 (entries,)."""
        orders = [self.grid.order(i).numpy() for i in range(len(self.grid.shapes))]
        return np.concatenate([np.empty(0, np.int64), *orders])

    @property
    def _counts(self) -> _Ints:
        return np.diff(self.grid.entry_starts(self.codec.k))

    def by_tensor(self, starts: _Ints) -> Iterator[tuple[int, slice]]:
        """The tensors that have tiles, and which of some values are theirs; `starts` (tiles + 1,) are their tiles'."""
        for i, (first, last) in enumerate(self.grid.tensor_tiles):
            if last > first:
                yield i, slice(int(starts[first]), int(starts[last]))

    def addresses(self, update: SparseUpdate) -> _Ints:
        """Where an update's entries are in tile order: int64 (N,), all different."""
        addresses: _Ints = self.bases + update.indices.numpy()
        return addresses

    def values(self, update: SparseUpdate, factors: _Floats) -> _Floats:
        """fl(factor · v) of the value v of each of an update's entries, a factor a tensor: fp32 (N,)."""
        levels = SCALES.numpy()[update.scales.numpy()]
        if update.scale_limit is not None:
            limits = np.array(update.scale_limit, np.float32)
            levels = np.minimum(levels, np.repeat(limits, self.tensor_tiles)[:, None])
        levels = np.repeat(factors, self.tensor_tiles)[:, None] * levels
        table: _Floats = np.concatenate([levels, -levels], axis=1).reshape(-1)
        values: _Floats = table.take(self.rows + update.codes.numpy())
        return values


@lru_cache(maxsize=8)
def _map(codec: Codec) -> _Map:
    return _Map(codec)


def compress(acc: Sequence[Tensor], codec: Codec) -> SparseUpdate:
    """What `muster.kernels.compress` makes; `acc` only read.

    Raises:
        ValueError: a value is not finite.
    """
    grid = codec.grid
    values = torch.cat([torch.empty(0), *(tensor.reshape(-1)[grid.order(i)] for i, tensor in enumerate(acc))])
    if not bool(torch.isfinite(values).all()):
        return reference.compress(acc, codec)  # which says what tensor it is
    out = (
        torch.empty(codec.count, dtype=torch.int16),
        torch.empty(codec.count, dtype=torch.uint8),
        torch.empty(grid.tiles, 2, dtype=torch.uint8),
    )
    reference.compress_tiles(values, grid.tile_sizes.astype(np.int64), grid.kept(codec.k).astype(np.int64), out)
    return SparseUpdate(codec, *out)


def compress_(
    delta: Sequence[Tensor], error: Sequence[Tensor], decay: float, codec: Codec, left: Sequence[Tensor]
) -> SparseUpdate:
    """What `muster.kernels.compress_` makes.

    Raises:
        ValueError: a value is not finite.
    """
    acc = reference.fold(error, delta, decay)
    update = compress(acc, codec)
    subtract_(acc, update, [1.0] * len(acc), save=False)
    for target, rest in zip(left, acc, strict=True):
        target.copy_(rest)
    return update


def subtract_(theta: Sequence[Tensor], update: SparseUpdate, factors: Sequence[float], save: bool) -> Tensor:
    """theta −= fl(fl32(factor) · Δ̂), a factor a tensor; what was there, fp32 (N,), or nothing unless `save`."""
    where = _map(update.codec)
    places = where.order.take(where.addresses(update))
    values = where.values(update, np.array(factors, np.float32))
    old = np.empty(len(values) if save else 0, np.float32)
    for i, here in where.by_tensor(update.grid.entry_starts(update.k)):
        flat = _flat(theta[i])
        at = places[here]
        before = flat.take(at)
        if save:
            old[here] = before
        flat[at] = before - values[here]
    return torch.from_numpy(old)


def step_(
    theta: Sequence[Tensor],
    updates: Sequence[SparseUpdate],
    weights: npt.NDArray[np.float32],
    lr: float,
    divisors: npt.NDArray[np.float32],
) -> Undo:
    """What `muster.kernels.aggregate_` does, for updates of one codec."""
    where = _map(updates[0].codec)
    entries = int(where.tile_starts[-1])
    total, listed = np.zeros(entries, np.float32), np.zeros(entries, np.int32)
    addresses = [where.addresses(update) for update in updates]
    for update, factors, at in zip(updates, weights, addresses, strict=True):
        total[at] += where.values(update, factors)
        listed[at] += 1
    touched, starts = _touched(where, addresses)
    step = np.float32(lr) * (total.take(touched) / divisors.take(listed.take(touched)))
    places, old = where.order.take(touched), np.empty(len(touched), np.float32)
    for i, here in where.by_tensor(starts):
        flat = _flat(theta[i])
        at = places[here]
        old[here] = flat.take(at)
        flat[at] = old[here] - step[here]
    return Undo(torch.from_numpy(old), starts)


def put_(theta: Sequence[Tensor], updates: Sequence[SparseUpdate], undo: Undo) -> None:
    """What `muster.kernels.undo_` does, for updates of one codec.

    Raises:
        ValueError: the log is of other updates; θ is as it was.
    """
    where = _map(updates[0].codec)
    touched, starts = _touched(where, [where.addresses(update) for update in updates])
    if not np.array_equal(starts, undo.starts):
        raise ValueError("the undo log is of other updates")
    places, values = where.order.take(touched), undo.values.numpy()
    for i, here in where.by_tensor(starts):
        _flat(theta[i])[places[here]] = values[here]


def _touched(where: _Map, addresses: Sequence[_Ints]) -> tuple[_Ints, _Ints]:
    """What is listed, in tile order: each entry once, ascending, and where each tile's begin among them.

    By sorting, whose time goes by what is listed and not by the model.
    """
    listed = np.sort(np.concatenate(addresses))
    first = np.ones(len(listed), np.bool_)
    np.not_equal(listed[1:], listed[:-1], out=first[1:])
    touched = listed[first]
    return touched, np.searchsorted(touched, where.tile_starts)


def _flat(tensor: Tensor) -> _Floats:
    """The entries of a contiguous fp32 CPU tensor, row-major, not a copy."""
    array: _Floats = tensor.detach().view(-1).numpy()
    return array
