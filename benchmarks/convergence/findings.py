"""What the study's runs say: means with errors, paired differences, and each against what was expected of it.

Differences are taken seed by seed: two variants of one seed share genesis, text and assignment, so most of what
makes seeds differ cancels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal

from benchmarks.convergence.plan import (
    ATTACKED_PEERS,
    BATCH_OF,
    FINE_ALPHAS,
    INNER_STEPS,
    KEPT,
    LENGTHS,
    OPEN,
    QUESTIONS,
    RULE_ALPHAS,
    fine_settings,
    rule_candidates,
)
from benchmarks.convergence.variant import Optimizer, Variant
from benchmarks.convergence.ways import DILOCO, OPTIMIZER_WAYS, SEEDS, Rows, Table, played
from muster.kernels import Rule

SURE = 2.0
"""Standard errors beyond which a difference counts as seen."""
FP32_BYTES = 4

Verdict = Literal["as expected", "against expectation", "not told apart"]


@dataclass(frozen=True, slots=True)
class Stat:
    """A mean over seeds and its standard error, nat/byte."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean; infinite where a run diverged."""
        return fmean(self.values)

    @property
    def error(self) -> float:
        """Standard error of the mean; not a number where a run diverged."""
        if not math.isfinite(self.mean):
            return math.nan
        return stdev(self.values) / math.sqrt(len(self.values))

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f}" if math.isfinite(self.mean) else "diverged"

    def minus(self, other: Stat) -> Stat:
        """The differences, seed by seed."""
        return Stat(tuple(a - b for a, b in zip(self.values, other.values, strict=True)))

    def signed(self) -> str:
        """As a difference is written."""
        return f"{self.mean:+.3f} ± {self.error:.3f}" if math.isfinite(self.mean) else "diverged"


@dataclass(frozen=True, slots=True)
class Finding:
    """A claim, the number it is judged by, and how it came out."""

    claim: str
    measured: str
    verdict: Verdict


