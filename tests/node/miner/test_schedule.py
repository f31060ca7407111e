"""Learning rates: a warm-up, then a cosine with an end or a root without one, which an amendment ends."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inner_world import inner_of
from pydantic import ValidationError

from muster.node.miner.schedule import learning_rate
from muster.protocol.spec import InnerSpec

ROUNDING = 1e-15


def endless(**changes: Any) -> InnerSpec:
    return inner_of(**{"schedule": "inverse_sqrt", "total": 0, **changes})


def test_warm_up_then_cosine_then_flat() -> None:
    spec = inner_of(lr=1.0, final_lr=0.5, warmup=4, total=12)
    rates = [learning_rate(spec, s) for s in range(14)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[8] == pytest.approx(0.75)
    assert rates[6] == pytest.approx(0.5 + 0.25 * (1 + math.sqrt(0.5)))
    assert rates[12:] == [0.5, 0.5]
    assert learning_rate(spec, 10**9) == 0.5


@given(st.integers(0, 50), st.integers(1, 60), st.integers(0, 200))
def test_a_cosine_stays_in_range_and_falls_after_warm_up(warmup: int, total: int, step: int) -> None:
    spec = inner_of(warmup=warmup, total=total)
    rate, after = learning_rate(spec, step), learning_rate(spec, step + 1)
    assert 0 < rate <= spec.lr + ROUNDING
    if step < warmup - 1:
        assert after > rate
    else:
        assert spec.final_lr - ROUNDING <= after <= rate + ROUNDING


def test_warm_up_then_root_then_a_line_to_the_end() -> None:
    spec = endless(lr=1.0, final_lr=0.125, warmup=4, steps=2, decay_from=8, decay_steps=4)
    rates = [learning_rate(spec, s) for s in range(30)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[15] == 0.5, "√(4 / 16)"
    begin = math.sqrt(4 / 17)
    assert rates[16] == pytest.approx(begin)
    assert rates[20] == pytest.approx((begin + 0.125) / 2), "half-way through 4 rounds of 2 steps"
    assert rates[24:] == [0.125] * 6


def test_without_an_amendment_it_never_ends() -> None:
    """It falls for ever, down to the final rate, however long the run."""
    spec = endless(lr=1.0, final_lr=0.0, warmup=100)
    assert learning_rate(spec, 10**12 - 1) == pytest.approx(1e-5)
    assert learning_rate(endless(lr=1.0, final_lr=0.1, warmup=100), 10**12) == 0.1


schedules = st.builds(
    endless,
    warmup=st.integers(1, 50),
    steps=st.integers(1, 40),
    decay_from=st.integers(0, 30),
    decay_steps=st.integers(1, 20),
)


@given(schedules, st.integers(0, 3000))
def test_a_root_falls_after_warm_up_and_makes_no_jump(spec: InnerSpec, step: int) -> None:
    rate, after = learning_rate(spec, step), learning_rate(spec, step + 1)
    if step < spec.warmup - 1:
        assert after > rate
        return
    assert spec.final_lr - ROUNDING <= after <= rate + ROUNDING
    steepest = max(1 / (step + 1), 1 / (spec.decay_steps * spec.steps))
    assert rate - after <= spec.lr * steepest + ROUNDING, "no more than the root or the line falls in a step"


@given(schedules, st.integers(1, 30), st.integers(1, 20))
def test_a_decay_ends_at_the_final_rate(spec: InnerSpec, begin: int, length: int) -> None:
    decaying = InnerSpec(**{**spec.model_dump(), "decay_from": begin, "decay_steps": length})
    end = max(spec.warmup, begin * spec.steps) + length * spec.steps
    assert learning_rate(decaying, end) == learning_rate(decaying, end + 10**6) == spec.final_lr


@given(schedules, st.integers(1, 30), st.integers(1, 20), st.integers(0, 3000))
def test_an_amendment_changes_nothing_before_the_decay(spec: InnerSpec, begin: int, length: int, step: int) -> None:
    """What was trained before is what it would have been; taken back, the run goes on as if it had not been."""
    plain = InnerSpec(**{**spec.model_dump(), "decay_from": 0})
    amended = InnerSpec(**{**spec.model_dump(), "decay_from": begin, "decay_steps": length})
    if step <= max(spec.warmup, begin * spec.steps):
        assert learning_rate(amended, step) == learning_rate(plain, step)
    else:
        assert learning_rate(amended, step) <= learning_rate(plain, step) + ROUNDING


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"total": 0}, "total, which must be above 0"),
        ({"decay_from": 3, "decay_steps": 2}, "decay_from is 0"),
        ({"schedule": "inverse_sqrt"}, "total must be 0"),
        ({"schedule": "inverse_sqrt", "total": 0, "warmup": 0}, "must be above 0"),
        ({"schedule": "inverse_sqrt", "total": 0, "decay_from": 3}, "takes decay_steps"),
    ],
)
def test_a_schedule_that_is_not_whole_is_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        inner_of(**wrong)
