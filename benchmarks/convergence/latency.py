"""Work that arrives after its round, and peers that do not wait for the last round's step: the questions as runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

from benchmarks.convergence.variant import Merge, Variant
from benchmarks.convergence.ways import HOPELESS, OUTER_RATES, SPARSE, TUNING_SEED, Rows, Table, best

OVERDUE = (0.1, 0.3)
"""Shares of the submissions that come late."""
OVERDUE_ROUNDS = 24
"""Rounds of runs with late submissions, half of the usual: θ moves fastest early, and an update's age matters most."""
AGE_WEIGHTS = (0.25, 0.5, 1.0)
"""What such a one counts for one round later; 0 is that it is lost."""
DELAYS = (5, Variant().steps)
"""Inner steps a peer has trained on when the outer step reaches it: a third of a round, a whole round."""
DELAY_ALPHAS = OUTER_RATES["sparse"]
"""Candidates of α, each time the same as without a delay: what acts on older weights may want smaller steps."""
MERGES: tuple[Merge, ...] = get_args(Merge)


def overdue(rows: Rows) -> Table:
    """4b: submissions that come late, by how many they are and what they still count for."""
    sparse = replace(SPARSE.tuned(rows), rounds=OVERDUE_ROUNDS)
    table = {"all in time": sparse}
    for share in OVERDUE:
        table[overdue_label(share, 0)] = replace(sparse, loss=share, commit="always")
        late = replace(sparse, overdue=share)
        table |= {overdue_label(share, weight): replace(late, age_weight=weight) for weight in AGE_WEIGHTS}
    return table


def overdue_label(share: float, weight: float) -> str:
    """What a row of that table is called."""
    return f"{share:.0%} late, " + (f"weight {weight:g}" if weight else "lost")


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
    """4c: peers that train on while the outer step is on its way, by rule and delay, each at its own best α.

    A rule that lost by more than `HOPELESS` to the best one on the tuning seed is not in the running.
    """
    table = {"waiting": SPARSE.tuned(rows)}
    for delay in DELAYS:
        tuned = {m: best(rows, delay_candidates_of(rows, m, delay)) for m, of in delays() if of == delay}
        limit = (1 + HOPELESS) * rows[best(rows, tuned.values())].final
        close = {merge: variant for merge, variant in tuned.items() if rows[variant].final <= limit}
        table |= {delay_label(merge, delay): replace(variant, seed=0) for merge, variant in close.items()}
    return table


def delay_label(merge: Merge, delay: int) -> str:
    """What a row of that table is called."""
    return f"{merge}, {delay} steps late"
