"""The figures that follow a model's size, drawn over it for both builds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.daemons.table import ROWS, SIZED, Line


def draw(lines: Sequence[Line], target: Path) -> None:
    """A panel for each figure of the sections about a model's size: medians over millions of parameters, log-log."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in ROWS if row.section in SIZED and any(row.name == line.figure for line in lines)]
    figure, panels = plt.subplots(1, len(rows), figsize=(4 * len(rows), 3.4), squeeze=False)
    for row, panel in zip(rows, panels[0], strict=True):
        mine = [line for line in lines if (line.section, line.figure) == (row.section, row.name)]
        for build in dict.fromkeys(line.build for line in mine):
            of_build = sorted((line.millions, line.median) for line in mine if line.build == build)
            panel.plot(*zip(*of_build, strict=True), marker="o", label=build)
        if not row.of_before:
            panel.axhline(row.target, color="grey", linestyle=":", label="target at 30M")
        panel.set_title(row.title, fontsize=9)
        panel.set_xlabel("million parameters")
        panel.set_ylabel(row.unit)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(target)
