"""The questions of the study, as runs: what must be played, in stages that build on what earlier ones found.

A stage is a pure function of the results so far. The first tune every method with as many candidates as any other, on
a seed of their own; the next tune what depends on those winners; the last answer the questions with the winners.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from benchmarks.convergence.latency import delay_candidates, delayed, overdue
from benchmarks.convergence.variant import Method, Optimizer, Values, Variant
from benchmarks.convergence.ways import (
    DDP,
    DILOCO,
    HOPELESS,
    NESTEROV,
    OPTIMIZER_WAYS,
    SEEDS,
    SINGLE,
    SPARSE,
    TUNING_SEED,
    WAYS,
    Rows,
    Table,
    Way,
    best,
    seeded,
)
from muster.kernels import Rule

Stage = Callable[[Rows], list[Variant]]

ROUNDS_OF_MANY = 32
"""Rounds of the runs with many peers: enough to compare rules, and what they cost."""
BATCH_OF = {4: 4, 8: 2, 16: 1, 32: 1}
"""Windows of an inner step by peers: 16 of all together, and 32 where one each is more."""
RULE_ALPHAS: Mapping[Rule, tuple[float, ...]] = {
    "mean": (0.5, 1.0, 2.0, 4.0),
    "sender_mean": (0.125, 0.25, 0.5, 1.0),
    "damped_mean": (0.25, 0.5, 1.0, 2.0),
}
"""Candidates of a rule's α, factors of two: the less it moves an entry that few list, the more α a rule can take."""
SAME_BATCH_PEERS = (8, 16)
SAME_BATCH_ALPHAS: Mapping[Rule, tuple[float, ...]] = {
    "mean": (2.0, 4.0),
    "sender_mean": (0.5, 1.0),
    "damped_mean": (1.0, 2.0),
}
"""Candidates where every peer has the usual batch, so that updates of many peers are no noisier than those of four."""
FINE_ALPHAS = (1.0, 1.41, 2.0)
"""Candidates of the default rule's α between the two factors of two that were best."""
LARGER_ROUNDS = 20
LARGER_ALPHAS: Mapping[Method, float] = {"sparse": 1.41, "diloco": 0.3}
"""Outer rates on the larger model, the same for both optimizers: of `FINE_ALPHAS` the middle, and DiLoCo's best."""
LARGER_RATES: Mapping[Optimizer, tuple[float, ...]] = {"adamw": (1.4e-3, 2.8e-3, 5.7e-3), "muon": (4e-3, 8e-3, 16e-3)}
"""Inner rates there, as many for each optimizer: factors of two around the best of the small model."""
LARGER_HIGHER: Mapping[Optimizer, float] = {"adamw": 11.3e-3, "muon": 32e-3}
"""What is tried as well where the highest of those was best."""
ATTACKED_PEERS = 8
MOMENTUM_ALPHAS = (0.025, 0.05, 0.1, 0.2)
SIGN_ALPHAS = (0.01, 0.02, 0.04, 0.08)
VALUES: tuple[Values, ...] = ("2bit", "8bit", "exact")
KEPT = (16, 32, 64, 128, 256)
INNER_STEPS = (5, 15, 30, 60, 120)
DECAYS = (0.0, 0.9, 0.95, 0.99, 1.0)
ABSENCES = (0.1, 0.25, 0.5)
LOSS = 0.25
LENGTHS = (24, 48, 144)
"""Rounds of short, usual and long runs."""
QUICK_ROUNDS = 24
QUICK_RATES = (1e-3, 2e-3, 4e-3)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to play, stage by stage."""

    name: str
    stages: tuple[Stage, ...]


def frontier(rows: Rows) -> Table:
    """1: loss against bytes, for methods and for how much of a pseudo-gradient is sent, and how exactly."""
    sparse = SPARSE.tuned(rows)
    table = {way.method: way.tuned(rows) for way in (SINGLE, DDP, DILOCO)}
    return table | {f"k={k} {values}": replace(sparse, k=k, values=values) for k in KEPT for values in VALUES}


def _many(rows: Rows, rule: Rule, peers: int) -> Variant:
    """SparseLoCo with more peers; the larger runs have fewer rounds."""
    tuned = SPARSE.tuned(rows)
    return replace(tuned, rule=rule, peers=peers, batch=BATCH_OF[peers], rounds=ROUNDS_OF_MANY)


def rule_candidates(rows: Rows, rule: Rule, peers: int) -> list[Variant]:
    """What α of a rule is tuned over for a number of peers."""
    base = replace(_many(rows, rule, peers), seed=TUNING_SEED)
    return [replace(base, alpha=alpha) for alpha in RULE_ALPHAS[rule]]


def same_batch_candidates(rows: Rows, rule: Rule, peers: int) -> list[Variant]:
    """The rules where more peers mean more text, on the tuning seed alone."""
    base = replace(_many(rows, rule, peers), batch=Variant().batch, seed=TUNING_SEED)
    return [replace(base, alpha=alpha) for alpha in SAME_BATCH_ALPHAS[rule]]


def fine_settings() -> list[tuple[int, int]]:
    """Numbers of peers with windows of an inner step: as the rules were compared, and at the usual batch."""
    return [*BATCH_OF.items(), *((peers, Variant().batch) for peers in SAME_BATCH_PEERS)]


def fine_candidates(rows: Rows, peers: int, batch: int) -> list[Variant]:
    """The default rule at every α between the best of the coarse ones, on the tuning seed."""
    base = replace(_many(rows, "damped_mean", peers), batch=batch, seed=TUNING_SEED)
    return [replace(base, alpha=alpha) for alpha in FINE_ALPHAS]


def _ruled(rows: Rows, rule: Rule, peers: int) -> Variant:
    return replace(best(rows, rule_candidates(rows, rule, peers)), seed=0)


def rules(rows: Rows) -> Table:
    """2a: the outer rules at their own best α, by number of peers."""
    return {f"{rule} R={peers}": _ruled(rows, rule, peers) for rule in RULE_ALPHAS for peers in BATCH_OF}


def attacks(rows: Rows) -> Table:
    """2b: what one attacker among eight honest peers does to each rule, without and with the scale cap."""
    return {
        f"{rule} cap={cap:g}{' attacked' if attackers else ''}": replace(
            _ruled(rows, rule, ATTACKED_PEERS), scale_cap=cap, attackers=attackers
        )
        for rule in RULE_ALPHAS
        for cap in (0.0, Variant().scale_cap)
        for attackers in (0, 1)
    }


def alphas(rows: Rows) -> Table:
    """2c: the default rule's α on a finer grid, as far as an α is in the running."""
    table: Table = {}
    for peers, batch in fine_settings():
        candidates = fine_candidates(rows, peers, batch)
        limit = (1 + HOPELESS) * rows[best(rows, candidates)].final
        close = (candidate for candidate in candidates if rows[candidate].final <= limit)
        table |= {f"R={peers} B={batch} α={candidate.alpha:g}": replace(candidate, seed=0) for candidate in close}
    return table


