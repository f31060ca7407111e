"""What mining takes and costs: every figure follows from what it says it follows from, and nothing is made up."""

from __future__ import annotations

import json
import math

import pytest
from forked import Commands
from hypothesis import given
from hypothesis import strategies as st

from muster.cli.estimate import shown
from muster.doctor.needs import needs, step_operations
from muster.estimate.figures import GB, Figure, Prices, estimate_mining
from muster.estimate.machine import GIB, look_here, parse_machine
from muster.protocol.errors import UsageError
from muster.protocol.spec import load_template
from muster.protocol.types import Role

TINY = load_template("tiny")
PRICE = st.floats(0, 1e6)


def figures(
    machine: str = "step=1,memory=1", prices: Prices | None = None, block: float | None = None
) -> dict[str, Figure]:
    """The figures of `tiny` by name."""
    found = estimate_mining(TINY, parse_machine(machine, TINY), prices or Prices(), block)
    return {figure.name: figure for figure in found}


def value(found: dict[str, Figure], name: str) -> float:
    """A figure that is known."""
    number = found[name].value
    assert number is not None
    return number


def test_time_by_hand() -> None:
    found = figures("step=2,memory=1")
    assert TINY.inner.steps == 40
    assert value(found, "computing a round") == 80
    assert value(found, "round") == 80, "longer than the 24 s that two blocks last"
    assert value(found, "rounds a day") == 1080
    assert value(found, "computing a day") == pytest.approx(24)
    assert value(found, "the schedule in all") == pytest.approx(12 * 80 / 3600)
    assert value(figures("step=0.1,memory=1"), "round") == 24
    assert value(figures("step=0.1,memory=1", block=60), "round") == 120


def test_traffic_and_memory_are_the_doctors() -> None:
    found, needed = figures("step=2,memory=1"), needs(TINY, Role.MINER, local_bucket=False, text_bytes=0)
    assert value(found, "up a day, at most") == needed.up * 1080
    assert value(found, "down a round, at most") == needed.down
    assert value(found, "memory needed") == needed.plan.host
    assert value(found, "memory needed, at least") < needed.plan.host
    assert value(found, "memory there") == GIB
    assert not found["memory there"].source.startswith("too little")
    assert figures("step=2,memory=0.1")["memory there"].source.startswith("too little")


def test_a_machine_that_is_too_slow_earns_no_round() -> None:
    found = figures("step=1000")
    assert found["rounds a day"].value == 0
    assert "missed" in found["rounds a day"].source
    assert found["up a day, at most"].value == 0


def test_tflops() -> None:
    found = figures("tflops=0.001")
    assert value(found, "inner step") == pytest.approx(step_operations(TINY) / 1e9)
    assert "0.001 TFLOPS given" in found["inner step"].source


@given(PRICE, PRICE, PRICE, st.floats(0.01, 1e6), st.floats(0.5, 1000))
def test_break_even_pays_the_cost(hour: float, gigabyte: float, slot: float, emission: float, days: float) -> None:
    found = figures(prices=Prices(hour, gigabyte, slot, emission, days))
    sent = value(found, "up a day, at most") / GB
    cost = value(found, "cost a day")
    assert math.isclose(cost, 24 * hour + gigabyte * sent + slot / days, rel_tol=1e-9, abs_tol=1e-12)
    assert math.isclose(value(found, "break-even share") / 100 * emission, cost, rel_tol=1e-9, abs_tol=1e-12)


GIVEN = {"--price-per-hour": 2.0, "--price-per-gb": 0.1, "--slot-price": 1.0, "--emission": 100.0}


@given(st.sets(st.sampled_from(sorted(GIVEN)), max_size=3))
def test_what_is_not_given_is_asked_for_and_never_made_up(flags: set[str]) -> None:
    prices = Prices(*(GIVEN[flag] if flag in flags else None for flag in GIVEN))
    found = figures(prices=prices)["break-even share"]
    assert found.value is None
    assert [flag for flag in GIVEN if flag in found.source] == [flag for flag in GIVEN if flag not in flags]


def test_without_a_step_time_is_not_known_but_the_rest_is() -> None:
    found = figures("memory=1", Prices(per_hour=1, per_gb=1, slot=1, emission=1))
    unknown = {name for name, figure in found.items() if figure.value is None}
    assert {"round", "rounds a day", "up a day, at most", "break-even share"} < unknown
    assert "--machine step" in found["cost a day"].source
    assert value(found, "down a round, at most") > 0
    free = figures("memory=1", Prices(per_hour=1, per_gb=0, slot=0, emission=48))
    assert value(free, "break-even share") == 50


def test_every_figure_says_where_it_comes_from() -> None:
    assert all(figure.source for figure in figures().values())


@pytest.mark.parametrize(
    "text", ["", "there", "step=0", "step=x", "step=inf", "step=1,step=2", "step=1,tflops=1", "speed=1"]
)
def test_a_machine_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="machine"):
        parse_machine(text, TINY)


def test_this_machine_is_measured() -> None:
    machine = look_here(TINY)
    assert machine.step_seconds is not None
    assert 0 < machine.step_seconds < 60
    assert machine.step_source == "one step measured on this CPU"
    large = look_here(load_template("72b"))
    assert "estimated" in large.step_source


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (None, "B", "–"),
        (0, "B", "0 B"),
        (999, "B", "999 B"),
        (1_735_000_000, "B", "1.735 GB"),
        (12345, "h", "12,345 h"),
    ],
)
def test_figures_for_people(number: float | None, unit: str, text: str) -> None:
    assert shown(Figure("any", number, unit, "test")) == text


def test_the_command(muster_command: Commands) -> None:
    done = muster_command("estimate", "72b", "--machine", "step=40", "--json")
    assert done.returncode == 0, done.stderr
    told = {figure["name"]: figure["value"] for figure in json.loads(done.stdout)["figures"]}
    assert told["parameters"] == 72_747_327_488
    assert told["computing a round"] == 1200
