"""Work that arrives after its round, and peers that do not wait for the last round's step: the questions as runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

from benchmarks.convergence.variant import Merge, Variant
from benchmarks.convergence.ways import OUTER_RATES, SPARSE, TUNING_SEED, Rows, Table, best

OVERDUE = (0.1, 0.3)
"""Shares of the submissions that come late."""
AGE_WEIGHTS = (0.25, 0.5, 1.0)
"""What such a one counts for one round later; 0 is that it is lost."""
OLDER_WEIGHTS = (0.5, 1.0)
"""The same two rounds later, where most are late."""
DELAYS = (5, Variant().steps)
"""Inner steps a peer has trained on when the outer step reaches it: a third of a round, a whole round."""
DELAY_ALPHAS = OUTER_RATES["sparse"]
"""Candidates of α, each time the same as without a delay: what acts on older weights may want smaller steps."""
MERGES: tuple[Merge, ...] = get_args(Merge)


def overdue(rows: Rows) -> Table:
    """4b: submissions that come late, by how many they are and what they still count for."""
    sparse = SPARSE.tuned(rows)
    table = {"all in time": sparse}
    for share in OVERDUE:
        table[overdue_label(share, 0)] = replace(sparse, loss=share, commit="always")
        late = replace(sparse, overdue=share)
        table |= {overdue_label(share, weight): replace(late, age_weight=weight) for weight in AGE_WEIGHTS}
    oldest = replace(sparse, overdue=OVERDUE[-1], age=2)
    return table | {
        overdue_label(OVERDUE[-1], weight, 2): replace(oldest, age_weight=weight) for weight in OLDER_WEIGHTS
    }


def overdue_label(share: float, weight: float, age: int = 1) -> str:
    """What a row of that table is called."""
    return (
        f"{share:.0%} late" + (f", {age} rounds" if age > 1 else "") + (f", weight {weight:g}" if weight else ", lost")
    )


def delays() -> Iterator[tuple[Merge, int]]:
    """Every rule with every delay; a whole round late "fresh" would be "take"."""
    whole = Variant().steps
    return ((merge, delay) for delay in DELAYS for merge in MERGES if (merge, delay) != ("fresh", whole))


def delay_candidates_of(rows: Rows, merge: Merge, delay: int) -> list[Variant]:
    """What α is tuned over for a rule and a delay."""
    base = replace(SPARSE.tuned(rows), seed=TUNING_SEED, delay=delay, merge=merge)
    return [replace(base, alpha=alpha) for alpha in DELAY_ALPHAS]


def delay_candidates(rows: Rows) -> list[Variant]:
    """The same for all of them."""
    return [candidate for merge, delay in delays() for candidate in delay_candidates_of(rows, merge, delay)]


def delayed(rows: Rows) -> Table:
    """4c: peers that train on while the outer step is on its way, by rule and delay, each at its own best α."""
    return {"waiting": SPARSE.tuned(rows)} | {
        delay_label(merge, delay): replace(best(rows, delay_candidates_of(rows, merge, delay)), seed=0)
        for merge, delay in delays()
    }


def delay_label(merge: Merge, delay: int) -> str:
    """What a row of that table is called."""
    return f"{merge}, {delay} steps late"
