"""Pay is convex, sums to one, and fits the chain's integers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.incentive.pay import chain_weights, incentives
from muster.protocol.types import WEIGHT_MAX

amounts = st.floats(0, 1e6)
some_scores = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), amounts, max_size=10)
powers = st.floats(1, 4)


def test_shares_are_proportional_to_the_square() -> None:
    assert incentives({"a": 1.0, "b": 2.0, "c": 0.0}, 2.0) == {"a": 0.2, "b": 0.8, "c": 0.0}


def test_nobody_earns_when_nobody_scores() -> None:
    assert incentives({"b": 0.0, "a": 0.0}, 2.0) == {"a": 0.0, "b": 0.0}
    assert incentives({}, 2.0) == {}


def test_power_zero_still_pays_nothing_for_nothing() -> None:
    assert incentives({"a": 5.0, "b": 1.0, "c": 0.0}, 0.0) == {"a": 0.5, "b": 0.5, "c": 0.0}


def test_large_scores_do_not_overflow() -> None:
    assert incentives({"a": 1e300, "b": 1e300}, 2.0) == {"a": 0.5, "b": 0.5}


@given(some_scores, powers)
def test_shares_sum_to_one_or_are_all_zero(scores: dict[str, float], power: float) -> None:
    shares = incentives(scores, power)
    assert list(shares) == sorted(scores)
    assert all(0 <= share <= 1 for share in shares.values())
    expected = 1.0 if any(scores.values()) else 0.0
    assert math.fsum(shares.values()) == pytest.approx(expected, abs=1e-12)


@given(some_scores, powers)
def test_order_changes_no_bit(scores: dict[str, float], power: float) -> None:
    assert incentives(scores, power) == incentives(dict(reversed(scores.items())), power)


@given(some_scores, st.lists(amounts, min_size=2, max_size=5), powers)
def test_splitting_a_score_among_sybils_never_pays(others: dict[str, float], parts: list[float], power: float) -> None:
    honest = incentives({**others, "ME": math.fsum(parts)}, power)["ME"]
    sybils = {f"ME{i}": part for i, part in enumerate(parts)}
    split = incentives({**others, **sybils}, power)
    assert math.fsum(split[name] for name in sybils) <= honest + 1e-12


@given(st.integers(2, 50))
def test_n_equal_sybils_earn_an_nth_of_the_odds(n: int) -> None:
    """Against one rival of the same strength: ½ whole, 1/(n+1) split into n."""
    split = incentives({"rival": 1.0, **{f"ME{i}": 1.0 / n for i in range(n)}}, 2.0)
    assert 1.0 - split["rival"] == pytest.approx(1 / (n + 1))


@given(some_scores, powers)
def test_a_higher_score_never_earns_less(scores: dict[str, float], power: float) -> None:
    shares = incentives(scores, power)
    ranked = sorted(scores, key=lambda hotkey: scores[hotkey])
    assert [shares[hotkey] for hotkey in ranked] == sorted(shares.values())


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_scores_and_powers_must_be_finite_and_not_negative(bad: float) -> None:
    with pytest.raises(ValueError, match="the score of b is"):
        incentives({"a": 1.0, "b": bad}, 2.0)
    with pytest.raises(ValueError, match="incentive power"):
        incentives({"a": 1.0}, bad)


def test_weights_scale_the_largest_and_drop_zeros_and_the_deregistered() -> None:
    shares = {"a": 0.2, "b": 0.1, "c": 0.0, "tiny": 1e-9, "gone": 0.7}
    assert chain_weights(shares, {"a": 7, "b": 3, "c": 1, "tiny": 2, "new": 9}) == {3: 32768, 7: 65535}


def test_no_weights_without_shares() -> None:
    assert chain_weights({"a": 0.0}, {"a": 0}) == {}
    assert chain_weights({}, {}) == {}
    assert chain_weights({"a": 1.0}, {}) == {}


@given(some_scores)
def test_weights_are_in_range_and_keep_the_order(scores: dict[str, float]) -> None:
    shares = incentives(scores, 2.0)
    uids = {hotkey: uid for uid, hotkey in enumerate(sorted(scores, reverse=True))}
    weights = chain_weights(shares, uids)
    assert list(weights) == sorted(weights)
    assert all(1 <= weight <= WEIGHT_MAX for weight in weights.values())
    assert max(weights.values(), default=None) == (WEIGHT_MAX if any(shares.values()) else None)
    ranked = sorted(shares, key=lambda hotkey: shares[hotkey])
    ordered = [weights.get(uids[hotkey], 0) for hotkey in ranked]
    assert ordered == sorted(ordered)
