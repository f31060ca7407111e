"""How the wall clock makes blocks, for the chain that has no other."""

from __future__ import annotations

import math
from dataclasses import dataclass

from muster.protocol.errors import ChainError

MIN_BLOCK_SECONDS = 0.001
"""A shorter block would be over before a transaction in it is."""

MIN_WAIT = 0.001
"""Seconds that `next_block` sleeps at least, so that rounding at a block's edge cannot make it spin."""


@dataclass(frozen=True, slots=True)
class Clock:
    """How wall time becomes heights: block n begins at `origin` + n·`block_seconds`, in unix seconds.

    `height` is the highest that anybody has seen.
    """

    block_seconds: float
    origin: float
    height: int

    def __post_init__(self) -> None:
        if not MIN_BLOCK_SECONDS <= self.block_seconds < math.inf:
            raise ChainError(f"a block must last at least {MIN_BLOCK_SECONDS} seconds")

    def at(self, now: float) -> Clock:
        """The clock at `now`. Heights never go back: if time did, blocks go on from the highest."""
        height = math.floor((now - self.origin) / self.block_seconds)
        if height >= self.height:
            return Clock(self.block_seconds, self.origin, height)
        return Clock(self.block_seconds, now - self.height * self.block_seconds, self.height)

    def wait(self, number: int, now: float) -> float:
        """Seconds to sleep before looking for block `number`: at most a block, as the clock may be set."""
        remaining = self.origin + number * self.block_seconds - now
        return max(MIN_WAIT, min(remaining, self.block_seconds))
