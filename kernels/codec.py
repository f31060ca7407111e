"""Codec: what a pseudo-gradient is compressed by, as one value, so that no function takes a grid without its k."""

from __future__ import annotations

from dataclasses import dataclass

from muster.kernels.grid import TILE, Grid

VERSIONS = (1,)
"""The codecs that this release writes and reads; see `muster.kernels.frames`."""


@dataclass(frozen=True, slots=True)
class Codec:
    """The tile grid of the tensors, the entries kept of a whole tile, and the version of the bytes.

    A clipped tile keeps grid.kept(k). Equal codecs make equal updates of equal tensors.

    Raises:
        ValueError: k is not in 1..4096, or this release does not have the version.
    """

    grid: Grid
    k: int
    version: int = VERSIONS[-1]

    def __post_init__(self) -> None:
        """Refuse what no update can have."""
        if not 1 <= self.k <= TILE:
            raise ValueError(f"k is the number of entries kept of {TILE}, so 1 to {TILE}, not {self.k}")
        if self.version not in VERSIONS:
            raise ValueError(f"this release has the codecs {', '.join(map(str, VERSIONS))}, not {self.version}")

    @property
    def count(self) -> int:
        """Entries that an update keeps in all."""
        return int(self.grid.entry_starts(self.k)[-1])
