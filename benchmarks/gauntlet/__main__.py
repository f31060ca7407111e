"""What the gauntlet pays: `run` measures, `judge` and `report` apply rules to what is there, `quick` looks at signs.

`sizes` looks at the rule's thresholds on models of several sizes.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.gauntlet import cost, report, runner, size_report
from benchmarks.gauntlet.figures import Measurements, signs
from benchmarks.gauntlet.scenarios import BY_NAME, QUICK, SCENARIOS, Scenario
from benchmarks.gauntlet.setting import template
from benchmarks.gauntlet.sizes import SIZES
from muster.protocol.spec.gauntlet import GauntletSpec

RESULTS = Path(__file__).parents[1] / ".cache" / "gauntlet"
"""Where pieces are kept; git does not see them."""
PAGE = Path(__file__).with_name("results.md")
SIZES_PAGE = Path(__file__).with_name("sizes.md")
_INTERRUPTED = 130
"""The exit status of a command that Ctrl-C ended."""


def run(results: Path, scenarios: Iterable[Scenario], processes: int) -> int:
    """Measure what is missing; the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        runner.run(results, list(scenarios), processes, partial(print, flush=True))
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def quick(processes: int) -> int:
    """Measure the quick scenario afresh and print its signs; 1 if one of them is the other way round."""
    with tempfile.TemporaryDirectory() as folder:
        status = run(Path(folder), [QUICK], processes)
        if status:
            return status
        found = list(signs(Measurements(Path(folder), template().gauntlet)))
    for figure in found:
        print(report.line(figure))
    return 0 if all(figure.holds for figure in found) else 1


def sizes(results: Path, scenarios: Sequence[Scenario], costs: Sequence[Scenario], processes: int, page: Path) -> int:
    """Measure what is missing of the sizes, then, alone on the machine, what judging costs; write the page."""
    status = run(results, scenarios, processes)
    if status:
        return status
    for scenario in costs:
        print(scenario.name, cost.cost_of(results, scenario), flush=True)
    page.write_text(size_report.page(results, scenarios, costs), encoding="utf-8")
    print(page)
    return 0


def rule_of(settings: Iterable[str]) -> GauntletSpec:
    """The study's rule with some fields, `name=value` in JSON, set otherwise.

    Raises:
        ValueError: there is no such field, or it cannot have the value.
    """
    changed = {name: json.loads(value) for name, _, value in (setting.partition("=") for setting in settings)}
    return GauntletSpec.model_validate({**template().gauntlet.model_dump(), **changed})


def main() -> int:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gauntlet", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="measure what is missing, going on where it was stopped")
    runs.add_argument("--only", action="append", choices=sorted(BY_NAME), help="this scenario alone")
    quicks = commands.add_parser("quick", help="measure the signs afresh; fails where one is the other way round")
    whole = commands.add_parser("sizes", help=f"measure what is missing of the sizes, and write {SIZES_PAGE.name}")
    for command in (runs, quicks, whole):
        command.add_argument("--processes", type=int, default=2)
    judges = commands.add_parser("judge", help="print the figures of a rule over what has been measured")
    judges.add_argument(
        "--set", action="append", default=[], metavar="NAME=JSON", help="such as rating='\"openskill\"'"
    )
    reports = commands.add_parser("report", help=f"write {PAGE.name}: the default rule beside the others")
    for command in (runs, judges, reports, whole):
        command.add_argument("--results", type=Path, default=RESULTS, help="the folder of the pieces")
    options = parser.parse_args()
    if options.command == "run":
        return run(
            options.results, [BY_NAME[name] for name in options.only or map(_name, SCENARIOS)], options.processes
        )
    if options.command == "quick":
        return quick(options.processes)
    if options.command == "sizes":
        costs = [cost.scenario_of(scenario.preset) for scenario in SIZES]
        return sizes(options.results, SIZES, costs, options.processes, SIZES_PAGE)
    if options.command == "judge":
        return report.show(Measurements(options.results, rule_of(options.set)))
    PAGE.write_text(report.page(options.results), encoding="utf-8")
    print(PAGE)
    return 0


def _name(scenario: Scenario) -> str:
    return scenario.name


if __name__ == "__main__":
    sys.exit(main())
