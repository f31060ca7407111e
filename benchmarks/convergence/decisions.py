"""The page's two sections that the spec's default and the presets go by: α on a finer grid, and what trains inside."""

from __future__ import annotations

from benchmarks.convergence.findings import Answers, Stat
from benchmarks.convergence.markdown import play, table
from benchmarks.convergence.plan import (
    FINE_ALPHAS,
    LARGER_ALPHAS,
    LARGER_RATES,
    LARGER_ROUNDS,
    NESTEROV,
    OPTIMIZER_WAYS,
    SEEDS,
    Way,
    fine_candidates,
    fine_settings,
    larger_candidates,
)
from benchmarks.convergence.setting import PRESETS
from benchmarks.convergence.variant import Variant
from muster.protocol.spec import load_template
from muster.protocol.spec.layout import layout_of


def alpha(answers: Answers) -> str:
    """2c: the default rule's α."""
    chosen, middle = answers.default_alpha(), FINE_ALPHAS[1]
    return f"""### α on a finer grid

Factors of two are coarse. `damped_mean` again at α {", ".join(f"{a:g}" for a in FINE_ALPHAS)}, all of it on the {len(SEEDS)} reported seeds, with the
windows of an inner step as above and with the usual {Variant().batch} each; below, the tuning seed alone.

{_alpha_losses(answers)}

{_alpha_tuning(answers)}

![Loss by α for each number of peers](img/results-alpha.svg)

The lowest mean over these settings has α = {chosen:g}: **`damped_mean` with α = {chosen:g}** is the default of the run spec and what
every preset above `tiny` has. α = {middle:g} was expected to win; for each number of peers by itself the lowest is
{_lowest(answers)}. The more peers list an entry, and the noisier each is, the
smaller the α that serves. `tiny` and the bench's `nano`, made for about four miners, have {_tiny():g}; at R = 4 that is
{_above_best(answers)} above the lowest."""


def _alpha_losses(answers: Answers) -> str:
    first = FINE_ALPHAS[0]

    def row(name: str, stats: dict[float, Stat]) -> tuple[object, ...]:
        losses = (stats.get(a, "–") for a in FINE_ALPHAS)
        gaps = (_against(stats[a], stats[first]) if {a, first} <= stats.keys() else "–" for a in FINE_ALPHAS[1:])
        return name, *losses, *gaps

    settings = [
        (f"R = {peers}, {batch} {'window' if batch == 1 else 'windows'}", answers.by_alpha(peers, batch))
        for peers, batch in fine_settings()
    ]
    return table(
        ("setting", *(f"α = {a:g}" for a in FINE_ALPHAS), *(f"{a:g} above {first:g}" for a in FINE_ALPHAS[1:])),
        (row(name, stats) for name, stats in [*settings, ("mean of all", answers.by_alpha_overall())]),
    )


def _against(stat: Stat, base: Stat) -> str:
    difference = stat.minus(base)
    return f"{difference.signed()} ({difference.mean / base.mean:+.1%})"


def _alpha_tuning(answers: Answers) -> str:
    return table(
        ("tuning seed", *(f"α = {a:g}" for a in FINE_ALPHAS)),
        (
            (
                f"R = {peers}, {batch}",
                *(f"{answers.rows[c].final:.3f}" for c in fine_candidates(answers.rows, peers, batch)),
            )
            for peers, batch in fine_settings()
        ),
    )


def _lowest(answers: Answers) -> str:
    def best(peers: int, batch: int) -> float:
        stats = answers.by_alpha(peers, batch)
        return min(stats, key=lambda a: stats[a].mean)

    return ", ".join(f"{best(r, b):g} (R = {r}, {b} each)" for r, b in fine_settings())


def _above_best(answers: Answers) -> str:
    stats = answers.by_alpha(*fine_settings()[0])
    lowest = min(stats.values(), key=lambda stat: stat.mean)
    return stats[_tiny()].minus(lowest).signed()


def larger(answers: Answers) -> str:
    """5b: AdamW against Muon on the larger model."""
    model, data = load_template(str(PRESETS["larger"])).model, load_template(str(PRESETS["larger"])).data
    runs = [row for variant, row in answers.rows.items() if variant.model == "larger"]
    minutes = sum(row.seconds["total"] for row in runs) / 60
    base = Variant()
    tokens = base.peers * base.steps * base.batch * data.window * LARGER_ROUNDS / 1e6
    chosen = answers.preset_optimizer()
    return f"""### On a larger model

What presets above `tiny` train with is decided on {layout_of(model).parameters:,} parameters ({model.layers} layers, width {model.hidden}, context {model.context}):
{LARGER_ROUNDS} rounds of {base.peers} peers, {tokens:.2f} million tokens in each run, {len(runs)} runs in {minutes:.0f} processor minutes. Time bounded the size:
a run here took {minutes / len(runs):.1f} of them. Inner rates are of {len(LARGER_RATES["adamw"])} candidates a row, on the tuning seed; outer ones are fixed, the same
for both optimizers: α = {LARGER_ALPHAS["sparse"]:g} of `damped_mean`, and {LARGER_ALPHAS["diloco"]:g} with Nesterov's {NESTEROV:g} for DiLoCo.

{_larger_losses(answers)}

{_larger_tuning(answers)}

{_decision(answers)}So presets above `tiny` have `optimizer = "{chosen}"`. Their learning rates are AdamW's: Muon's step has the root mean
square of AdamW's (arXiv 2502.16982), so a rate means about the same for both; the best here was higher for Muon, and nobody
has tuned it at their size."""


def _larger_losses(answers: Answers) -> str:
    variants = answers.tables["larger"]

    def row(method: str, optimizer: str) -> tuple[object, ...]:
        label = f"{method} {optimizer}"
        stat, adamw = answers["larger", label], answers["larger", f"{method} adamw"]
        above = "" if optimizer == "adamw" else _against(stat, adamw)
        return label, f"{variants[label].lr:g}", stat, above, play(variants[label])

    return table(
        ("run", "inner rate", "loss", "above AdamW", "command"),
        (row(way.method, way.optimizer) for way in OPTIMIZER_WAYS),
    )


def _larger_tuning(answers: Answers) -> str:
    def row(way: Way) -> tuple[object, ...]:
        candidates = larger_candidates(answers.rows, way)
        return f"{way.method} {way.optimizer}", "; ".join(f"{c.lr:g}: {answers.rows[c].final:.3f}" for c in candidates)

    return table(("tuning seed", "loss by inner rate"), (row(way) for way in OPTIMIZER_WAYS))


def _decision(answers: Answers) -> str:
    dense, sparse = (
        answers["larger", f"{method} muon"].minus(answers["larger", f"{method} adamw"])
        for method in ("diloco", "sparse")
    )
    return f"Muon against AdamW: {sparse.signed()} with compression, {dense.signed()} without. "


def _tiny() -> float:
    return load_template("tiny").outer.alpha_at(0)
