"""What the daemons cost beside training, beside commit 5c6907b and beside memcpy.

    THP_MEM_ALLOC_ENABLE=1 python -m benchmarks.daemons [--before CHECKOUT] [--only SECTION …] [--turns 11]
                                                        [--millions 30 …] [--csv FILE] [--plot FILE]

CHECKOUT is a checkout of commit 5c6907b (`git worktree add CHECKOUT 5c6907b`); it needs a folder
muster-0.1.0.dist-info with a METADATA file that says "Name: muster" and "Version: 0.1.0". Every section runs in a
process of its own for each build, the builds by turns; figures are medians. Exits with 1 where a target is missed.

With several --millions each section that is about a model's size runs at each of them, the first being what is judged;
--plot draws those sections (it needs `pip install -e '.[bench]'`).
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from pathlib import Path

from benchmarks.daemons.pairs import ROOT, Figures, measure, share
from benchmarks.daemons.plot import draw
from benchmarks.daemons.table import ALONE, ROWS, SIZED, Line, Row

THIS, BEFORE = "this", "5c6907b"


def told(row: Row, found: dict[str, Figures]) -> tuple[str, bool]:
    """A row's line, and whether its target is met (it is not missed where there is nothing to compare with)."""
    this = found[THIS][row.name]
    before = found.get(BEFORE, {}).get(row.name)
    value = statistics.median(this)
    text = f"  {row.title:<58} {value:9.3g} {row.unit}"
    if before:
        text += f"   {BEFORE} {statistics.median(before):9.3g}   ratio {share(this, before):.3f}"
    judged = (share(this, before) if before else 0.0) if row.of_before else value
    good = judged <= row.target
    return f"{text}   target {row.target:g}{' of it' if row.of_before else ''}{'' if good else '   MISSED'}", good


def main() -> int:
    """Measure, print, judge."""
    sections = tuple(dict.fromkeys(row.section for row in ROWS))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--only", nargs="+", choices=sections, default=sections)
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--millions", type=float, nargs="+", default=[30.0])
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    builds = {THIS: ROOT} | ({BEFORE: options.before.resolve()} if options.before else {})
    good, lines = True, list[Line]()
    for section in options.only:
        for millions in options.millions if section in SIZED else options.millions[:1]:
            print(f"{section}: {millions:g} million parameters, {options.turns} turns", flush=True)
            found = measure({THIS: ROOT} if section in ALONE else builds, section, millions, options.turns)
            for row in (row for row in ROWS if row.section == section):
                text, met = told(row, found)
                good &= met or millions != options.millions[0]
                print(text, flush=True)
            lines += [
                Line(section, millions, build, name, statistics.median(values))
                for build, figures in found.items()
                for name, values in figures.items()
            ]
    if options.csv:
        with options.csv.open("w", newline="", encoding="ascii") as file:
            csv.writer(file, lineterminator="\n").writerows([Line._fields, *lines])
    if options.plot:
        draw(lines, options.plot)
    print("targets met" if good else "a target is MISSED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
