"""The study's command: `run` plays a plan, `quick` judges the main effects, `report` writes the page."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks.convergence import engine
from benchmarks.convergence.effects import main_effects_of
from benchmarks.convergence.plan import PLANS, QUICK
from benchmarks.convergence.results import COLUMNS, Results, Row
from benchmarks.convergence.runner import Runner
from benchmarks.convergence.setting import text_of
from benchmarks.convergence.variant import Variant

HERE = Path(__file__).parent
RESULTS = "results.csv"
TEXT = HERE.parent / ".cache" / "convergence-text"
"""Where the text is written, once; git does not see it."""
DOCS = HERE.parent.parent / "docs"
PAGE = DOCS / "results.md"
PICTURES = DOCS / "img"
_INTERRUPTED = 130
"""The exit status of a command that Ctrl-C ended."""


def run(plan: str, processes: int, out: Path) -> int:
    """Play what is missing of a plan; the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    results = Results.open(out / RESULTS)
    try:
        Runner(results, TEXT, processes, partial(print, flush=True)).play(PLANS[plan])
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        results.close()
    return 0


def quick(processes: int) -> int:
    """Play the quick plan and print its main effects; 1 if one of them is the other way round."""
    with tempfile.TemporaryDirectory() as folder:
        status = run(QUICK.name, processes, Path(folder))
        if status:
            return status
        effects = main_effects_of(Results.read(Path(folder) / RESULTS))
    for effect in effects:
        print(effect.line())
    return 0 if all(effect.holds for effect in effects) else 1


def play(name: str) -> int:
    """Play one run again and print its row of the results."""
    torch.set_num_threads(1)
    variant = Variant.from_id(name)
    result = engine.play(variant, text_of(variant.model, TEXT))
    for column, cell in zip(COLUMNS, Row.of(variant, result).cells(), strict=True):
        print(f"{column}: {cell}")
    return 0


def report(out: Path) -> int:
    """Write docs/results.md and its pictures; 1 where runs of the plan are missing."""
    from benchmarks.convergence import paper, plots  # matplotlib is wanted for nothing else
    from benchmarks.convergence.findings import Answers

    try:
        answers = Answers(Results.read(out / RESULTS))
    except KeyError as error:
        print(f"the run {error.args[0].id} has not been played yet: make results", file=sys.stderr)
        return 1
    PAGE.write_text(paper.write(answers), encoding="utf-8")
    for path in (PAGE, *plots.draw_all(answers, PICTURES)):
        print(path)
    return 0


def main() -> int:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convergence", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="play a plan, going on where it was stopped")
    runs.add_argument("--plan", choices=sorted(PLANS), default="full")
    runs.add_argument("--processes", type=int, default=2)
    runs.add_argument("--out", type=Path, default=HERE, help=f"the folder of {RESULTS}")
    quicks = commands.add_parser("quick", help="play the main effects afresh; fails where one is the other way round")
    quicks.add_argument("--processes", type=int, default=2)
    reports = commands.add_parser("report", help="write docs/results.md and its pictures from the results")
    reports.add_argument("--out", type=Path, default=HERE, help=f"the folder of {RESULTS}")
    plays = commands.add_parser("play", help="play one run of the results again and print it")
    plays.add_argument("id")
    options = parser.parse_args()
    if options.command == "play":
        return play(options.id)
    if options.command == "quick":
        return quick(options.processes)
    if options.command == "report":
        return report(options.out)
    return run(options.plan, options.processes, options.out)


if __name__ == "__main__":
    sys.exit(main())
