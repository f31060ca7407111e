"""The CPU path for real models: the same bits as the reference, at the speed of memory.

Compiled when first used, which takes seconds once a machine: small models have `muster.kernels.small`.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

FAST_ENTRIES = 1 << 22
"""Models from so many entries on are worth the compiled loops. Loading them takes 0.6 s in each process, compiling
them 5 s once a machine; smaller models take all their tensors at once (`muster.kernels.small`)."""


@cache
def _compiler() -> bool:
    return find_spec("numba") is not None


def suits(entries: int) -> bool:
    """Whether there are compiled loops on this machine, and tensors of so many entries are worth their start."""
    return entries >= FAST_ENTRIES and _compiler()
