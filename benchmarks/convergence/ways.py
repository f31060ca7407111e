"""The ways to train, each tuned over as many candidates as any other, on a seed no table reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.convergence.results import Row
from benchmarks.convergence.variant import Method, Optimizer, Variant

TUNING_SEED = 100
"""No reported run has it, so no reported loss was chosen for being low."""
SEEDS = (0, 1, 2)
HOPELESS = 0.04
"""What lost by more than this share on the tuning seed is not played on the reported ones."""

Rows = Mapping[Variant, Row]
Table = dict[str, Variant]
"""What a row of a table is called → its variant, on seed 0; every one is played with all of `SEEDS`."""

NESTEROV = 0.9
"""DiLoCo's own (arXiv 2311.08105)."""

RATES = (1e-3, 1.4e-3, 2e-3, 2.8e-3, 4e-3, 5.7e-3, 8e-3, 11.3e-3)
"""Inner learning rates of methods with nothing else to tune: factors of √2."""
COARSE_RATES: Mapping[Optimizer, tuple[float, ...]] = {
    "adamw": (1e-3, 2e-3, 4e-3, 8e-3),
    "muon": (2e-3, 4e-3, 8e-3, 16e-3),
}
"""Inner learning rates of methods that have an outer one too; times two of those, as many candidates."""
OUTER_RATES: Mapping[Method, tuple[float, ...]] = {"sparse": (0.7, 1.0), "diloco": (0.3, 0.5)}


def best(rows: Rows, candidates: Iterable[Variant]) -> Variant:
    """The candidate with the lowest final loss; of equals the first.

    Raises:
        KeyError: one of them has not been played.
    """
    return min(candidates, key=lambda variant: rows[variant].final)


def seeded(variants: Iterable[Variant], seeds: Sequence[int] = SEEDS) -> list[Variant]:
    """Every variant with every seed, each once, in order."""
    return list(dict.fromkeys(replace(variant, seed=seed) for variant in variants for seed in seeds))


def played(rows: Rows, variant: Variant) -> bool:
    """Whether every reported seed of a variant has been played."""
    return all(replace(variant, seed=seed) in rows for seed in SEEDS)


@dataclass(frozen=True, slots=True)
class Way:
    """A way to train: a method with an inner optimizer."""

    method: Method
    optimizer: Optimizer = "adamw"

    def candidates(self) -> list[Variant]:
        """What it is tuned over: as many candidates for every way."""
        base = Variant(method=self.method, optimizer=self.optimizer, seed=TUNING_SEED)
        if self.method not in OUTER_RATES:
            return [replace(base, lr=lr) for lr in RATES]
        if self.method == "diloco":
            base = replace(base, outer_momentum=NESTEROV)
        return [
            replace(base, lr=lr, alpha=alpha)
            for lr in COARSE_RATES[self.optimizer]
            for alpha in OUTER_RATES[self.method]
        ]

    def tuned(self, rows: Rows) -> Variant:
        """Its best candidate, on seed 0."""
        return replace(best(rows, self.candidates()), seed=0)


SINGLE, DDP, DILOCO, SPARSE = Way("single"), Way("ddp"), Way("diloco"), Way("sparse")
DILOCO_MUON, SPARSE_MUON = Way("diloco", "muon"), Way("sparse", "muon")
WAYS = (SINGLE, DDP, DILOCO, SPARSE, DILOCO_MUON, SPARSE_MUON)
OPTIMIZER_WAYS = (DILOCO, DILOCO_MUON, SPARSE, SPARSE_MUON)
