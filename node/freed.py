"""Memory that is freed goes back to the system between a round's phases, so that the next phase need not find it taken.

The C library keeps freed tensors below 32 MiB for the thread that freed them, and a round's work goes from thread to
thread: a 29M model's miner that gave nothing back grew by 100–740 MiB over its first rounds.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


@cache
def _trim() -> Callable[[int], int] | None:
    """glibc's `malloc_trim`; None with another C library."""
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found


def give_back() -> None:
    """Hand whole pages that nothing lies in any more back; milliseconds, for the end of a phase."""
    trim = _trim()
    if trim is not None:
        trim(0)
