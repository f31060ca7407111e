"""The quantiser: two bits a value and two bytes a tile, chosen so that every device makes the same bits.

Code of a value: bit 1 the sign (1 = negative), bit 0 the scale it has (0 = low, 1 = high). A tile's two scales are
powers of 2**(1/8), the ones next to the mean |a| of two parts of its kept entries: those below the mean |a| of all,
and the others. A value has the scale it is nearer to. All means are of sums of integers (each |a| in units of the
largest one's last bit), so no order of summation shows.

Two scales and not one because ‖v − Q(v)‖² / ‖v‖² of the kept values, k = 64, pooled over all tensors of real
pseudo-gradients, is a third of that of the published 72B run's quantiser (four bins of a tensor's σ) or less:

                                    tiny, rounds 2, 10, 40      11.6M parameters
    this one                        0.0036   0.0009   0.0013    0.0025
    one scale, 15/16 and 21/16      0.0063   0.0061   0.0052    0.0065
    the best two levels per tile    0.0026   0.0003   0.0007    0.0019
    the 72B run's                   0.0108   0.0454   0.0520    0.0122

(`benchmarks/quantiser_study.py`.) Means over tiles for Gaussian, Laplace, Student-t(3) and row-scaled entries:
0.0045, 0.0138, 0.098, 0.035; the 72B run's 0.0124, 0.0367, 0.384, 0.308. Splitting a second time between the two
means gains under 5 % on real values; steps of 1/16 octave gain 15 % and cost 2 bits a tile.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SCALE_ONE = 242
"""The scale byte that means 1.0: bytes 1..255 then span 2**-30.125 to 2**1.625, eight to an octave."""
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
BOUNDS: Tensor = torch.tensor([_power(_MIDDLES, byte - 1) for byte in range(1, 256)], dtype=torch.float64)
"""BOUNDS[b − 1] separates byte b − 1 from byte b: a mean has the byte that is the number of bounds up to it."""


def scale_values(scales: Tensor) -> Tensor:
    """The scale of each scale byte: fp32 of uint8, same shape."""
    return SCALES[scales.long()]


def choose_scales(values: Tensor) -> Tensor:
    """The scale bytes of tiles, low then high: uint8 (T, 2) of the kept values fp32 (T, n), finite, n in 1..4096.

    unit = 2**(e − 24) with 2**(e−1) ≤ max|a| < 2**e; m = ⌊|a| / unit⌋. The high part is where n·m ≥ Σ m. The scales
    are next to (Σ m / count) · unit of the low and of the high part; an empty low part has the high one's. In float64
    everything is exact (no number reaches 2**37) but the division, which rounds once. A mean below the table's
    smallest scale, by more than half a step, has byte 0.
    """
    magnitudes = values.abs().double()
    largest = magnitudes.amax(dim=1, keepdim=True)
    _, exponents = torch.frexp(largest)
    unit = torch.ldexp(torch.ones_like(largest), exponents - _MANTISSA_BITS)
    steps = torch.floor(magnitudes / unit)
    total = steps.sum(dim=1, keepdim=True)
    high = values.shape[1] * steps >= total
    high_total, high_count = (steps * high).sum(dim=1, keepdim=True), high.sum(dim=1, keepdim=True)
    low_total, low_count = total - high_total, values.shape[1] - high_count
    high_mean = high_total / high_count * unit
    low_mean = torch.where(low_count > 0, low_total / low_count.clamp(min=1) * unit, high_mean)
    return torch.bucketize(torch.cat([low_mean, high_mean], dim=1), BOUNDS, right=True).to(torch.uint8)


def quantise(values: Tensor) -> tuple[Tensor, Tensor]:
    """Codes uint8 (T, n) and scale bytes uint8 (T, 2) of the kept values fp32 (T, n) of T tiles; n as above.

    A value is high where |a| ≥ fl(fl(low + high) / 2), in fp32. A value whose scale is 0 has code 0.
    """
    scales = choose_scales(values)
    low, high = scale_values(scales).unbind(dim=1)
    above = (values.abs() >= ((low + high) * 0.5)[:, None]).to(torch.uint8)
    codes = ((values < 0).to(torch.uint8) << 1) | above
    return torch.where(scales.gather(1, above.long()) > 0, codes, 0).to(torch.uint8), scales


def dequantise(codes: Tensor, scales: Tensor) -> Tensor:
    """The values of 2-bit codes (uint8 (N,)) under each entry's own two scales (fp32 (N, 2)): fp32 (N,)."""
    magnitude = scales.gather(1, (codes & 1).long()[:, None]).squeeze(1)
    return torch.where((codes & 2).bool(), -magnitude, magnitude)
