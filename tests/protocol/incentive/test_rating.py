"""Ratings equal OpenSkill's published vectors and depend on nothing but the ranking."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.identity import hotkey_of
from muster.protocol.incentive.rating import Rating, rate

BETA, TAU = 7.0, 0.1
hotkeys = st.text("abcdefgh", min_size=1, max_size=3)
some_ratings = st.builds(Rating, st.floats(-50, 100), st.floats(0.5, 20))
some_scores = st.dictionaries(hotkeys, st.floats(-1e6, 1e6), min_size=1, max_size=8)


def test_openskill_vectors_of_five_fresh_players() -> None:
    rated = rate({}, {"a": 5, "b": 4, "c": 3, "d": 2, "e": 1}, BETA, TAU)
    expected = {
        "a": (27.2831231966, 8.3071164891),
        "b": (26.5696471977, 8.2755799392),
        "c": (25.6183458658, 8.2380469567),
        "d": (24.1913938679, 8.1956168947),
        "e": (21.3374898720, 8.1956168947),
    }
    assert list(rated) == list(expected)
    for hotkey, (mu, sigma) in expected.items():
        assert rated[hotkey].mu == pytest.approx(mu, abs=2**-30)
        assert rated[hotkey].sigma == pytest.approx(sigma, abs=2**-30)


@given(some_scores)
def test_ratings_are_multiples_of_their_unit(scores: dict[str, float]) -> None:
    for rating in rate({}, scores, BETA, TAU).values():
        if len(scores) > 1:
            assert (rating.mu * 2**30).is_integer()
            assert (rating.sigma * 2**30).is_integer()


def test_a_newcomer_has_ordinal_zero() -> None:
    assert Rating().ordinal == 0.0
    assert Rating(30.0, 4.0).ordinal == 18.0


def test_ties_share_one_rating() -> None:
    rated = rate({}, {"a": 0.0, "b": -0.0, "c": -1.0}, BETA, TAU)
    assert rated["a"] == rated["b"]
    assert rated["a"].mu > 25.0 > rated["c"].mu


@given(st.dictionaries(hotkeys, some_ratings), some_scores, st.randoms(use_true_random=False))
def test_mapping_order_changes_no_bit(ratings: dict[str, Rating], scores: dict[str, float], random: Random) -> None:
    shuffled = list(scores.items())
    random.shuffle(shuffled)
    backwards = dict(reversed(ratings.items()))
    assert rate(ratings, scores, BETA, TAU) == rate(backwards, dict(shuffled), BETA, TAU)
    assert list(rate(ratings, dict(shuffled), BETA, TAU)) == sorted(scores)


@given(some_scores)
def test_only_the_ranking_matters(scores: dict[str, float]) -> None:
    places = {score: place for place, score in enumerate(sorted(set(scores.values())))}
    ranked = {hotkey: float(places[score]) for hotkey, score in scores.items()}
    assert rate({}, scores, BETA, TAU) == rate({}, ranked, BETA, TAU)


@given(st.dictionaries(hotkeys, some_ratings), some_scores)
def test_inputs_are_left_alone_and_only_the_evaluated_are_rated(
    ratings: dict[str, Rating], scores: dict[str, float]
) -> None:
    before = dict(ratings)
    assert set(rate(ratings, scores, BETA, TAU)) == set(scores)
    assert ratings == before


def test_a_better_rank_never_gives_a_lower_rating_to_equals() -> None:
    ratings = {hotkey: Rating(30.0, 3.0) for hotkey in "abcd"}
    rated = rate(ratings, {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}, BETA, TAU)
    assert rated["a"].mu < rated["b"].mu < rated["c"].mu < rated["d"].mu


def test_one_player_or_none_changes_nothing() -> None:
    assert rate({"a": Rating(30.0, 2.0)}, {"a": 1.0}, BETA, TAU) == {"a": Rating(30.0, 2.0)}
    assert rate({}, {"a": 1.0}, BETA, TAU) == {"a": Rating()}
    assert rate({"a": Rating()}, {}, BETA, TAU) == {}


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(score: float) -> None:
    with pytest.raises(ValueError, match="the score of b is"):
        rate({}, {"a": 1.0, "b": score}, BETA, TAU)


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=6, unique=True))
def test_addresses_sort_as_their_public_bytes(publics: list[bytes]) -> None:
    assert sorted(map(hotkey_of, publics)) == [hotkey_of(public) for public in sorted(publics)]
