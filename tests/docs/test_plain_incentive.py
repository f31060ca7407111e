"""Who has only the protocol page comes to the same standings, scores and shares as the library, to the bit."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import plain_incentive as plain
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
VECTORS = sorted((ROOT / "tests" / "vectors" / "incentive").glob("*.json"))
PEERS = "abcdef"
NAMES = ("outcome", "reason", "peer_score", "incentive", "mu", "gate", "work", "rating_mu", "rating_sigma")


def library() -> ModuleType:
    """The script that makes the vectors."""
    sys.path.append(str(ROOT / "docs"))
    try:
        return importlib.import_module("incentive_vectors")
    finally:
        sys.path.remove(str(ROOT / "docs"))


def plainly(gauntlet: dict[str, Any], full: int, rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What comes of each round by the page."""
    states: dict[str, dict[str, Any]] = {}
    found = []
    for findings in rounds:
        rows = plain.judge(states, findings, gauntlet, full)
        found.append(rows)
        states = {peer: {name: row[name] for name in plain.FRESH} for peer, row in rows.items()}
    return found


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_the_page_comes_to_the_vectors(path: Path) -> None:
    document = json.loads(path.read_text())
    given_, expect = document["given"], document["expect"]
    rounds = [given_[f"round_{i}"] for i in range(len(expect))]
    found = plainly(given_["gauntlet"], given_["full"], rounds)
    for i, rows in enumerate(found):
        assert rows == expect[f"after_{i}"], f"round {i}"


def test_both_rules_have_a_vector() -> None:
    assert {path.stem for path in VECTORS} == {"four-rounds", "as-gauntlet"}


gains = st.floats(-0.5, 0.5)
ratios = st.none() | st.floats(0.0, 8.0)
extras = {
    "windows": st.integers(0, 8),
    "accepted": st.booleans(),
    "clone": ratios,
    "copy": ratios,
    "first": st.booleans(),
}
pairs = st.lists(gains, min_size=2, max_size=2)
errors = st.lists(st.floats(0.0, 0.1), min_size=2, max_size=2)
findings = st.one_of(
    st.fixed_dictionaries(
        {"outcome": st.just("evaluated"), "assigned": gains, "unassigned": gains, "control": pairs, "errors": errors},
        optional=extras,
    ),
    st.fixed_dictionaries({"outcome": st.just("screened"), "unassigned": gains}, optional=extras),
    st.fixed_dictionaries({"outcome": st.just("failed"), "reason": st.just("key_missing")}),
    st.fixed_dictionaries({"outcome": st.just("absent")}),
    st.fixed_dictionaries({"outcome": st.just("not_evaluated")}, optional={"windows": st.integers(0, 8)}),
)
rules = st.fixed_dictionaries(
    {},
    optional={
        "mu_rule": st.sampled_from(["t", "sign"]),
        "rating": st.sampled_from(["mean", "openskill", "ordinal"]),
        "tokens": st.booleans(),
        "power": st.sampled_from([0.5, 1.0, 2.0]),
        "idle": st.sampled_from(["nothing", "gauntlet"]),
        "mu_warmup": st.integers(0, 4),
        "work_cold": st.integers(0, 4),
        "mu_part": st.sampled_from([0.0, 0.6, 1.0]),
        "clone_ratio": st.sampled_from([0.0, 3.0]),
    },
)


TINY = {"outcome": "evaluated", "control": [0.0, 0.0], "errors": [0.0, 0.0], "assigned": 0.0, "accepted": True}
"""A validator may publish a median by which nothing can be divided."""


@example(
    {}, [{"a": {**TINY, "unassigned": 5e-324}, "b": {**TINY, "unassigned": 0.5}, "c": {**TINY, "unassigned": -0.5}}]
)
@given(rules, st.lists(st.dictionaries(st.sampled_from(PEERS), findings, max_size=6), max_size=5))
def test_the_page_comes_to_what_the_library_comes_to(rule: dict[str, Any], rounds: list[dict[str, Any]]) -> None:
    made = library()
    gauntlet = made.section(rule)["gauntlet"]
    expect = made.judged(gauntlet, 8, rounds)
    found = plainly(gauntlet, 8, rounds)
    assert [{peer: [row[name] for name in NAMES] for peer, row in rows.items()} for rows in found] == [
        {peer: [row[name] for name in NAMES] for peer, row in rows.items()} for rows in expect
    ]
