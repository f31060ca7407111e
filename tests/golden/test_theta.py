"""θ of known runs, to the bit: what no refactoring may change. `make_theta.py` plays them into theta.json."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

import make_theta

GOLDEN: dict[str, Any] = json.loads(make_theta.FILE.read_text())


@cache
def same_arithmetic() -> bool:
    """Whether this processor and this torch compute as those that the file was written on."""
    return make_theta.probe() == GOLDEN["probe"]


def needs_same_arithmetic() -> None:
    """Training is not bit-exact across processors; what trains can only be compared on one like the file's."""
    if not same_arithmetic():
        pytest.skip("this machine's float arithmetic is another than that of theta.json (see its probe)")


def test_nano_honest_and_with_churn() -> None:
    assert make_theta.play_nano() == GOLDEN["nano"]


@pytest.mark.slow
def test_the_first_round_of_the_default_run(tmp_path: Path) -> None:
    needs_same_arithmetic()
    stage = make_theta.default_stage(tmp_path, 0)
    if stage.spec.data.manifest != GOLDEN["text"]:
        pytest.skip("this Python's own sources are other ones than those of theta.json")
    assert make_theta.simulate(stage, 1) == GOLDEN["processes"]["0"][:1]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", make_theta.SEEDS)
def test_the_default_run(tmp_path: Path, seed: int) -> None:
    needs_same_arithmetic()
    stage = make_theta.default_stage(tmp_path, seed)
    if stage.spec.data.manifest != GOLDEN["text"]:
        pytest.skip("this Python's own sources are other ones than those of theta.json")
    assert make_theta.simulate(stage, make_theta.ROUNDS) == GOLDEN["processes"][str(seed)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tiny_with_churn() -> None:
    needs_same_arithmetic()
    assert make_theta.play_churn() == GOLDEN["churn"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(GOLDEN["adversaries"]))
def test_tiny_with_an_adversary(name: str) -> None:
    needs_same_arithmetic()
    assert make_theta.play_adversaries((name,)) == {name: GOLDEN["adversaries"][name]}
