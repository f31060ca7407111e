"""Moments in bytes: a code an entry, and for each run of 256 of them the largest size, in fp32.

What matters of a moment is its order of magnitude, so codes are even steps of a root: of √|m| with its sign, and of
the fourth root of v. An even map of √v would put small entries of a block to 0, and steps of m/√v to infinity; for the
same reason no v above 0 is ever coded as 0. All is elementwise but the maxima, so the same bits come every time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (the field's own name)
from torch import Tensor

BLOCK = 256
"""Entries that share a scale, as in the 8-bit optimizers of later releases of bitsandbytes: 1.6 % on top of a byte."""

_SIGNED = 127
_POSITIVE = 255
_TINY = torch.finfo(torch.float32).tiny


def blocks(entries: int) -> int:
    """How many scales so many entries have."""
    return -(-entries // BLOCK)


def pack_signed(values: Tensor, codes: Tensor, scales: Tensor) -> None:
    """Code fp32 (n,) of either sign into `codes`, uint8 (n,), and `scales`, fp32 (blocks(n),); `values` are void then.

    A code is a two's-complement byte: round(127 · sign · √(|x| / scale)).
    """
    signs = values.sign()
    size = _scaled(values.abs_(), scales)
    codes.copy_(size.sqrt_().mul_(_SIGNED).round_().mul_(signs).to(torch.int8).view(torch.uint8))


def unpack_signed(codes: Tensor, scales: Tensor) -> Tensor:
    """What `pack_signed` left of its values: new, fp32 (n,)."""
    roots = codes.view(torch.int8).float().div_(_SIGNED)
    return _times(roots.mul_(roots.abs()), scales)


def pack_positive(values: Tensor, codes: Tensor, scales: Tensor) -> None:
    """Code fp32 (n,), none below 0, into `codes`, uint8 (n,), and `scales`, fp32 (blocks(n),); `values` are void then.

    A code is round(255 · ⁴√(x / scale)), and 1 at least where x is above 0.
    """
    least = (values > 0).to(torch.uint8)
    size = _scaled(values, scales)
    codes.copy_(size.sqrt_().sqrt_().mul_(_POSITIVE).round_().to(torch.uint8))
    torch.maximum(codes, least, out=codes)


def unpack_positive(codes: Tensor, scales: Tensor) -> Tensor:
    """What `pack_positive` left of its values: new, fp32 (n,)."""
    return _times(codes.float().div_(_POSITIVE).square_().square_(), scales)


def _scaled(sizes: Tensor, scales: Tensor) -> Tensor:
    """Sizes, none below 0, in units of the largest of their block, which goes to `scales`; in place if it can be."""
    rows = _rows(sizes)
    torch.amax(rows, 1, out=scales)
    rows.div_(scales.clamp(min=_TINY).unsqueeze(1))
    return rows.view(-1)[: sizes.numel()]


def _times(values: Tensor, scales: Tensor) -> Tensor:
    return _rows(values).mul_(scales.unsqueeze(1)).view(-1)[: values.numel()]


def _rows(values: Tensor) -> Tensor:
    """One block a row, the last filled up with zeros: (blocks, 256)."""
    short = -values.numel() % BLOCK
    return (F.pad(values, (0, short)) if short else values).view(-1, BLOCK)
