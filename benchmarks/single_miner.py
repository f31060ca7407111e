"""Does training together pay? The default run against a single miner of the same rounds at its own best rate.

    python benchmarks/single_miner.py [--seeds 3] [--rounds 12] [--processes 2] [--csv benchmarks/single_miner.csv]

Three columns a seed, all held-out nat/byte after the same rounds, simulated bit for bit as the testnet runs them:
the preset's four miners at the preset's learning rate; one miner through the same protocol at each of five learning
rates; and, for scale, one worker at the same five rates that sends nothing and compresses nothing (plain AdamW on
the same windows). Exits with 1 if the four miners miss a target: 0.5 nat below the text's unigram entropy, 0.05 nat
below the best single miner.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from muster.lab.simulator import Simulator
from muster.node.data.build import build_corpus
from muster.node.data.dataset import TextReader
from muster.node.miner.engine import Job as Training
from muster.node.miner.inner import LocalEngine
from muster.node.replica import Replica
from muster.node.replica.genesis import genesis_parameters
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.rules.assignment import assigned
from muster.protocol.rules.sampling import sample
from muster.protocol.spec import RunSpec, Template, load_template
from muster.testnet.roster import Roster
from muster.validator.gauntlet.validator import HELDOUT_BEACON

MINERS = 4
RATES = (2e-3, 4e-3, 8e-3, 16e-3, 32e-3)
"""Peak inner learning rates of the single miner: factors of two around the preset's 4e-3, wide enough to turn."""

BELOW_UNIGRAM = 0.5
BELOW_SINGLE = 0.05


@dataclass(frozen=True)
class Job:
    """One run: `kind` is "together", "single" or "dense"."""

    kind: str
    seed: int
    rate: float
    rounds: int
    text: Path


def with_rate(template: Template, rate: float) -> Template:
    """The template at another peak rate; the final rate keeps its share of it."""
    inner = template.inner
    final = inner.final_lr * rate / inner.lr
    return template.model_copy(update={"inner": inner.model_copy(update={"lr": rate, "final_lr": final})})


def play(job: Job) -> float:
    """Held-out loss at the end of one job."""
    torch.set_num_threads(1)
    template = with_rate(load_template("tiny"), job.rate)
    manifest = build_corpus(None, job.text / f"{job.kind}-{job.seed}-{job.rate}", template.data.window)
    text = TextReader.open(job.text / f"{job.kind}-{job.seed}-{job.rate}", manifest.digest)
    roster = Roster.of(job.seed, MINERS if job.kind == "together" else 1, 1, {})
    spec = roster.spec(template, manifest)
    if job.kind == "dense":
        return dense(spec, text, job.rounds)
    return asyncio.run(Simulator(roster, spec, text).run(job.rounds)).losses[-1]


def dense(spec: RunSpec, text: TextReader, rounds: int) -> float:
    """One worker, no protocol: the inner loop simply goes on, on the windows its miner would have had."""
    chain = ChainGenesis(seed=spec.genesis.seed)
    engine, theta = LocalEngine(spec.model, spec.inner), genesis_parameters(spec.model, spec.genesis.seed)
    count = spec.inner.steps * spec.inner.batch
    for round_ in range(rounds):
        windows = assigned(chain.beacon("assign", round_), 1, spec.data, count)
        replica = Replica(spec.model, spec.run_id(), theta, round_)
        delta = engine.run(
            replica, Training(round_, round_ * spec.inner.steps, spec.inner, text.windows(windows))
        ).tensors
        theta = [before - step for before, step in zip(theta, delta, strict=True)]
    heldout = sample(HELDOUT_BEACON, b"heldout", spec.data.heldout, spec.gauntlet.heldout_windows)
    return Replica(spec.model, spec.run_id(), theta, rounds).loss(text.heldout(heldout))


def main() -> int:
    """Run all jobs, print the table, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--csv", type=Path, default=None)
    options = parser.parse_args()
    preset = load_template("tiny")
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder)
        unigram = build_corpus(None, text / "measure", preset.data.window).unigram
        jobs = [
            Job(kind, seed, rate, options.rounds, text)
            for seed in range(options.seeds)
            for kind, rates in (("together", (preset.inner.lr,)), ("single", RATES), ("dense", RATES))
            for rate in rates
        ]
        with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
            losses = dict(zip(jobs, pool.map(play, jobs), strict=True))
    if options.csv:
        with options.csv.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["kind", "seed", "lr", "rounds", "heldout_loss"])
            rows.writerows([j.kind, j.seed, j.rate, j.rounds, f"{loss:.6f}"] for j, loss in losses.items())
    return report(losses, unigram, options.seeds)


def report(losses: dict[Job, float], unigram: float, seeds: int) -> int:
    """Print and judge; the exit status."""
    print(f"unigram entropy of the held-out text: {unigram:.4f} nat/byte")
    print(
        f"{'seed':>4}  {'4 miners':>9}  {'1 miner':>9} (best lr)  {'1 dense':>9} (best lr)  below unigram  below single"
    )
    missed = 0
    for seed in range(seeds):
        best = {
            kind: min((loss, j.rate) for j, loss in losses.items() if j.kind == kind and j.seed == seed)
            for kind in ("together", "single", "dense")
        }
        (together, _), (single, single_lr), (plain, plain_lr) = best["together"], best["single"], best["dense"]
        missed += unigram - together < BELOW_UNIGRAM or single - together < BELOW_SINGLE
        print(
            f"{seed:>4}  {together:>9.4f}  {single:>9.4f} ({single_lr:>7g})  {plain:>9.4f} ({plain_lr:>7g})"
            f"  {unigram - together:>13.4f}  {single - together:>12.4f}"
        )
    print(f"targets: {BELOW_UNIGRAM} below unigram, {BELOW_SINGLE} below the best single miner")
    print("met on every seed" if not missed else f"MISSED on {missed} of {seeds} seeds")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
