"""What one writes first with torch alone: the work of `kernels`, for a fair comparison. Frozen: do not improve it.

The same work, not the same bits: error feedback, top-k of each 64 × 64 tile, two bits a value and two scales a tile,
residual; and a round's updates summed into θ. Every step is one or two whole-tensor operations, vectorised over tiles.
It is let off what the format asks for (sorted indices, exact sums, ties by index).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

TILE_ROWS = 64
TILE = 4096
SCALE_ONE = 242


@dataclass(frozen=True, slots=True)
class NaiveUpdate:
    """One tensor's entries: indices int64 (T, k), codes uint8 (T, k), scale bytes uint8 (T, 2)."""

    indices: Tensor
    codes: Tensor
    scales: Tensor

    def values(self) -> Tensor:
        """fp32 (T, k)."""
        scales = torch.exp2((self.scales.float() - SCALE_ONE) / 8)
        magnitudes = scales.gather(1, (self.codes & 1).long())
        return torch.where(self.codes >= 2, -magnitudes, magnitudes)


def to_tiles(tensor: Tensor) -> Tensor:
    """(T, 4096): 64 × 64 tiles of a matrix, runs of a vector; zeros where a tile is short."""
    if tensor.dim() < 2:
        return pad(tensor, (0, -len(tensor) % TILE)).view(-1, TILE)
    rows, cols = tensor.shape
    padded = pad(tensor, (0, -cols % TILE_ROWS, 0, -rows % TILE_ROWS)) if rows % 64 or cols % 64 else tensor
    tiles = padded.view(padded.shape[0] // TILE_ROWS, TILE_ROWS, padded.shape[1] // TILE_ROWS, TILE_ROWS)
    return tiles.transpose(1, 2).reshape(-1, TILE)


def from_tiles(tiles: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `to_tiles`."""
    if len(shape) < 2:
        return tiles.view(-1)[: shape[0]]
    rows, cols = shape
    high, wide = -(-rows // TILE_ROWS), -(-cols // TILE_ROWS)
    whole = tiles.view(high, wide, TILE_ROWS, TILE_ROWS).transpose(1, 2).reshape(high * TILE_ROWS, wide * TILE_ROWS)
    return whole[:rows, :cols]


def scale_byte(mean: Tensor) -> Tensor:
    """The nearest power of 2**(1/8)."""
    return (torch.log2(mean.clamp(min=1e-30)) * 8).round().add(SCALE_ONE).clamp(0, 255).to(torch.uint8)


def compress(error: Tensor, delta: Tensor, decay: float, k: int) -> tuple[NaiveUpdate, Tensor]:
    """An update of one tensor, and the new error feedback."""
    acc = decay * error + delta
    tiles = to_tiles(acc)
    indices = torch.topk(tiles.abs(), k, dim=1, sorted=False).indices
    values = tiles.gather(1, indices)
    magnitudes = values.abs()
    high = magnitudes >= magnitudes.mean(dim=1, keepdim=True)
    high_mean = (magnitudes * high).sum(1) / high.sum(1)
    low_mean = (magnitudes * ~high).sum(1) / (~high).sum(1).clamp(min=1)
    codes = (values < 0).to(torch.uint8) * 2 + high.to(torch.uint8)
    update = NaiveUpdate(indices, codes, torch.stack([scale_byte(low_mean), scale_byte(high_mean)], dim=1))
    sent = torch.zeros_like(tiles).scatter_(1, indices, update.values())
    return update, acc - from_tiles(sent, acc.shape)


def aggregate_(theta: Tensor, updates: Sequence[NaiveUpdate], weights: Sequence[float], lr: float) -> None:
    """One tensor's outer step by the mean over each entry's senders."""
    tiles = len(updates[0].indices)
    total, listed = torch.zeros(tiles, TILE), torch.zeros(tiles, TILE)
    for update, weight in zip(updates, weights, strict=True):
        total.scatter_add_(1, update.indices, weight * update.values())
        listed.scatter_add_(1, update.indices, torch.ones_like(update.indices, dtype=torch.float32))
    theta -= lr * from_tiles(total / listed.clamp(min=1), theta.shape)