def horizons(rows: Rows) -> Table:
    """3a: H at equal tokens, for the dense and the sparse method."""
    tokens = Variant().rounds * Variant().steps
    return {
        f"{way.method} H={steps}": replace(way.tuned(rows), steps=steps, rounds=tokens // steps)
        for way in (DILOCO, SPARSE)
        for steps in INNER_STEPS
    }


def momentum_candidates(rows: Rows) -> list[Variant]:
    """What α is tuned over where the aggregate goes through Nesterov's momentum."""
    base = replace(SPARSE.tuned(rows), seed=TUNING_SEED, outer_momentum=NESTEROV)
    return [replace(base, alpha=alpha) for alpha in MOMENTUM_ALPHAS]


def sign_candidates(rows: Rows) -> list[Variant]:
    """What α is tuned over where only the aggregate's sign counts."""
    base = replace(SPARSE.tuned(rows), seed=TUNING_SEED, sign=True)
    return [replace(base, alpha=alpha) for alpha in SIGN_ALPHAS]


def ablations(rows: Rows) -> Table:
    """3b: what each part of SparseLoCo is worth."""
    sparse = SPARSE.tuned(rows)
    return {
        **{f"β={beta:g}": replace(sparse, beta=beta) for beta in DECAYS},
        "random entries": replace(sparse, selection="randomk"),
        "no error feedback": replace(sparse, error_feedback=False),
        "outer momentum": replace(best(rows, momentum_candidates(rows)), seed=0),
        "sign of the aggregate": replace(best(rows, sign_candidates(rows)), seed=0),
    }


def churn(rows: Rows) -> Table:
    """4: peers that come late, stay away, do less, or whose submissions are lost."""
    sparse = SPARSE.tuned(rows)
    return {
        "all present": sparse,
        **{f"absence {absence:.0%}": replace(sparse, absence=absence) for absence in ABSENCES},
        "half join late": replace(sparse, late=True),
        "uneven work": replace(sparse, uneven=True),
        f"lost {LOSS:.0%}, committed when accepted": replace(sparse, loss=LOSS),
        f"lost {LOSS:.0%}, committed always": replace(sparse, loss=LOSS, commit="always"),
    }


def optimizers(rows: Rows) -> Table:
    """5: AdamW against Muon inside, with and without compression."""
    return {f"{way.method} {way.optimizer}": way.tuned(rows) for way in OPTIMIZER_WAYS}


def larger_grid(way: Way) -> list[Variant]:
    """What a way is tuned over first on the larger model; the sparse one has the presets' rule."""
    base = Variant(
        method=way.method,
        optimizer=way.optimizer,
        model="larger",
        rounds=LARGER_ROUNDS,
        rule="damped_mean" if way.method == "sparse" else Variant().rule,
        alpha=LARGER_ALPHAS[way.method],
        outer_momentum=NESTEROV if way.method == "diloco" else 0.0,
        seed=TUNING_SEED,
    )
    return [replace(base, lr=lr) for lr in LARGER_RATES[way.optimizer]]


def larger_rates(way: Way) -> list[Variant]:
    """The same with the rate beyond the grid."""
    grid = larger_grid(way)
    return [*grid, replace(grid[-1], lr=LARGER_HIGHER[way.optimizer])]


def larger_candidates(rows: Rows, way: Way) -> list[Variant]:
    """All a way is tuned over: the rate beyond the grid where the grid's highest was best."""
    grid = larger_grid(way)
    return larger_rates(way) if best(rows, grid) == grid[-1] else grid


def larger(rows: Rows) -> Table:
    """5b: the same on the larger model, which is what presets above `tiny` go by, for every way that is tuned there."""
    ready = [way for way in OPTIMIZER_WAYS if all(candidate in rows for candidate in larger_grid(way))]
    tried = {way: larger_candidates(rows, way) for way in ready}
    return {
        f"{way.method} {way.optimizer}": replace(best(rows, candidates), seed=0)
        for way, candidates in tried.items()
        if all(candidate in rows for candidate in candidates)
    }


def lengths(rows: Rows) -> Table:
    """6: the same three methods in shorter and longer runs, with the rates that were best for the usual one."""
    return {
        f"{way.method} {rounds} rounds": replace(way.tuned(rows), rounds=rounds)
        for way in (DDP, DILOCO, SPARSE)
        for rounds in LENGTHS
    }


OPEN = ("alphas", "larger", "overdue", "delayed")
"""The dear questions: the page tells what has been played of them, and how much is missing."""
QUESTIONS: Mapping[str, Callable[[Rows], Table]] = {
    "frontier": frontier,
    "rules": rules,
    "attacks": attacks,
    "alphas": alphas,
    "horizons": horizons,
    "ablations": ablations,
    "churn": churn,
    "overdue": overdue,
    "delayed": delayed,
    "optimizers": optimizers,
    "larger": larger,
    "lengths": lengths,
}


def open_alphas(rows: Rows) -> int:
    """How many runs of `alphas` are missing."""
    return sum(variant not in rows for variant in seeded(alphas(rows).values()))


def open_larger(rows: Rows) -> int:
    """How many runs of `larger` are missing, at least: whether a way needs another rate shows when it is tuned."""
    table = larger(rows)
    untuned = sum(candidate not in rows for way in OPTIMIZER_WAYS for candidate in larger_grid(way))
    unseeded = sum(variant not in rows for variant in seeded(table.values()))
    return untuned + unseeded + len(SEEDS) * (len(OPTIMIZER_WAYS) - len(table))


def open_latency(rows: Rows) -> tuple[int, int]:
    """How many runs of `overdue` and of `delayed` are missing."""
    late, delay = (sum(v not in rows for v in seeded(table(rows).values())) for table in (overdue, delayed))
    return late, delay


def _tune(_rows: Rows) -> list[Variant]:
    return [variant for way in WAYS for variant in way.candidates()]


def _tune_parts(rows: Rows) -> list[Variant]:
    tuned = [variant for rule in RULE_ALPHAS for peers in BATCH_OF for variant in rule_candidates(rows, rule, peers)]
    same = [v for rule in RULE_ALPHAS for peers in SAME_BATCH_PEERS for v in same_batch_candidates(rows, rule, peers)]
    return tuned + same + momentum_candidates(rows) + sign_candidates(rows)


def _tune_alpha(rows: Rows) -> list[Variant]:
    return [variant for peers, batch in fine_settings() for variant in fine_candidates(rows, peers, batch)]


def _refine(rows: Rows) -> list[Variant]:
    return seeded(alphas(rows).values())


def _tune_larger(_rows: Rows) -> list[Variant]:
    return [variant for way in OPTIMIZER_WAYS for variant in larger_grid(way)]


def _widen_larger(rows: Rows) -> list[Variant]:
    return [variant for way in OPTIMIZER_WAYS for variant in larger_candidates(rows, way)]


def _enlarge(rows: Rows) -> list[Variant]:
    return seeded(larger(rows).values())


def _answer(rows: Rows) -> list[Variant]:
    later = (alphas, larger, lengths, overdue, delayed)
    shorter = [question for question in QUESTIONS.values() if question not in later]
    return seeded(variant for question in shorter for variant in question(rows).values())


def _lengthen(rows: Rows) -> list[Variant]:
    return seeded(lengths(rows).values())


def main_effects(_rows: Rows) -> Table:
    """What the quick plan compares: short runs at the defaults; the single worker at the best of three rates."""
    sparse = Variant(rounds=QUICK_ROUNDS)
    return {
        "sparse": sparse,
        "random entries": replace(sparse, selection="randomk"),
        "no error feedback": replace(sparse, error_feedback=False),
        "exact values": replace(sparse, values="exact"),
        **{f"single lr={lr:g}": Variant(method="single", rounds=QUICK_ROUNDS, lr=lr) for lr in QUICK_RATES},
    }


def _effects(rows: Rows) -> list[Variant]:
    return seeded(main_effects(rows).values())


def _tune_delay(rows: Rows) -> list[Variant]:
    return delay_candidates(rows)


def _mix(rows: Rows) -> list[Variant]:
    return seeded(variant for variant in delayed(rows).values() if variant.merge == "mix")


def _late(rows: Rows) -> list[Variant]:
    return seeded(overdue(rows).values())


def _delay(rows: Rows) -> list[Variant]:
    return seeded(delayed(rows).values())


ALPHA = Plan("alpha", (_tune, _tune_alpha, _refine))
LATENCY = Plan("latency", (_tune, _tune_delay, _mix, _late, _delay))
LARGER = Plan("larger", (_tune_larger, _widen_larger, _enlarge))
FULL = Plan("full", (_tune, _tune_parts, _tune_alpha, _answer, _refine, _lengthen, *LATENCY.stages[1:], *LARGER.stages))
QUICK = Plan("quick", (_effects,))
PLANS: Mapping[str, Plan] = {plan.name: plan for plan in (FULL, ALPHA, LATENCY, LARGER, QUICK)}
