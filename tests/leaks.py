"""A census of what a process holds, taken again and again: what grows by one a round is seen, whatever else goes up and
down.

Counted are tasks, descriptors, our own objects by class, and what is in the containers that these hold.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Census = Mapping[str, int]

OURS = "muster."
SIZED = (dict, list, set, deque)


def census(ignored: Collection[type] = ()) -> Counter[str]:
    """What there is now; of the `ignored` classes nothing is counted."""
    gc.collect()
    found = Counter({"tasks": len(asyncio.all_tasks()), "descriptors": len(os.listdir("/proc/self/fd"))})
    for one in gc.get_objects():
        kind = type(one)
        if kind in ignored or not kind.__module__.startswith(OURS):
            continue
        found[f"{kind.__module__}.{kind.__qualname__}"] += 1
        for name, value in attributes(one):
            if isinstance(value, SIZED):
                found[f"{kind.__module__}.{kind.__qualname__}.{name}"] += len(value)
    return found


def attributes(one: object) -> Iterator[tuple[str, Any]]:
    """What an object holds, in its dictionary or its slots; properties are not asked."""
    yield from getattr(one, "__dict__", {}).items()
    for kind in type(one).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                yield name, getattr(one, name, None)


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def slopes(taken: Sequence[tuple[int, Census]]) -> dict[str, float]:
    """By how much everything grows a round, by least squares over censuses, each with its round."""
    rounds = np.array([at for at, _ in taken], float)
    rounds -= rounds.mean()
    names = sorted(set[str]().union(*(found for _, found in taken)))
    counts = np.array([[found.get(name, 0) for name in names] for _, found in taken], float)
    fitted = rounds @ (counts - counts.mean(axis=0)) / (rounds @ rounds)
    return dict(zip(names, fitted.tolist(), strict=True))


def growing(taken: Sequence[tuple[int, Census]], bound: float) -> dict[str, float]:
    """What grows by more than `bound` a round."""
    return {name: round(slope, 3) for name, slope in slopes(taken).items() if slope > bound}
