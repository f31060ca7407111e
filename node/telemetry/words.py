"""Counts, sizes and blocks as a person reads them: the small change of every sentence about a run."""

from __future__ import annotations

from collections.abc import Sequence

SHORT = 8
"""Characters of a hotkey, or of a digest in hexadecimal, that stand for the whole where a line must be short."""


def size(count: int) -> str:
    """Bytes, short."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def some(count: int, thing: str) -> str:
    """A count with its noun."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def blocks(numbers: Sequence[int]) -> str:
    """Blocks at which something happened, in order."""
    first, last = numbers[0], numbers[-1]
    if len(numbers) == 1:
        return f"block {first}"
    if last - first == len(numbers) - 1:
        return f"blocks {first} to {last}"
    return f"{len(numbers)} blocks from {first} to {last}"
