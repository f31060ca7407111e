"""Plays the runs a plan asks for on several processes, keeps every finished one, and goes on where it was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import lru_cache
from pathlib import Path

import torch

from benchmarks.convergence.engine import play
from benchmarks.convergence.plan import Plan
from benchmarks.convergence.results import Results, Row
from benchmarks.convergence.setting import text_of
from benchmarks.convergence.variant import Model, Variant
from benchmarks.processes import pool_of, start
from muster.node.data.dataset import TextReader

Say = Callable[[str], None]


@lru_cache
def _text(model: Model, folder: Path) -> TextReader:
    return text_of(model, folder)


def _work(variant: Variant, folder: Path) -> Row:
    """One run, in a process of its own thread."""
    torch.set_num_threads(1)
    return Row.of(variant, play(variant, _text(variant.model, folder)))


class Runner:
    """Plays variants and reports how it goes."""

    def __init__(self, results: Results, folder: Path, processes: int, say: Say) -> None:
        """Text is in `folder`, which is made if need be; `say` is told a line after each run."""
        self._results = results
        self._folder = folder
        self._processes = processes
        self._say = say
        self._began = time.monotonic()
        self._played = 0

    def play(self, plan: Plan) -> None:
        """Stage by stage, whatever is not in the results yet.

        A KeyboardInterrupt ends it once the runs under way are over, and kept.
        """
        with pool_of(self._processes) as pool:
            for number, stage in enumerate(plan.stages, 1):
                self._stage(pool, stage(self._results), f"{plan.name} stage {number}/{len(plan.stages)}")

    def _stage(self, pool: ProcessPoolExecutor, variants: Sequence[Variant], title: str) -> None:
        missing = [variant for variant in variants if variant not in self._results]
        self._say(f"{title}: {len(variants)} runs, {len(variants) - len(missing)} are there already")
        if missing:
            start(pool)
        # Longest first, so that none is left alone at the end of a stage.
        waiting = sorted(missing, key=inner_work)
        running: set[Future[Row]] = set()
        try:
            while waiting or running:
                while waiting and len(running) < self._processes:
                    running.add(pool.submit(_work, waiting.pop(), self._folder))
                running = self._collect(running, variants, title)
        except KeyboardInterrupt:
            self._say("stopping: the runs under way are played to their end first")
            while running:
                running = self._collect(running, variants, title)
            raise

    def _collect(self, running: set[Future[Row]], variants: Sequence[Variant], title: str) -> set[Future[Row]]:
        """Wait for a run and keep it; what is still running."""
        finished, running = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            row = future.result()
            self._results.add(row)
            self._played += 1
            done = sum(variant in self._results for variant in variants)
            self._say(f"{title}: {done}/{len(variants)}  {self._pace(row)}  {row.final:.4f}  {row.variant.id}")
        return running

    def _pace(self, row: Row) -> str:
        per_hour = self._played / (time.monotonic() - self._began) * 3600
        total, model, optimizer = (row.seconds[part] for part in ("total", "model", "optimizer"))
        outside = 1 - (model + optimizer) / total
        return f"{per_hour:.0f} runs/h  {total:.1f} s, {1 - model / total:.0%} outside the model, {outside:.0%} ours"


def inner_work(variant: Variant) -> int:
    """About how much there is to compute, in windows: an inner step costs some more than those of its batch."""
    fixed = 3
    steps = variant.rounds * variant.steps
    if variant.method == "single":
        return steps * (fixed + variant.batch)
    if variant.method == "ddp":
        return steps * (fixed + variant.peers * variant.batch)
    return steps * variant.peers * (fixed + variant.batch)
