"""The benchmark of the gauntlet: `run` measures what is missing."""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial
from pathlib import Path

from benchmarks.gauntlet import runner
from benchmarks.gauntlet.scenarios import BY_NAME, SCENARIOS

RESULTS = Path(__file__).parents[1] / ".cache" / "gauntlet"
"""Where pieces are kept; git does not see them."""
_INTERRUPTED = 130
"""The exit status of a command that Ctrl-C ended."""


def run(results: Path, only: list[str], processes: int) -> int:
    """Measure what is missing; the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scenarios = [BY_NAME[name] for name in only] or list(SCENARIOS)
    try:
        runner.run(results, scenarios, processes, partial(print, flush=True))
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def main() -> int:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gauntlet", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="measure what is missing, going on where it was stopped")
    runs.add_argument("--results", type=Path, default=RESULTS, help="the folder of the pieces")
    runs.add_argument("--only", action="append", default=[], choices=sorted(BY_NAME), help="this scenario alone")
    runs.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    return run(options.results, options.only, options.processes)


if __name__ == "__main__":
    sys.exit(main())