class Answers:
    """The answers to every question, from rows that hold the whole plan."""

    def __init__(self, rows: Rows) -> None:
        """Raises KeyError where a run of the plan is missing, but of the open questions those with all seeds count."""
        self.rows = rows
        self.tables: dict[str, Table] = {name: question(rows) for name, question in QUESTIONS.items()}
        for name in OPEN:
            self.tables[name] = {label: v for label, v in self.tables[name].items() if played(rows, v)}
        self._stats = {
            (name, label): self.stat(variant) for name, table in self.tables.items() for label, variant in table.items()
        }

    def stat(self, variant: Variant) -> Stat:
        """Final losses of a variant over the reported seeds."""
        return Stat(tuple(self.rows[replace(variant, seed=seed)].final for seed in SEEDS))

    def __getitem__(self, key: tuple[str, str]) -> Stat:
        return self._stats[key]

    def bytes_a_round(self, variant: Variant) -> float:
        """What a peer sends in a round."""
        return fmean(self.rows[replace(variant, seed=seed)].bytes_up for seed in SEEDS)

    def bytes_a_run(self, variant: Variant) -> float:
        """What a peer sends in all rounds."""
        return variant.rounds * self.bytes_a_round(variant)

    def mean_curve(self, variant: Variant) -> list[float]:
        """Held-out loss after each round, the mean over seeds."""
        curves = [self.rows[replace(variant, seed=seed)].losses for seed in SEEDS]
        return [fmean(losses) for losses in zip(*curves, strict=True)]

    def findings(self) -> list[Finding]:
        """Every expectation, in the order of the questions."""
        return [
            *self._frontier(),
            *self._rules(),
            *self._alphas(),
            *self._horizons(),
            *self._ablations(),
            *self._churn(),
            *self._muon("optimizers", ""),
            *self._larger(),
            *self._lengths(),
        ]

    def one_alpha(self, rule: Rule) -> tuple[float, float]:
        """The α of a rule that is best for all numbers of peers together, and its mean loss over them.

        Of the tuning runs: who takes part changes from round to round, and the spec has one α.
        """
        means = {
            alpha: fmean(self._tuning_loss(rule, peers, alpha) for peers in BATCH_OF) for alpha in RULE_ALPHAS[rule]
        }
        alpha = min(means, key=lambda alpha: means[alpha])
        return alpha, means[alpha]

    def best_rule(self) -> Rule:
        """The rule with the lowest loss over all numbers of peers where one α has to do for all."""
        return min(RULE_ALPHAS, key=lambda rule: self.one_alpha(rule)[1])

    def _tuning_loss(self, rule: Rule, peers: int, alpha: float) -> float:
        (candidate,) = (found for found in rule_candidates(self.rows, rule, peers) if found.alpha == alpha)
        return self.rows[candidate].final

    def by_alpha(self, peers: int, batch: int) -> dict[float, Stat]:
        """The default rule's losses in a setting by α, as far as played on the reported seeds."""
        labels = {alpha: f"R={peers} B={batch} α={alpha:g}" for alpha in FINE_ALPHAS}
        return {alpha: self["alphas", label] for alpha, label in labels.items() if label in self.tables["alphas"]}

    def compared_settings(self) -> list[tuple[int, int]]:
        """Peers and windows where more than one α has been played on the reported seeds."""
        return [setting for setting in fine_settings() if len(self.by_alpha(*setting)) > 1]

    def by_alpha_overall(self) -> dict[float, Stat]:
        """The same over those settings, of each seed the mean, for every α that was in the running in all of them."""
        settings = [self.by_alpha(*setting) for setting in self.compared_settings()]
        return {
            alpha: Stat(tuple(fmean(losses) for losses in zip(*(s[alpha].values for s in settings), strict=True)))
            for alpha in FINE_ALPHAS
            if all(alpha in stats for stats in settings)
        }

    def default_alpha(self) -> float:
        """The α that the spec's default and the presets above `tiny` follow: lowest over all settings."""
        overall = self.by_alpha_overall()
        return min(overall, key=lambda alpha: overall[alpha].mean)

    def preset_optimizer(self) -> Optimizer:
        """What presets above `tiny` train with, by the larger model's losses with compression; AdamW until then."""
        if not {"sparse muon", "sparse adamw"} <= self.tables["larger"].keys():
            return "adamw"
        return preferred(self["larger", "sparse muon"], self["larger", "sparse adamw"])

    def damage(self, rule: str, cap: float) -> Stat:
        """How much one attacker among eight honest peers raises a rule's final loss."""
        name = f"{rule} cap={cap:g}"
        return self["attacks", f"{name} attacked"].minus(self["attacks", name])

    def _frontier(self) -> list[Finding]:
        sparse, diloco = self["frontier", "k=64 2bit"], self["frontier", "diloco"]
        variants = self.tables["frontier"]
        ratio = self.bytes_a_round(variants["diloco"]) / self.bytes_a_round(variants["k=64 2bit"])
        gap = sparse.mean / diloco.mean - 1
        within = Stat(tuple(a / b - 1.01 for a, b in zip(sparse.values, diloco.values, strict=True)))
        cheapest = {k: self["frontier", f"k={k} 2bit"].mean for k in KEPT}
        best_k = min(cheapest, key=lambda k: cheapest[k])
        exact = sparse.minus(self["frontier", "k=64 exact"])
        return [
            Finding(
                "at k = 64 the loss is within 1 % of DiLoCo's, or better",
                f"{gap:+.1%} ({sparse} against {diloco})",
                expect_below(within),
            ),
            Finding(
                "an update is at least 200 times smaller than dense fp32",
                f"{ratio:.0f} times",
                "as expected" if ratio >= 200 else "against expectation",
            ),
            Finding(
                "how much is sent has an optimum inside the range tried",
                f"lowest at k = {best_k} of {', '.join(map(str, KEPT))}",
                "as expected" if best_k not in (KEPT[0], KEPT[-1]) else "against expectation",
            ),
            Finding(
                "2-bit values cost nothing against exact ones (less than 1 %)",
                exact.signed(),
                "as expected" if abs(exact.mean) < 0.01 * sparse.mean + SURE * exact.error else "against expectation",
            ),
        ]

    def _rules(self) -> list[Finding]:
        best = self.best_rule()
        mean = [self["rules", f"sender_mean R={r}"].minus(self["rules", f"mean R={r}"]) for r in BATCH_OF]
        damped = [self["rules", f"damped_mean R={r}"].minus(self["rules", f"sender_mean R={r}"]) for r in BATCH_OF]
        damped_fixed, sender_fixed = (self.one_alpha(rule)[1] for rule in ("damped_mean", "sender_mean"))
        uncapped, capped = (self.damage(best, cap) for cap in (0.0, Variant().scale_cap))
        return [
            Finding("sender_mean beats mean, each at its own best α", over(BATCH_OF, mean), all_below(mean)),
            Finding("damped_mean beats sender_mean, each at its own best α", over(BATCH_OF, damped), all_below(damped)),
            Finding(
                "with one α for all numbers of peers, damped_mean beats sender_mean (tuning seed alone)",
                f"{damped_fixed:.3f} against {sender_fixed:.3f}",
                "as expected" if damped_fixed < sender_fixed else "against expectation",
            ),
            Finding(
                f"the scale cap takes away most of what an attacker among {ATTACKED_PEERS} does to {best}",
                f"{uncapped.signed()} without, {capped.signed()} with",
                expect_below(Stat(tuple(c - u / 2 for c, u in zip(capped.values, uncapped.values, strict=True)))),
            ),
        ]

    def _alphas(self) -> list[Finding]:
        low, middle, _ = FINE_ALPHAS
        both = {
            f"{peers} × {batch}": stats[middle].minus(stats[low])
            for peers, batch in fine_settings()
            if {low, middle} <= (stats := self.by_alpha(peers, batch)).keys()
        }
        return [
            Finding(
                f"damped_mean does better with α = {middle:g} than with α = {low:g} (peers × windows of an inner step)",
                over(both, list(both.values())),
                all_below(list(both.values())),
            )
        ]

    def _horizons(self) -> list[Finding]:
        gaps = [self["horizons", f"sparse H={h}"].minus(self["horizons", f"diloco H={h}"]) for h in INNER_STEPS]
        first, last = (self["horizons", f"sparse H={h}"] for h in (15, INNER_STEPS[-1]))
        return [
            Finding("the loss is at most DiLoCo's for every H", over(INNER_STEPS, gaps), all_below(gaps)),
            Finding(
                "the loss grows with H at equal tokens",
                f"{last.minus(first).signed()} from H = 15 to H = {INNER_STEPS[-1]}",
                expect_below(first.minus(last)),
            ),
        ]

    def _ablations(self) -> list[Finding]:
        sparse = self["ablations", "β=0.95"]

        def worse(label: str, claim: str) -> Finding:
            difference = self["ablations", label].minus(sparse)
            return Finding(claim, difference.signed(), expect_below(sparse.minus(self["ablations", label])))

        return [
            worse("random entries", "random entries are worse than the largest"),
            worse("no error feedback", "no error feedback is worse"),
            worse("β=0", "β = 0 (what is not sent is forgotten) is worse than β = 0.95"),
            worse("β=1", "β = 1 (nothing is ever forgotten) is worse than β = 0.95"),
            worse("outer momentum", "outer momentum on top of error feedback is worse"),
            worse("sign of the aggregate", "the sign of the aggregate is worse than the aggregate"),
        ]

    def _churn(self) -> list[Finding]:
        present = self["churn", "all present"]
        half = self["churn", "absence 50%"].minus(present)
        late = self["churn", "half join late"].minus(present)
        uneven = self["churn", "uneven work"].minus(present)
        lost = [self["churn", f"lost 25%, committed {when}"] for when in ("when accepted", "always")]
        commit = lost[0].minus(lost[1])
        return [
            Finding(
                "half of the peers missing at random costs less than 5 %",
                half.signed(),
                expect_below(Stat(tuple(d - 0.05 * present.mean for d in half.values))),
            ),
            Finding(
                "peers that join late with cold optimizers do no lasting harm (less than 5 %)",
                late.signed(),
                expect_below(Stat(tuple(d - 0.05 * present.mean for d in late.values))),
            ),
            Finding(
                "peers that manage ¼ to all of H still help (less than 5 % lost)",
                uneven.signed(),
                expect_below(Stat(tuple(d - 0.05 * present.mean for d in uneven.values))),
            ),
            Finding(
                "where submissions get lost, committing error feedback by acceptance beats committing always",
                commit.signed(),
                expect_below(commit),
            ),
        ]

    def _muon(self, question: str, where: str) -> list[Finding]:
        def against(first: str, second: str) -> Stat:
            return self[question, first].minus(self[question, second])

        dense, sparse = (against(f"{method} muon", f"{method} adamw") for method in ("diloco", "sparse"))
        cost = {optimizer: against(f"sparse {optimizer}", f"diloco {optimizer}") for optimizer in ("adamw", "muon")}
        return [
            Finding(f"Muon inside beats AdamW without compression{where}", dense.signed(), expect_below(dense)),
            Finding(f"Muon inside beats AdamW with compression{where}", sparse.signed(), expect_below(sparse)),
            Finding(
                f"Muon's updates compress better (compression costs less){where}",
                f"{cost['muon'].signed()} against {cost['adamw'].signed()}",
                expect_below(cost["muon"].minus(cost["adamw"])),
            ),
        ]

    def _larger(self) -> list[Finding]:
        decided = len(self.tables["larger"]) == len(OPTIMIZER_WAYS)
        return self._muon("larger", ", on the larger model") if decided else []

    def _lengths(self) -> list[Finding]:
        short, long = (
            self["lengths", f"sparse {rounds} rounds"].minus(self["lengths", f"ddp {rounds} rounds"])
            for rounds in (LENGTHS[0], LENGTHS[-1])
        )
        return [
            Finding(
                f"the gap to data-parallel training closes with time ({LENGTHS[0]} to {LENGTHS[-1]} rounds)",
                f"{short.signed()}, then {long.signed()}",
                expect_below(long.minus(short)),
            )
        ]


