"""Whether the quick plan's main effects point where they should, given how much seeds differ."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from benchmarks.convergence.plan import main_effects
from benchmarks.convergence.variant import Variant
from benchmarks.convergence.ways import SEEDS, Rows

SURE = 2.0
"""Standard errors beyond which a difference is no accident."""
NEAR = 0.05
"""nat/byte that 2-bit values may cost against exact ones."""


@dataclass(frozen=True, slots=True)
class Effect:
    """A claim about the differences in final loss between two things, seed by seed: they are at most `limit`."""

    claim: str
    differences: tuple[float, ...]
    limit: float = 0.0

    @property
    def mean(self) -> float:
        """Mean difference, nat/byte."""
        return fmean(self.differences)

    @property
    def error(self) -> float:
        """The mean's standard error."""
        return stdev(self.differences) / math.sqrt(len(self.differences))

    @property
    def holds(self) -> bool:
        """False only where the mean is above the limit beyond doubt, or no number."""
        return math.isfinite(self.mean) and self.mean <= self.limit + SURE * self.error

    def line(self) -> str:
        """For people."""
        verdict = "holds" if self.holds else "WRONG"
        return f"{verdict}  {self.claim}: {self.mean:+.4f} ± {self.error:.4f} nat/byte (at most {self.limit:g})"


def main_effects_of(rows: Rows) -> list[Effect]:
    """The quick plan's claims and what its rows say about them.

    Raises:
        KeyError: a run of the quick plan is missing.
    """
    table = main_effects(rows)

    def finals(variant: Variant) -> list[float]:
        return [rows[replace(variant, seed=seed)].final for seed in SEEDS]

    def against(name: str) -> tuple[float, ...]:
        return tuple(a - b for a, b in zip(sparse, finals(table[name]), strict=True))

    sparse = finals(table["sparse"])
    singles = [finals(variant) for variant in table.values() if variant.method == "single"]
    best_single = [min(losses) for losses in zip(*singles, strict=True)]
    return [
        Effect("the largest entries beat random ones", against("random entries")),
        Effect("error feedback helps", against("no error feedback")),
        Effect("2-bit values cost little against exact ones", against("exact values"), NEAR),
        Effect(
            "four peers beat one worker at its best rate",
            tuple(a - b for a, b in zip(sparse, best_single, strict=True)),
        ),
    ]
