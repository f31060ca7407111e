"""Averages over rounds, whose first values count no more than they should, to the same bits wherever they are made."""

from __future__ import annotations


def gain(decay: float, count: int, cold: int = 0) -> float:
    """How far value number `count` (from 1) moves the average: γ / (1 − (1 − γ)^count), which is 1 for the first.

    An exponential average that begins at 0 and is divided by the sum of its weights is this. With `cold` value i of the
    first ones weighs (i / cold)³ of what it would: so a start that says little of what follows is soon forgotten. Made
    by a₁ = 1, aₙ = aₙ₋₁ / (aₙ₋₁ + (1 − γ)·v), v what value n − 1 weighs beside value n at the same age, (n − 1)³ / n³
    up to n = cold and then 1, because no two libraries promise the same bits of a power.
    """
    rate = 1.0
    for n in range(2, count + 1):
        beside = (n - 1) ** 3 / n**3 if n <= cold else 1.0
        following = rate / (rate + (1.0 - decay) * beside)
        if following == rate and n > cold:
            break
        rate = following
    return rate


def averaged(average: float, value: float, decay: float, count: int, cold: int = 0) -> float:
    """The average with `value`, its number `count`, added."""
    return average + gain(decay, count, cold) * (value - average)
