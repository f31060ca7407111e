from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.errors import ConfigError, StorageError
from muster.protocol.faults import CRASH_STATUS, FAULT_POINTS, VARIABLE, Fault, Faults, parse_faults


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", ()),
        ("  ", ()),
        ("submit.before_key:crash", (Fault("submit.before_key", "crash"),)),
        ("seal.before_put:error*3", (Fault("seal.before_put", "error", times=3),)),
        ("train.step:crash@40", (Fault("train.step", "crash", first=40),)),
        (
            " record.before_put:error@2*5 , apply.before:crash ",
            (Fault("record.before_put", "error", first=2, times=5), Fault("apply.before", "crash")),
        ),
    ],
)
def test_parse(text: str, faults: tuple[Fault, ...]) -> None:
    assert parse_faults(text) == faults


@pytest.mark.parametrize(
    "text",
    [
        "train.step",
        "train.step:",
        ":crash",
        "train.step:explode",
        "train.step:error*0",
        "train.step:error*-1",
        "train.step:error*٣",
        "train.step:error*",
        "train.step:error*3@2",
        "train.step:error@0",
        "train.step:error,",
        "train.step:error*" + "9" * 5000,
    ],
)
def test_text_that_is_not_a_fault_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match=VARIABLE):
        parse_faults(text)


def test_an_unknown_point_is_a_config_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'submit\.sometime'.*submit\.before_put"):
        parse_faults("submit.sometime:crash")


PARTS = [
    "train.step",
    "apply.before",
    "apply",
    ":",
    "crash",
    "error",
    "@",
    "*",
    "0",
    "1",
    "12",
    ",",
    " ",
    "٣",
]


@given(st.lists(st.sampled_from(PARTS), max_size=9).map("".join))
def test_any_text_parses_or_is_a_config_error(text: str) -> None:
    try:
        faults = parse_faults(text)
    except ConfigError:
        return
    assert all(fault.point in FAULT_POINTS for fault in faults)


def test_without_a_script_nothing_happens() -> None:
    faults = Faults.from_environment({})
    for point in FAULT_POINTS * 3:
        faults.trip(point)


@given(first=st.integers(1, 5), times=st.integers(1, 5))
def test_an_error_is_raised_on_the_scripted_passes_only(first: int, times: int) -> None:
    faults = Faults.from_environment({VARIABLE: f"seal.before_put:error@{first}*{times}"})
    raised = []
    for number in range(1, 12):
        faults.trip("record.before_put")
        try:
            faults.trip("seal.before_put")
        except StorageError:
            raised.append(number)
    assert raised == list(range(first, first + times))


def test_a_crash_calls_the_exit_once() -> None:
    statuses: list[int] = []
    faults = Faults(parse_faults("train.step:crash@2"), crash=statuses.append)
    for _ in range(4):
        faults.trip("train.step")
    assert statuses == [CRASH_STATUS]


def test_two_faults_at_one_point_share_its_count() -> None:
    statuses: list[int] = []
    faults = Faults(parse_faults("apply.before:error,apply.before:crash@2"), crash=statuses.append)
    with pytest.raises(StorageError, match=r"apply\.before"):
        faults.trip("apply.before")
    assert statuses == []
    faults.trip("apply.before")
    assert statuses == [CRASH_STATUS]


def test_passing_a_point_nobody_registered_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="no such"):
        Faults().trip("no such")


def test_a_real_process_dies_at_once() -> None:
    program = (
        "import os; from muster.protocol.faults import Faults\n"
        "try:\n    Faults.from_environment(os.environ).trip('train.step')\nfinally:\n    print('cleaned up')"
    )
    environment = {**os.environ, VARIABLE: "train.step:crash"}
    dead = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (dead.returncode, dead.stdout) == (CRASH_STATUS, "")
    assert "scripted crash at train.step" in dead.stderr