def expect_below(difference: Stat) -> Verdict:
    """Whether differences expected to be below zero are, beyond `SURE` standard errors."""
    if math.isnan(difference.mean) or difference.mean > SURE * difference.error or difference.mean == math.inf:
        return "against expectation"
    return "as expected" if difference.mean < -SURE * difference.error else "not told apart"


def preferred(muon: Stat, adamw: Stat) -> Optimizer:
    """Muon only where its losses are lower beyond `SURE` standard errors; a step of it takes longer than AdamW's."""
    return "muon" if expect_below(muon.minus(adamw)) == "as expected" else "adamw"


def all_below(differences: Sequence[Stat]) -> Verdict:
    """The verdict on several: against if one is, as expected if all are."""
    verdicts = [expect_below(difference) for difference in differences]
    if "against expectation" in verdicts:
        return "against expectation"
    return "as expected" if all(verdict == "as expected" for verdict in verdicts) else "not told apart"


def over(points: Iterable[int | str], differences: Sequence[Stat]) -> str:
    """Differences at several points, as text."""
    return "; ".join(f"{point}: {difference.signed()}" for point, difference in zip(points, differences, strict=True))


def dense_bytes(answers: Answers) -> float:
    """What DiLoCo's peer sends in a round: the whole pseudo-gradient."""
    return answers.bytes_a_round(DILOCO.tuned(answers.rows))
