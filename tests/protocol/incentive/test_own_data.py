"""The own-data test sees whose data an update was made from, and takes off what any update of the round gains."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.incentive.averages import averaged, gain
from muster.protocol.incentive.own_data import Control, Errors, control_factor, sign, statistic

numbers = st.floats(-10, 10)
errors = st.builds(Errors, st.floats(0, 10), st.floats(0, 10))
controls = st.builds(Control, numbers, numbers)


def test_t_over_its_limit() -> None:
    """(0.05 − 0.5·0.03) − (0.02 − 0.5·0.04) = 0.035; √(0.03² + 0.04²) = 0.05; t = 0.7."""
    found = statistic(0.05, 0.02, Control(0.03, 0.04), Errors(0.03, 0.04))
    assert found == pytest.approx(0.7 / 3)


def test_an_update_that_gains_what_any_gains_shows_nothing() -> None:
    assert statistic(0.03, 0.02, Control(0.03, 0.02), Errors(0.001, 0.001)) == 0.0


@pytest.mark.parametrize(
    ("unassigned", "control", "factor"),
    [(0.02, 0.04, 0.5), (0.2, 0.04, 3.0), (-0.02, 0.04, 0.0), (0.02, 0.0, 0.0), (0.02, -0.04, 0.0)],
)
def test_how_many_times_the_control_it_is(unassigned: float, control: float, factor: float) -> None:
    assert control_factor(unassigned, Control(1.0, control)) == pytest.approx(factor)


def test_without_errors_there_is_nothing_to_measure_by() -> None:
    assert statistic(1.0, 0.0, Control(), Errors(0.0, 0.0)) == 0.0


@given(numbers, numbers, controls, errors)
def test_it_is_bounded_and_scales_do_not_change_it(
    assigned: float, unassigned: float, control: Control, error: Errors
) -> None:
    found = statistic(assigned, unassigned, control, error)
    assert -1 <= found <= 1
    twice = statistic(
        2 * assigned,
        2 * unassigned,
        Control(2 * control.assigned, 2 * control.unassigned),
        Errors(2 * error.assigned, 2 * error.unassigned),
    )
    assert twice == pytest.approx(found, abs=1e-9)


def test_gauntlet_s_is_the_sign() -> None:
    assert [sign(2, 1), sign(1, 1), sign(1, 2)] == [1.0, 0.0, -1.0]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=200), st.sampled_from([0.05, 0.2, 1.0]))
def test_an_average_is_the_exponential_one_over_its_weights(values: list[float], decay: float) -> None:
    raw = weight = average = 0.0
    for count, value in enumerate(values, 1):
        raw, weight = (1 - decay) * raw + decay * value, (1 - decay) * weight + decay
        average = averaged(average, value, decay, count)
        assert average == pytest.approx(raw / weight, abs=1e-12)


def test_the_first_value_is_the_average_and_later_ones_move_it_by_the_rate() -> None:
    assert gain(0.05, 1) == 1.0
    assert gain(0.05, 2) == pytest.approx(0.05 / (1 - 0.95**2))
    assert gain(0.05, 10**9) == pytest.approx(0.05)
    assert gain(0.0, 4) == pytest.approx(1 / 4), "without a rate it is the plain mean"
    assert math.isfinite(gain(1.0, 3))


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=100), st.sampled_from([0.05, 0.2]), st.integers(0, 12))
def test_the_first_values_of_a_cold_one_count_by_their_number_cubed(
    values: list[float], decay: float, cold: int
) -> None:
    average = 0.0
    for count, value in enumerate(values, 1):
        average = averaged(average, value, decay, count, cold)
    weights = [
        min(1.0, (i / cold) ** 3 if cold else 1.0) * (1 - decay) ** (len(values) - i) for i in range(1, len(values) + 1)
    ]
    mean = math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)
    assert average == pytest.approx(mean, abs=1e-12)
    assert gain(decay, 10**9, cold) == pytest.approx(decay)
