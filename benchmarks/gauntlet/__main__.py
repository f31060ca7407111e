"""The benchmark of the gauntlet: `run` measures what is missing."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from benchmarks.gauntlet import pieces
from benchmarks.gauntlet.scenarios import BY_NAME
from benchmarks.gauntlet.world import World
from muster.lab.nano import compiled_loops

RESULTS = Path(__file__).parents[1] / ".cache" / "gauntlet"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["run"])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only", action="append", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    with compiled_loops():
        for only in options.only:
            name, _, seeds = only.partition(":")
            scenario = BY_NAME[name]
            for seed in map(int, seeds.split(",")) if seeds else scenario.seeds:
                if not pieces.is_there(options.results, scenario, seed):
                    began = time.monotonic()
                    pieces.write(options.results, scenario, seed, World(scenario, seed).play())
                    print(name, seed, f"{time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
