"""The study's pictures: drawn from the answers alone, so that they can be redrawn without playing anything again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.convergence.findings import Answers, Stat
from benchmarks.convergence.latency import AGE_WEIGHTS, DELAYS, MERGES, OVERDUE, delay_label, overdue_label
from benchmarks.convergence.plan import (
    BATCH_OF,
    FINE_ALPHAS,
    INNER_STEPS,
    KEPT,
    LENGTHS,
    RULE_ALPHAS,
    VALUES,
    fine_settings,
)
from benchmarks.convergence.variant import Variant

_SIZE = (7.0, 4.2)
_CAP = 3
"""Points of an error bar's ends."""
# One file for one set of answers, to the byte: no date, no random ids.
_STYLE: Any = {
    "svg.hashsalt": "muster",
    "font.size": 10,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
}
_NAMES = {"single": "one worker", "ddp": "data-parallel AdamW", "diloco": "DiLoCo", "2bit": "2-bit", "8bit": "8-bit"}


def draw_all(answers: Answers, folder: Path) -> list[Path]:
    """Draw every picture into `folder`; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Callable[[Answers, Any], None]] = {
        "frontier": _frontier,
        "curves": _curves,
        "rules": _rules,
        "attacks": _attacks,
        "alpha": _alpha,
        "horizons": _horizons,
        "ablations": _ablations,
        "churn": _churn,
        "late": _late,
        "delay": _delay,
        "lengths": _lengths,
    }
    paths = []
    for name, draw in pictures.items():
        with mpl.rc_context(_STYLE):
            figure = Figure(figsize=_SIZE, layout="constrained")
            draw(answers, figure.subplots())
            path = folder / f"results-{name}.svg"
            figure.savefig(path, metadata={"Date": None})
        paths.append(path)
    return paths


def _points(axes: Any, x: Sequence[float], stats: Sequence[Stat], label: str, marker: str = "o-") -> None:
    shown = [(at, stat) for at, stat in zip(x, stats, strict=True) if math.isfinite(stat.mean)]
    axes.errorbar(
        [at for at, _ in shown],
        [stat.mean for _, stat in shown],
        yerr=[stat.error for _, stat in shown],
        fmt=marker,
        label=label,
        capsize=_CAP,
        markersize=4,
    )


def _frontier(answers: Answers, axes: Any) -> None:
    table = answers.tables["frontier"]
    for values in VALUES:
        labels = [f"k={k} {values}" for k in KEPT]
        x = [answers.bytes_a_run(table[label]) for label in labels]
        stats = [answers["frontier", label] for label in labels]
        _points(axes, x, stats, f"SparseLoCo, {_NAMES.get(values, values)} values")
        if values == "2bit":
            for k, at, stat in zip(KEPT, x, stats, strict=True):
                axes.annotate(f"k={k}", (at, stat.mean), textcoords="offset points", xytext=(4, 6), fontsize=8)
    for method in ("diloco", "ddp"):
        _points(axes, [answers.bytes_a_run(table[method])], [answers["frontier", method]], _NAMES[method], "s")
    axes.axhline(answers["frontier", "single"].mean, color="grey", linestyle=":", label="one worker, nothing sent")
    axes.set(xscale="log", xlabel="bytes a peer sends in the whole run", ylabel="held-out loss, nat/byte")
    axes.legend(fontsize=8)


def _curves(answers: Answers, axes: Any) -> None:
    table = answers.tables["frontier"]
    for label, name in (
        ("single", "one worker"),
        ("ddp", _NAMES["ddp"]),
        ("diloco", "DiLoCo"),
        ("k=64 2bit", "SparseLoCo, k=64"),
    ):
        losses = answers.mean_curve(table[label])
        axes.plot(range(1, len(losses) + 1), losses, label=name)
    axes.set(xlabel="round (15 inner steps)", ylabel="held-out loss, nat/byte")
    axes.legend()


def _rules(answers: Answers, axes: Any) -> None:
    for rule in RULE_ALPHAS:
        _points(axes, list(BATCH_OF), [answers["rules", f"{rule} R={peers}"] for peers in BATCH_OF], rule)
    axes.set(xscale="log", xlabel="peers R", ylabel="held-out loss, nat/byte, at each rule's best α")
    axes.set_xticks(list(BATCH_OF), [str(peers) for peers in BATCH_OF])
    axes.minorticks_off()
    axes.legend()


def _bars(axes: Any, labels: Sequence[str], stats: Sequence[Stat], color: str | None = None) -> None:
    axes.barh(
        range(len(labels)),
        [stat.mean for stat in stats],
        xerr=[stat.error for stat in stats],
        capsize=_CAP,
        color=color,
    )
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()


def _attacks(answers: Answers, axes: Any) -> None:
    labels, stats = [], []
    for rule in RULE_ALPHAS:
        for cap in (0.0, Variant().scale_cap):
            labels.append(f"{rule}, {f'cap {cap:g}' if cap else 'no cap'}")
            stats.append(answers.damage(rule, cap))
    _bars(axes, labels, stats)
    axes.set(xlabel="rise of the final loss by one attacker among eight honest peers, nat/byte")


def _alpha(answers: Answers, axes: Any) -> None:
    for peers, batch in fine_settings():
        stats = answers.by_alpha(peers, batch)
        _points(axes, list(stats), list(stats.values()), f"R = {peers}, {batch} each")
    axes.set(xscale="log", xlabel="outer learning rate α of damped_mean", ylabel="held-out loss, nat/byte")
    axes.set_xticks(list(FINE_ALPHAS), [f"{alpha:g}" for alpha in FINE_ALPHAS])
    axes.minorticks_off()
    axes.legend(fontsize=8)


def _horizons(answers: Answers, axes: Any) -> None:
    for method, name in (("diloco", "DiLoCo"), ("sparse", "SparseLoCo, k=64")):
        _points(axes, list(INNER_STEPS), [answers["horizons", f"{method} H={h}"] for h in INNER_STEPS], name)
    axes.set(xscale="log", xlabel="inner steps H of a round, at equal tokens", ylabel="held-out loss, nat/byte")
    axes.set_xticks(list(INNER_STEPS), [str(steps) for steps in INNER_STEPS])
    axes.minorticks_off()
    axes.legend()


def _differences(answers: Answers, axes: Any, question: str, base: str) -> None:
    labels = [label for label in answers.tables[question] if label != base]
    _bars(axes, labels, [answers[question, label].minus(answers[question, base]) for label in labels])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel=f"final loss above “{base}”, nat/byte")


def _ablations(answers: Answers, axes: Any) -> None:
    _differences(answers, axes, "ablations", "β=0.95")


def _churn(answers: Answers, axes: Any) -> None:
    _differences(answers, axes, "churn", "all present")


def _late(answers: Answers, axes: Any) -> None:
    weights = (0.0, *AGE_WEIGHTS)
    for share in OVERDUE:
        labels = {weight: overdue_label(share, weight) for weight in weights}
        known = [weight for weight in weights if labels[weight] in answers.tables["overdue"]]
        stats = [answers["overdue", labels[weight]] for weight in known]
        _points(axes, known, stats, f"{share:.0%} of the submissions a round late")
    axes.axhline(answers["overdue", "all in time"].mean, color="grey", linestyle=":", label="all in time")
    axes.set(xlabel="age weight (0: lost)", ylabel="held-out loss, nat/byte")
    axes.set_xticks(list(weights))
    axes.legend(fontsize=8)


def _delay(answers: Answers, axes: Any) -> None:
    waiting = answers["delayed", "waiting"]
    for merge in MERGES:
        labels = {delay: delay_label(merge, delay) for delay in DELAYS}
        known = [delay for delay in DELAYS if labels[delay] in answers.tables["delayed"]]
        if known:
            stats = [waiting, *(answers["delayed", labels[delay]] for delay in known)]
            _points(axes, [0, *known], stats, merge)
    axes.set(xlabel="inner steps before θ comes, of 15", ylabel="held-out loss, nat/byte")
    axes.set_xticks([0, *DELAYS])
    axes.legend(fontsize=8)


def _lengths(answers: Answers, axes: Any) -> None:
    for method in ("ddp", "diloco", "sparse"):
        stats = [answers["lengths", f"{method} {rounds} rounds"] for rounds in LENGTHS]
        _points(axes, list(LENGTHS), stats, _NAMES.get(method, "SparseLoCo, k=64"))
    axes.set(xscale="log", xlabel="rounds of the run", ylabel="held-out loss, nat/byte")
    axes.set_xticks(list(LENGTHS), [str(rounds) for rounds in LENGTHS])
    axes.minorticks_off()
    axes.legend()
