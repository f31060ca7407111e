"""bf16 on a CPU is chosen where it was faster when tried, and never for models that are too small to try."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from inner_world import MODEL

from muster.node.compute import Compute
from muster.node.miner import trial
from muster.node.miner.trial import settled

TRIED = Compute(autocast=None)


def clock_of(fp32: float, bf16: float) -> Callable[[], float]:
    """A clock for which a pass takes so long, the first of each kind a hundred times that."""

    def ticks() -> Iterator[float]:
        now = 0.0
        for n in itertools.count():
            for takes in (fp32, bf16):
                yield now
                now += takes * (100 if n == 0 else 1)
                yield now

    each = ticks()
    return lambda: next(each)


@pytest.fixture(autouse=True)
def every_model_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "WORTH_TRYING", 0)


@pytest.mark.parametrize(
    ("fp32", "bf16", "chosen", "said"),
    [
        (3.0, 2.0, True, "bf16 products: bf16 is 1.50× as fast"),
        (2.0, 3.0, False, "fp32 products: bf16 is 0.67× as fast"),
        (1.05, 1.0, False, "fp32 products: bf16 is 1.05× as fast"),
    ],
)
def test_the_faster_is_chosen_and_told(fp32: float, bf16: float, chosen: bool, said: str) -> None:
    compute, why = settled(TRIED, MODEL, clock_of(fp32, bf16))
    assert compute.autocast is chosen
    assert why == said


def test_what_is_decided_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "Passes", None)
    for autocast in (True, False):
        assert settled(Compute(autocast=autocast), MODEL) == (Compute(autocast=autocast), "")


def test_small_models_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(trial, "Passes", None)
    compute, why = settled(TRIED, MODEL)
    assert compute.autocast is False
    assert "too small" in why


def test_a_trial_draws_no_random_number_of_the_run() -> None:
    """What comes after it is what would have come without."""
    state = torch.get_rng_state()
    settled(TRIED, MODEL, clock_of(1, 1))
    assert torch.equal(torch.get_rng_state(), state)
