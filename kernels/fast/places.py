"""For which machines compiled loops are kept, and where: so that a container, or an install nobody writes to, has them.

numba keeps code under the very model of CPU that it was compiled on, so that an image's would be no other machine's;
here it is one of the levels of x86-64 (the psABI's), which also costs nothing: the outer step is a quarter faster at
level 4 than tuned for a Xeon of 2023. And numba keeps nothing, nor looks, where it cannot write; so what lies beside
the source (`python -m muster.kernels.fast.warm` puts it there) is copied to a folder of this process then.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding
from numba.core.caching import _CacheLocator

LEVELS = {
    "x86-64-v3": frozenset(("avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")),
    "x86-64-v4": frozenset(("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")),
}
"""What a CPU must have for each level, beside what the level before asks for; names are LLVM's."""

_PREFIX = "muster-loops-"
"""Before the pid of the process whose copy a folder is."""

KEPT = ("*.nbi", "*.nbc")
"""What numba's index and code files are called."""


def level(features: Collection[str]) -> str | None:
    """The highest level that a CPU with these features is of; None: below the third, or no x86-64 at all."""
    found = None
    for name, needed in LEVELS.items():
        if not needed <= set(features):
            break
        found = name
    return found


def own_level() -> str | None:
    """This machine's."""
    return level([name for name, has in binding.get_host_cpu_features().items() if has])


def settle() -> None:
    """Tell numba for what to compile and where to keep it, unless its own variables (NUMBA_CPU_NAME, …) say so."""
    config: Any = numba.config  # filled from the environment when it is imported
    if config.CPU_NAME is None and config.CPU_FEATURES is None and (own := own_level()) is not None:
        config.CPU_NAME, config.CPU_FEATURES = own, ""
    beside = Path(__file__).with_name("__pycache__")
    kept = [path for pattern in KEPT for path in beside.glob(pattern)]
    if kept and not config.CACHE_DIR and not os.access(beside, os.W_OK):
        with contextlib.suppress(OSError):  # no place at all: it is compiled in memory
            config.CACHE_DIR = _copied(kept)


def _copied(kept: Collection[Path]) -> str:
    """A cache folder with these files in it, of this process and those it forks; it goes when this one ends."""
    _tidy()
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
    atexit.register(_remove, folder, os.getpid())
    inside = Path(folder) / str(_CacheLocator.get_suitable_cache_subpath(__file__))  # type: ignore[no-untyped-call]
    inside.mkdir()
    for path in kept:
        shutil.copy2(path, inside / path.name)
    return folder


def _tidy() -> None:
    """Remove what processes of this user left behind that were killed."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = left.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            if owner.isdecimal() and left.stat().st_uid == os.getuid() and not Path("/proc", owner).exists():
                shutil.rmtree(left, ignore_errors=True)


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
