"""How the compiled loops are compiled: without the interpreter's lock and fast-math, once a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba
import numpy as np
import numpy.typing as npt

from muster.kernels.fast.places import settle

P = ParamSpec("P")
T = TypeVar("T")
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bits = npt.NDArray[np.int32]
Sizes = npt.NDArray[np.int32]
Shorts = npt.NDArray[np.int16]
Counts = npt.NDArray[np.uint32]
Longs = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Matrix = tuple[int, int, int, int]
Rule = tuple[Floats, Doubles]
"""The quantiser's numbers: the scale of each byte, and the means that separate bytes."""

settle()


def jit(function: Callable[P, T]) -> Callable[P, T]:
    """Compile without the interpreter's lock; kept on disk where there is a place to write."""
    try:
        compiled = numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        compiled = numba.njit(nogil=True, error_model="numpy")(function)
    result: Callable[P, T] = compiled
    return result
