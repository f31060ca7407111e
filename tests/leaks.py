"""A census of what a process holds, taken again and again: what grows by one a round is seen, whatever else goes up and
down.

Counted are tasks, descriptors, our own objects by class, and what is in the containers that these hold.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

Census = Mapping[str, int]

OURS = "muster."
SIZED = (dict, list, set, deque)


def census(ignored: Collection[type] = ()) -> Counter[str]:
    """What there is now; of the `ignored` classes nothing is counted."""
    gc.collect()
    found = Counter({"tasks": len(asyncio.all_tasks()), "descriptors": len([*Path("/proc/self/fd").iterdir()])})
    for one in gc.get_objects():
        kind = type(one)
        if kind in ignored or not str(kind.__module__).startswith(OURS):
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


class Trend:
    """By how much everything grows a round, by least squares; it has the size of one census however many it is of."""

    def __init__(self) -> None:
        self._count = 0
        self._at = self._square = 0.0
        self._sum = Counter[str]()
        self._product = Counter[str]()

    def add(self, at: int, found: Census) -> None:
        """The census of a round."""
        self._count += 1
        self._at += at
        self._square += at * at
        self._sum.update(found)
        self._product.update({name: at * number for name, number in found.items()})

    def slopes(self) -> dict[str, float]:
        """All slopes, of two censuses or more."""
        spread = self._count * self._square - self._at**2
        return {
            name: (self._count * self._product[name] - self._at * total) / spread for name, total in self._sum.items()
        }

    def growing(self, bound: float) -> dict[str, float]:
        """What grows by more than `bound` a round."""
        return {name: round(slope, 3) for name, slope in self.slopes().items() if slope > bound}
