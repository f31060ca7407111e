"""Averages over rounds whose first value counts as much as any later one, to the same bits wherever they are made."""

from __future__ import annotations


def gain(decay: float, count: int) -> float:
    """How far value number `count` (from 1) moves the average: γ / (1 − (1 − γ)^count), which is 1 for the first.

    An exponential average that begins at 0 and is divided by the sum of its weights is this. Made by
    a₁ = 1, aₙ₊₁ = aₙ / (aₙ + (1 − γ)), because no two libraries promise the same bits of a power.
    """
    rate = 1.0
    for _ in range(count - 1):
        following = rate / (rate + (1.0 - decay))
        if following == rate:
            break
        rate = following
    return rate


def averaged(average: float, value: float, decay: float, count: int) -> float:
    """The average with `value`, its number `count`, added."""
    return average + gain(decay, count) * (value - average)
