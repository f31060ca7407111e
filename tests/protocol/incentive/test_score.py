"""Standings follow Gauntlet's rules, and a validator's own trouble costs nobody anything."""

from __future__ import annotations

import math
from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.incentive.rating import Rating, rate
from muster.protocol.incentive.row import PeerState
from muster.protocol.incentive.score import (
    Absent,
    Evaluated,
    Failed,
    NotEvaluated,
    Outcome,
    judge,
    multiplier,
    peer_score,
)
from muster.protocol.spec import GauntletSpec

SPEC = GauntletSpec(
    eval_windows=8,
    heldout_windows=8,
    step_scale=0.2,
    mu_decay=0.05,
    mu_floor=0.1,
    mu_warmup=10,
    rating_beta=7.0,
    rating_tau=0.1,
    seats=4,
    newcomer_share=0.1,
    power=2.0,
    lag=1,
    score_wait=1,
    loss_tolerance=1e-3,
)
GOOD = Evaluated(0.02, 0.01)

losses = st.floats(-10, 10)
outcome_values: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Evaluated, losses, losses),
    st.builds(Failed, st.just("late")),
    st.just(Absent()),
    st.just(NotEvaluated()),
)
rounds = st.lists(st.dictionaries(st.sampled_from("abcde"), outcome_values, max_size=5), max_size=6)


def after(*outcomes: Outcome, start: PeerState | None = None) -> PeerState:
    """The standing of peer p after these outcomes, alone in the run."""
    states = {"p": start or PeerState("p")}
    for outcome in outcomes:
        states = judge(states, {"p": outcome}, SPEC)
    return states["p"]


def test_a_measured_round() -> None:
    states = judge({}, {"b": Evaluated(0.3, 0.1), "a": Evaluated(0.1, 0.2), "c": Evaluated(-0.1, -0.1)}, SPEC)
    ratings = rate({}, {"a": 0.2, "b": 0.1, "c": -0.1}, 7.0, 0.1)
    assert list(states) == ["a", "b", "c"]
    assert states["a"] == PeerState("a", -0.05, *astuple(ratings["a"]), 1, 0, 0, 0.2, True)
    assert states["b"] == PeerState("b", 0.05, *astuple(ratings["b"]), 1, 0, 0, 0.1, True)
    assert states["c"] == PeerState("c", 0.0, *astuple(ratings["c"]), 1, 0, 0, -0.1, False)


def test_mu_approaches_one_at_the_spec_s_rate() -> None:
    assert after(*[GOOD] * 10).mu == pytest.approx(1 - 0.95**10)
    assert after(GOOD, Evaluated(0.01, 0.02)).mu == pytest.approx(0.95 * 0.05 - 0.05)


def test_ratings_build_on_earlier_rounds_and_only_rank_the_measured() -> None:
    first = judge({}, {"a": Evaluated(0, 2.0), "b": Evaluated(0, 1.0), "c": Failed("late")}, SPEC)
    second = judge(first, {"a": Evaluated(0, 1.0), "c": Evaluated(0, 2.0), "b": NotEvaluated()}, SPEC)
    expected = rate({"a": first["a"].rating, "c": Rating()}, {"a": 1.0, "c": 2.0}, 7.0, 0.1)
    assert second["a"].rating == expected["a"]
    assert second["c"].rating == expected["c"]
    assert second["b"] == first["b"]


def test_failures_cost_more_each_time_and_a_good_round_forgives() -> None:
    bad = Failed("late")
    assert [multiplier(after(*[bad] * n)) for n in range(5)] == [1.0, 0.75, 0.5, 0.0, 0.0]
    assert multiplier(after(bad, bad, bad, GOOD)) == 1.0
    assert multiplier(after(bad, NotEvaluated(), bad)) == 0.5


def test_absence_costs_a_quarter_a_round_and_does_not_end_a_streak_of_failures() -> None:
    assert multiplier(after(Absent(), Absent())) == 0.75**2
    assert multiplier(after(Absent(), GOOD)) == 1.0
    assert multiplier(after(Failed("late"), Absent(), Failed("late"))) == 0.5 * 0.75
    assert multiplier(after(Absent(), Failed("late"), Absent())) == 0.75 * 0.75**2


