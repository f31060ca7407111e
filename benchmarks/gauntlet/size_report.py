"""The page of the sizes: every figure of every size, stage by stage, and what judging a round of sixty-four costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.gauntlet import cost, size_figures
from benchmarks.gauntlet.cost import Cost
from benchmarks.gauntlet.figures import Figure
from benchmarks.gauntlet.scenarios import Scenario
from benchmarks.gauntlet.setting import template
from benchmarks.gauntlet.size_figures import Size
from muster.protocol.spec.layout import layout_of

DEAREST = 0.1
"""What first-order scores may cost of exact ones."""


def page(folder: Path, sizes: Sequence[Scenario], costs: Sequence[Scenario]) -> str:
    """The page, of the sizes and costs that have been measured."""
    found = [size for size in (Size.read(folder, scenario) for scenario in sizes) if size is not None]
    lines = [
        "# The gauntlet's thresholds on models of several sizes",
        "",
        "Written by `python -m benchmarks.gauntlet sizes`. A cell has a run's first, second and last third of rounds;",
        "what must hold, must hold in each of them. `benchmarks/gauntlet/sizes.py` says who the cheats are.",
        "",
        *_table(["", *(size.scenario.preset for size in found)], _about(found)),
    ]
    for title, make in size_figures.SECTIONS.items():
        rows = zip(*(make(size) for size in found), strict=True)
        head = ["", *(size.scenario.preset for size in found), "must be", ""]
        lines += ["", f"## {title}", "", *_table(head, map(_row, rows))]
    timed = [(one.preset, cost.cost_of(folder, one, missing=False)) for one in costs]
    lines += ["", f"## Judging a round of {cost.PEERS} peers", "", *_costs([(n, c) for n, c in timed if c is not None])]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_cells(head), "|" + "---|" * len(head), *map(_cells, rows)]


def _cells(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _row(figures: Sequence[Figure]) -> list[str]:
    """A figure of every size, and in which of them its bound is missed."""
    missed = [figure.holds for figure in figures]
    verdict = "" if missed[0] is None else "holds" if all(missed) else "MISSED"
    cells = [" / ".join(f"{value:.2f}" for value in figure.values) for figure in figures]
    return [figures[0].name, *cells, figures[0].bound, verdict]


def _about(found: Sequence[Size]) -> list[list[str]]:
    wholes = [template(size.scenario.preset) for size in found]
    layouts = [layout_of(whole.model) for whole in wholes]
    honest = [sum(role.applied for role in size.scenario.roles) for size in found]
    ends = [[float(piece.raw.heldout[at]) for piece in size.found] for at in (0, -1) for size in found]
    first, last = ends[: len(found)], ends[len(found) :]
    return [
        ["parameters", *(f"{layout.parameters:,}" for layout in layouts)],
        ["tiles", *(str(layout.grid.tiles) for layout in layouts)],
        ["tokens of a window", *(str(whole.data.window) for whole in wholes)],
        ["inner steps × windows a round", *(f"{whole.inner.steps} × {whole.inner.batch}" for whole in wholes)],
        ["rounds", *(str(size.scenario.rounds) for size in found)],
        ["runs", *(str(len(size.found)) for size in found)],
        ["honest peers, applied", *map(str, honest)],
        ["held-out loss after the first round", *(f"{sum(losses) / len(losses):.2f}" for losses in first)],
        ["held-out loss after the last", *(f"{sum(losses) / len(losses):.2f}" for losses in last)],
    ]


def _costs(found: Sequence[tuple[str, Cost]]) -> list[str]:
    """By the thread's own seconds; a forward is one of a batch of `eval_windows` windows."""

    def row(name: str, cells: Iterable[str], bound: str = "", verdict: str = "") -> list[str]:
        return [name, *cells, bound, verdict]

    costs = [one for _, one in found]
    forwards = all(one.forwards <= 4 * one.peers + 2 for one in costs)
    cheap = all(one.first_order <= DEAREST * one.exact for one in costs)
    return _table(
        ["", *(name for name, _ in found), "must be", ""],
        [
            row("exact, all: forwards", (str(one.forwards) for one in costs), "≤ 4 a peer + 2", _said(forwards)),
            row("exact, all: seconds", (f"{one.exact:.2f}" for one in costs)),
            row("first-order, all: seconds", (f"{one.first_order:.3f}" for one in costs)),
            row("of these the gradient: seconds", (f"{one.gradient:.3f}" for one in costs)),
            row("one forward: seconds", (f"{one.forward:.4f}" for one in costs)),
            row("first-order, all: in forwards", (f"{one.first_order / one.forward:.1f}" for one in costs)),
            row(
                "first-order ÷ exact",
                (f"{one.first_order / one.exact:.3f}" for one in costs),
                f"≤ {DEAREST:g}",
                _said(cheap),
            ),
            row("rank correlation of the two", (f"{one.agreement:.3f}" for one in costs)),
        ],
    )


def _said(holds: bool) -> str:
    return "holds" if holds else "MISSED"
