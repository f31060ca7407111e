"""SparseUpdate: the one form in which a pseudo-gradient leaves a miner, travels, is judged and is applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from muster.kernels.codec import Codec
from muster.kernels.grid import Grid
from muster.kernels.quantiser import dequantise, scale_values


@dataclass(frozen=True, slots=True, eq=False)
class SparseUpdate:
    """k entries of each tile, as positions, 2-bit codes and two scale bytes a tile; CPU tensors.

    Attributes:
        codec: the tile grid of the tensors and the entries kept of a whole tile.
        indices: int16 (N,), strictly increasing inside each tile, tiles in grid order; N is codec.count.
        codes: uint8 (N,), 0 to 3 (see `muster.kernels.quantiser`).
        scales: uint8 (tiles, 2), the scale bytes, low then high.
        scale_limit: per tensor, the largest scale value in force (fp32); None for no limit. It is never sent.

    Raises:
        ValueError: a tensor's dtype or size is not the one above.
    """

    codec: Codec
    indices: Tensor
    codes: Tensor
    scales: Tensor
    scale_limit: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        count = self.codec.count
        for name, tensor, dtype, shape in (
            ("indices", self.indices, torch.int16, (count,)),
            ("codes", self.codes, torch.uint8, (count,)),
            ("scales", self.scales, torch.uint8, (self.grid.tiles, 2)),
        ):
            if tensor.dtype != dtype or tuple(tensor.shape) != shape:
                found = f"{tensor.dtype} {tuple(tensor.shape)}"
                raise ValueError(f"{name} must be {dtype} {shape}, not {found}")
        if self.scale_limit is not None and len(self.scale_limit) != len(self.grid.shapes):
            raise ValueError(f"scale_limit must have one value a tensor, {len(self.grid.shapes)} in all")

    @property
    def grid(self) -> Grid:
        """The tile grid of the tensors."""
        return self.codec.grid

    @property
    def k(self) -> int:
        """Entries kept of a whole tile; a clipped tile keeps grid.kept(k)."""
        return self.codec.k

    def tensor_scales(self, i: int) -> Tensor:
        """The two scales of tensor i's tiles after the limit, fp32 (tiles_i, 2)."""
        first, last = self.grid.tensor_tiles[i]
        scales = scale_values(self.scales[first:last])
        return scales if self.scale_limit is None else scales.clamp(max=self.scale_limit[i])

    def scale_values(self) -> Tensor:
        """Each tile's two scales after the limit, fp32 (tiles, 2)."""
        return torch.cat([torch.empty(0, 2), *(self.tensor_scales(i) for i in range(len(self.grid.shapes)))])

    def values(self, i: int) -> Tensor:
        """The values Δ̂ of tensor i's kept entries, fp32 (N_i,)."""
        tiles = self.grid.entry_tiles(i, self.k)
        return dequantise(self.codes[self.grid.entries(i, self.k)], self.tensor_scales(i)[tiles])

    def positions(self, i: int) -> Tensor:
        """The row-major offsets of tensor i's kept entries, int64 (N_i,), all different, in tile order."""
        indices = self.indices[self.grid.entries(i, self.k)].long()
        return self.grid.offsets(i, self.k, indices)

    def dense(self) -> list[Tensor]:
        """Δ̂ as fp32 tensors of grid.shapes, +0 where nothing was kept."""
        tensors = []
        for i, shape in enumerate(self.grid.shapes):
            flat = torch.zeros(self.grid.numel[i])
            flat[self.positions(i)] = self.values(i)
            tensors.append(flat.reshape(shape))
        return tensors

    def identical(self, other: SparseUpdate) -> bool:
        """Whether both have the same codec, entries, codes, scale bytes and limits."""
        return (
            (self.codec, self.scale_limit) == (other.codec, other.scale_limit)
            and torch.equal(self.indices, other.indices)
            and torch.equal(self.codes, other.codes)
            and torch.equal(self.scales, other.scales)
        )


def common_grid(updates: Sequence[SparseUpdate]) -> Grid:
    """The grid that all updates have.

    Raises:
        ValueError: they are of different grids, or there are none.
    """
    if not updates:
        raise ValueError("there must be at least one update")
    if any(update.grid != updates[0].grid for update in updates):
        raise ValueError("the updates are of different grids")
    return updates[0].grid
