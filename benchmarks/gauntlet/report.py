"""The figures as text: on the terminal for who tunes a rule, as a page for who reads what it pays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gauntlet import figures, signals
from benchmarks.gauntlet.figures import Figure, Measurements
from benchmarks.gauntlet.setting import template

SECTIONS = (*figures.SECTIONS, ("Signals: the same by any rule", signals.signals))

RULES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "openskill": {"rating": "openskill"},
    "Gauntlet's": {
        "mu_rule": "sign",
        "mu_decay": 0.2,
        "mu_floor": 0.1,
        "mu_warmup": 10,
        "work_cold": 0,
        "rating": "ordinal",
        "tokens": False,
        "power": 2.0,
        "idle": "gauntlet",
        "clone_ratio": 0.0,
        "copy_ratio": 0.0,
        "mixer_ratio": 0.0,
    },
}
"""The rules that the page sets beside each other, by how they differ from the study's spec."""


def line(figure: Figure) -> str:
    """One figure on one line."""
    low, high = min(figure.values), max(figure.values)
    return f"{figure.name:64s} {figure.mean:7.3f}  {low:7.3f} to {high:7.3f}  {figure.bound:12s} {_verdict(figure)}"


def _verdict(figure: Figure) -> str:
    return {None: "", True: "holds", False: "MISSED"}[figure.holds]


def show(data: Measurements) -> int:
    """Print all figures there are; 1 where a bound is missed."""
    missed = 0
    for title, make in SECTIONS:
        print(f"\n{title}")
        for figure in make(data):
            missed += figure.holds is False
            print(line(figure), flush=True)
    return 1 if missed else 0


def page(folder: Path) -> str:
    """The page: a table a section, with a column for each rule."""
    base = template().gauntlet
    rules = {name: Measurements(folder, base.model_copy(update=dict(change))) for name, change in RULES.items()}
    lines = [
        "# What the gauntlet pays",
        "",
        "Written by `python -m benchmarks.gauntlet report` from what `run` has measured. Means over the seeds, the",
        "lowest and the highest in brackets; what must hold is of the default rule.",
    ]
    for title, make in SECTIONS:
        columns = [list(make(data)) for data in rules.values()]
        if not columns[0]:
            continue
        lines += ["", f"## {title}", "", f"| | {' | '.join(rules)} | must be | |", "|---|" + "---|" * (len(rules) + 2)]
        for row in zip(*columns, strict=True):
            cells = [f"{f.mean:.2f} ({min(f.values):.2f} to {max(f.values):.2f})" for f in row]
            lines.append(f"| {row[0].name} | {' | '.join(cells)} | {row[0].bound} | {_verdict(row[0])} |")
    return "\n".join(lines) + "\n"