def test_failure_and_absence_leave_the_measurements_alone() -> None:
    state = PeerState("p", 0.5, 30.0, 4.0, 12, 0, 0, 0.01, True)
    assert after(Failed("late"), start=state) == replace(state, failures=1)
    assert after(Absent(), start=state) == replace(state, inactive=1)


def test_who_never_submitted_has_no_standing() -> None:
    assert judge({}, {"a": Absent(), "b": NotEvaluated(), "c": Failed("late")}, SPEC) == {
        "c": PeerState("c", failures=1)
    }


def test_a_peer_without_an_outcome_keeps_its_standing() -> None:
    state = PeerState("q", failures=2, inactive=1)
    assert judge({"q": state}, {"p": GOOD}, SPEC)["q"] is state


def test_one_positive_loss_score_is_remembered() -> None:
    assert not after(Evaluated(1.0, 0.0)).positive
    assert after(Evaluated(0.0, 1e-9), Evaluated(0.0, -1.0)).positive
    assert after(GOOD, Evaluated(0.0, -1.0)).last_score == -1.0


@pytest.mark.parametrize(("assigned", "unassigned"), [(math.nan, 0.0), (0.0, math.inf), (-math.inf, 0.0)])
def test_loss_scores_must_be_finite(assigned: float, unassigned: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        Evaluated(assigned, unassigned)


def test_peer_score_is_the_product_of_its_parts() -> None:
    state = PeerState("p", mu=0.5, rating_mu=30.0, rating_sigma=4.0, evaluated=20, failures=1, inactive=1)
    assert peer_score(state, SPEC) == 0.75 * 0.75 * 0.5 * 18.0
    assert peer_score(replace(state, mu=-0.5, evaluated=3), SPEC) == 0.0
    assert peer_score(replace(state, rating_mu=10.0, rating_sigma=4.0), SPEC) == 0.0
    assert peer_score(replace(state, failures=3), SPEC) == 0.0


def test_the_floor_of_mu_holds_after_the_warm_up() -> None:
    state = PeerState("p", mu=0.09, rating_mu=30.0, rating_sigma=4.0, evaluated=9)
    assert peer_score(state, SPEC) > 0
    assert peer_score(replace(state, evaluated=10), SPEC) == 0.0
    assert peer_score(replace(state, evaluated=10, mu=0.1), SPEC) > 0


def test_newcomers_score_nothing_yet() -> None:
    assert peer_score(PeerState("p", mu=1.0), SPEC) == 0.0


def test_more_data_beats_the_baseline_and_a_copier_of_it() -> None:
    """Gauntlet's expected order. A copy helps as much as the original, but not on the copier's own data."""
    states: dict[str, PeerState] = {}
    for i in range(40):
        luck = 0.001 * (-1) ** i
        states = judge(
            states,
            {
                "more": Evaluated(0.06, 0.05),
                "base": Evaluated(0.05, 0.04),
                "copy": Evaluated(0.04 + luck, 0.04),
                "stale": Evaluated(0.01, 0.01),
            },
            SPEC,
        )
    score = {hotkey: peer_score(state, SPEC) for hotkey, state in states.items()}
    assert score["more"] > score["base"] > score["copy"] == score["stale"] == 0.0


@given(rounds)
def test_laws_of_every_history(history: list[dict[str, Outcome]]) -> None:
    states: dict[str, PeerState] = {}
    for outcomes in history:
        before = dict(states)
        states = judge(states, outcomes, SPEC)
        assert states == judge(before, dict(reversed(outcomes.items())), SPEC)
        assert list(states) == sorted(states)
        assert set(before) <= set(states)
        for hotkey, state in states.items():
            assert state.hotkey == hotkey
            assert -1 <= state.mu <= 1
            assert 0 <= multiplier(state) <= 1
            assert 0 <= peer_score(state, SPEC) < math.inf


@given(st.floats(-1, 1), st.floats(0, 1), losses, losses)
def test_mu_stays_in_bounds_at_any_rate(mu: float, decay: float, assigned: float, unassigned: float) -> None:
    spec = SPEC.model_copy(update={"mu_decay": decay})
    moved = judge({"p": PeerState("p", mu=mu)}, {"p": Evaluated(assigned, unassigned)}, spec)["p"].mu
    assert -1 <= moved <= 1
    if assigned > unassigned:
        assert moved >= mu - 2**-52
