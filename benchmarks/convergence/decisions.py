"""The page's two sections that the spec's default and the presets go by: α on a finer grid, and what trains inside."""

from __future__ import annotations

from benchmarks.convergence.findings import SURE, Answers, Stat
from benchmarks.convergence.markdown import play, table
from benchmarks.convergence.plan import (
    FINE_ALPHAS,
    LARGER_ALPHAS,
    LARGER_RATES,
    LARGER_ROUNDS,
    fine_candidates,
    fine_settings,
    larger_rates,
    open_alphas,
    open_larger,
)
from benchmarks.convergence.setting import PRESETS
from benchmarks.convergence.variant import Variant
from benchmarks.convergence.ways import HOPELESS, NESTEROV, OPTIMIZER_WAYS, SEEDS, Way
from muster.protocol.spec import load_template
from muster.protocol.spec.layout import layout_of


def alpha(answers: Answers) -> str:
    """2c: the default rule's α."""
    chosen, seeds = answers.default_alpha(), len(SEEDS)
    return f"""### α on a finer grid

Factors of two are coarse. `damped_mean` again at α {", ".join(f"{a:g}" for a in FINE_ALPHAS)}, with the windows of an inner step as above, and with the
usual {Variant().batch} each: first on the tuning seed, then, unless an α had lost by more than {HOPELESS:.0%} there, on the {seeds} reported ones.{_missing(open_alphas(answers.rows))}

{_alpha_losses(answers)}

{_alpha_tuning(answers)}

![Loss by α for each number of peers](img/results-alpha.svg)

For each setting by itself the lowest is {_lowest(answers)}; the mean over them is lowest at
{chosen:g}. So **`damped_mean` with α = {chosen:g}** is the default of the run spec and what every preset above `tiny` has. `tiny` and the bench's
`nano`, made for about four miners, have {_tiny():g}, at R = 4 {_above_best(answers)}."""


def _missing(count: int) -> str:
    return f" {count} of its runs have not been played yet; `make results` does." if count else ""


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
    compared = len(answers.compared_settings())
    return table(
        ("setting", *(f"α = {a:g}" for a in FINE_ALPHAS), *(f"{a:g} above {first:g}" for a in FINE_ALPHAS[1:])),
        (
            row(name, stats)
            for name, stats in [*settings, (f"mean of the {compared} compared", answers.by_alpha_overall())]
        ),
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

    return ", ".join(f"{best(r, b):g} (R = {r}, {b} each)" for r, b in answers.compared_settings())


def _above_best(answers: Answers) -> str:
    stats = answers.by_alpha(*fine_settings()[0])
    lowest = min(stats.values(), key=lambda stat: stat.mean)
    ours = stats[_tiny()]
    return "the lowest" if ours is lowest else f"{ours.minus(lowest).signed()} above the lowest"


def larger(answers: Answers) -> str:
    """5b: AdamW against Muon on the larger model."""
    model, data = load_template(str(PRESETS["larger"])).model, load_template(str(PRESETS["larger"])).data
    runs = [row for variant, row in answers.rows.items() if variant.model == "larger"]
    minutes = sum(row.seconds["total"] for row in runs) / 60
    base = Variant()
    tokens = base.peers * base.steps * base.batch * data.window * LARGER_ROUNDS / 1e6
    return f"""### On a larger model

What presets above `tiny` train with is decided on {layout_of(model).parameters:,} parameters ({model.layers} layers, width {model.hidden}, context {model.context}):
{LARGER_ROUNDS} rounds of {base.peers} peers, {tokens:.2f} million tokens in each run. Time bounded the size: the {len(runs)} runs there are took {minutes:.0f} processor
minutes, {minutes / len(runs):.1f} each. Every row has {len(LARGER_RATES["adamw"])} inner rates on the tuning seed, and one more where the highest was best; outer rates are
fixed, the same for both optimizers: α = {LARGER_ALPHAS["sparse"]:g} of `damped_mean`, and {LARGER_ALPHAS["diloco"]:g} with Nesterov's {NESTEROV:g} for DiLoCo.{_missing(open_larger(answers.rows))}

{_larger_tuning(answers)}

{_decision(answers)}"""


def _larger_losses(answers: Answers) -> str:
    variants = answers.tables["larger"]

    def row(way: Way) -> tuple[object, ...]:
        label, adamw = f"{way.method} {way.optimizer}", f"{way.method} adamw"
        stat = answers["larger", label]
        above = _against(stat, answers["larger", adamw]) if label != adamw and adamw in variants else ""
        return label, f"{variants[label].lr:g}", stat, above, play(variants[label])

    return table(
        ("run", "inner rate", "loss", "above AdamW", "command"),
        (row(way) for way in OPTIMIZER_WAYS if f"{way.method} {way.optimizer}" in variants),
    )


def _larger_tuning(answers: Answers) -> str:
    def row(way: Way) -> tuple[object, ...]:
        tried = [candidate for candidate in larger_rates(way) if candidate in answers.rows]
        return f"{way.method} {way.optimizer}", "; ".join(
            f"{c.lr:g}: {answers.rows[c].final:.3f}" for c in tried
        ) or "–"

    return table(("tuning seed", "loss by inner rate"), (row(way) for way in OPTIMIZER_WAYS))


def _decision(answers: Answers) -> str:
    chosen = answers.preset_optimizer()
    if len(answers.tables["larger"]) < len(OPTIMIZER_WAYS):
        return f"""Until all of it has been played nothing is decided: presets above `tiny` have `optimizer = "{chosen}"`. A way's best rate on one
seed is no result, so the table says only where to look."""
    dense, sparse = (
        answers["larger", f"{method} muon"].minus(answers["larger", f"{method} adamw"])
        for method in ("diloco", "sparse")
    )
    return f"""{_larger_losses(answers)}

Muon against AdamW: {sparse.signed()} with compression, {dense.signed()} without. A preset takes Muon where it is better with
compression beyond {SURE:g} standard errors, so presets above `tiny` have `optimizer = "{chosen}"`."""


def _tiny() -> float:
    return load_template("tiny").outer.alpha_at(0)
