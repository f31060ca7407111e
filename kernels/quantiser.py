"""The quantiser: two bits a value and one byte a tile, chosen so that every device makes the same bits.

Code of a value: bit 1 the sign (1 = negative), bit 0 the magnitude (0 = lo, 1 = hi). With the tile's scale s

    lo = fl(15/16 · s)    hi = fl(21/16 · s)    a value is hi where |a| ≥ fl(9/8 · s)

s is the power of 2**(1/8) next to the mean |a| of the tile's kept entries. The mean is a sum of integers
(each |a| in units of the largest one's last bit), so no order of summation shows. A mean, not a median,
because a tile may keep entries that are zero (rows of tokens that did not occur): there is no code for
zero, and a mean shrinks s with them.

Mean over tiles of ‖v − Q(v)‖² / ‖v‖², v the 64 kept of 4096 (3000 tiles each; rows: Gaussian, each of 64 rows
times exp of a Gaussian), against the best choices for each tile alone and the quantiser of the published
72B run (one for the tensor, four bins of its σ):

                              Gaussian  Laplace  Student-t(3)   rows
    this one                    0.0067   0.0130        0.1300  0.0469
    best scale per tile         0.0064   0.0126        0.1294  0.0462
    best two levels per tile    0.0037   0.0111        0.0506  0.0292
    the 72B run's               0.0124   0.0367        0.3843  0.3075
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SCALE_ONE = 242
"""The scale byte that means 1.0: bytes 1..255 then span 2**-30.125 to 2**1.625, eight to an octave."""
LO = 15 / 16
HI = 21 / 16
MID = 9 / 8
"""In units of the scale. Within 0.5 % of the best multiples of 1/32 by the geometric mean over
the distributions above, and better on the heavy-tailed two. Exact in fp32, so a product with them rounds
once."""

_EIGHTHS = (
    "0x1.000000p+0",
    "0x1.172b84p+0",
    "0x1.306fe0p+0",
    "0x1.4bfdaep+0",
    "0x1.6a09e6p+0",
    "0x1.8ace54p+0",
    "0x1.ae89fap+0",
    "0x1.d5818ep+0",
)
"""2**(j/8), j = 0..7, rounded to fp32; times a power of two they stay exact."""
_MIDDLES = (
    "0x1.0b5586p+0",
    "0x1.2387a6p+0",
    "0x1.3dea64p+0",
    "0x1.5ab07ep+0",
    "0x1.7a1148p+0",
    "0x1.9c4918p+0",
    "0x1.c199bep+0",
    "0x1.ea4afap+0",
)
"""2**((j + 1/2)/8), j = 0..7, rounded to fp32: what separates scale j from j + 1."""
_MANTISSA_BITS = 24


def _power(literals: tuple[str, ...], byte: int) -> float:
    octave, eighth = divmod(byte - SCALE_ONE, 8)
    return math.ldexp(float.fromhex(literals[eighth]), octave)


SCALES: Tensor = torch.tensor([0.0, *(_power(_EIGHTHS, byte) for byte in range(1, 256))], dtype=torch.float32)
"""The scale of each byte, fp32 (256,): 0, then 2**((byte − 242)/8)."""
_BOUNDS: Tensor = torch.tensor([_power(_MIDDLES, byte) for byte in range(1, 255)], dtype=torch.float64)
"""A mean in [_BOUNDS[j − 1], _BOUNDS[j]) has scale byte j + 1; below the first 1, from the last on 255."""


def scale_values(scales: Tensor) -> Tensor:
    """The scale of each scale byte: fp32 of uint8, same shape."""
    return SCALES[scales.long()]


def choose_scales(values: Tensor) -> Tensor:
    """The scale bytes of tiles: uint8 (T,) of the kept values fp32 (T, n), finite, n ≥ 1.

    unit = 2**(e − 24) with 2**(e−1) ≤ max|a| < 2**e; mean = (Σ ⌊|a| / unit⌋ / n) · unit. In float64 the
    quotients by a power of two, the sum (below 2**36) and the last product are exact; the division by n
    rounds once.
    """
    magnitudes = values.abs().double()
    largest = magnitudes.amax(dim=1)
    _, exponents = torch.frexp(largest)
    unit = torch.ldexp(torch.ones_like(largest), exponents - _MANTISSA_BITS)
    total = torch.floor(magnitudes / unit[:, None]).sum(dim=1)
    # A tensor and not a number: torch multiplies by the inverse of a number on some devices.
    mean = total / torch.full_like(total, values.shape[1]) * unit
    scales = 1 + torch.bucketize(mean, _BOUNDS, right=True)
    return torch.where(largest > 0, scales, 0).to(torch.uint8)


def quantise(values: Tensor) -> tuple[Tensor, Tensor]:
    """Codes uint8 (T, n) and scale bytes uint8 (T,) of the kept values fp32 (T, n) of T tiles, finite, n ≥ 1.

    A tile of zeros has scale byte 0 and codes 0.
    """
    scales = choose_scales(values)
    high = values.abs() >= (MID * scale_values(scales))[:, None]
    codes = ((values < 0).to(torch.uint8) << 1) | high.to(torch.uint8)
    return torch.where(scales[:, None] > 0, codes, 0).to(torch.uint8), scales


def magnitudes(scales: Tensor) -> Tensor:
    """The two magnitudes of each scale (fp32 (T,)): fp32 (T, 2), lo then hi."""
    return torch.stack([LO * scales, HI * scales], dim=-1)


def dequantise(codes: Tensor, scales: Tensor) -> Tensor:
    """The values of 2-bit codes (uint8 (N,)) under each entry's own scale (fp32 (N,)): fp32 (N,)."""
    magnitude = magnitudes(scales).gather(1, (codes & 1).long()[:, None]).squeeze(1)
    return torch.where((codes & 2).bool(), -magnitude, magnitude)
