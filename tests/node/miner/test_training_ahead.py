"""A miner's own weights in a run with a delay: where each piece of training begins, and what Δ is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest
import torch
from builders import MODEL, layout
from inner_world import inner_of
from torch import Tensor

from muster.node.miner.ahead import Ahead
from muster.node.miner.engine import Delta, Diverged, Job, OnStep, ThetaView
from muster.node.miner.state import Entry
from muster.node.replica import Replica

INNER = inner_of(steps=4, batch=2)
STEP = 2.0**-8
"""By which the engine below lowers every weight in each step: exact, so sums are."""


class Descending:
    """An engine that lowers every weight; it writes down what it began from and which steps it took."""

    def __init__(self) -> None:
        self.begun: list[list[Tensor]] = []
        self.steps: list[tuple[int, int]] = []
        self.broken = False

    def run(
        self,
        theta: ThetaView,
        job: Job,
        on_step: OnStep | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Delta:
        assert on_step is not None
        assert stop is not None
        weights = [torch.empty(shape) for shape in theta.layout.shapes]
        theta.copy_into(weights)
        self.begun.append([tensor.clone() for tensor in weights])
        if self.broken:
            raise Diverged("not finite")
        taken = 0
        while taken < job.steps:
            taken += 1
            for tensor in weights:
                tensor.sub_(STEP)
            if stop():
                break
        self.steps.append((job.first_step, taken))
        return Delta(tuple(theta.delta(weights)), taken, float(taken), 1.0)

    def state(self) -> Iterator[Entry]:
        return iter(())

    def load_state(self, entries: Iterable[Entry]) -> None:
        raise NotImplementedError


class Bench:
    """One miner's engine and weights, and θ as the test says it is."""

    def __init__(self) -> None:
        self.engine, self.ahead = Descending(), Ahead()

    def begin(self, height: float, round_: int, stops_after: int = 99) -> None:
        job, asked = job_of(round_), iter(range(1, 100))
        self.ahead.begin(
            self.engine, at(height), job, [round_], lambda _s, _l: None, lambda: next(asked) >= stops_after
        )

    def train(self, height: float, round_: int, windows: tuple[int, ...] = ()) -> Delta:
        job, found = job_of(round_), list(windows) or [round_]
        return self.ahead.train(self.engine, at(height), job, found, lambda _s, _l: None, lambda: False)

    def began(self, run: int) -> float:
        """What every weight was when a run of the engine began."""
        (height,) = {float(x) for tensor in self.engine.begun[run] for x in tensor.unique()}
        return height


def at(height: float) -> Replica:
    """A θ that is the same everywhere."""
    return Replica(MODEL, bytes(32), [torch.full(shape, height) for shape in layout().shapes], 0)


def job_of(round_: int) -> Job:
    return Job(round_, 4 * round_, INNER, torch.zeros(8, 5, dtype=torch.int64))


def moved(delta: Delta) -> float:
    """What Δ is, everywhere, in steps."""
    (value,) = {float(x) for tensor in delta.tensors for x in tensor.unique()}
    return value / STEP


def test_without_work_ahead_a_round_is_trained_from_theta() -> None:
    bench = Bench()
    assert moved(bench.train(1.0, 0)) == 4
    assert moved(bench.train(2.0, 1)) == 4
    assert [bench.began(0), bench.began(1)] == [1.0, 2.0]


def test_the_next_round_goes_on_where_the_last_one_ended_and_theta_is_mixed_in() -> None:
    bench = Bench()
    bench.train(1.0, 0)
    bench.begin(1.0, 1, stops_after=3)
    delta = bench.train(2.0, 1)
    assert bench.began(1) == 1.0 - 4 * STEP
    assert bench.began(2) == ((1.0 - 7 * STEP) + 2.0) / 2
    assert bench.engine.steps == [(0, 4), (4, 3), (7, 1)]
    assert (moved(delta), delta.steps, delta.seconds) == (4, 4, 2.0)
    assert delta.loss == (3 * 3.0 + 1 * 1.0) / 4
    bench.begin(2.0, 2)
    assert bench.began(3) == bench.began(2) - STEP


def test_where_all_of_it_is_done_nothing_is_trained_and_theta_is_mixed_in_for_what_follows() -> None:
    bench = Bench()
    bench.train(1.0, 0)
    bench.begin(1.0, 1)
    assert moved(bench.train(2.0, 1)) == 4
    bench.begin(2.0, 2)
    assert len(bench.engine.begun) == 3
    assert bench.began(2) == ((1.0 - 8 * STEP) + 2.0) / 2


def test_work_on_other_windows_than_were_foreseen_begins_anew() -> None:
    bench = Bench()
    bench.train(1.0, 0)
    bench.begin(1.0, 1)
    assert moved(bench.train(2.0, 1, windows=(7, 8))) == 4
    assert bench.began(2) == 2.0


def test_weights_of_an_older_round_are_not_gone_on_from() -> None:
    bench = Bench()
    bench.train(1.0, 0)
    bench.begin(3.0, 5)
    assert bench.began(1) == 3.0


def test_what_failed_is_forgotten() -> None:
    bench = Bench()
    bench.train(1.0, 0)
    bench.engine.broken = True
    with pytest.raises(Diverged):
        bench.begin(1.0, 1)
    bench.engine.broken = False
    assert moved(bench.train(2.0, 1)) == 4
    assert bench.began(-1) == 2.0


def test_what_the_engine_was_given_is_left_as_it_was() -> None:
    bench, held = Bench(), at(1.0)
    job = job_of(1)
    before = held.root()
    bench.ahead.begin(bench.engine, held, job, [1], lambda _s, _l: None, lambda: False)
    bench.ahead.train(bench.engine, held, replace(job), [1], lambda _s, _l: None, lambda: False)
    assert Replica(MODEL, bytes(32), held._theta, 0).root() == before
