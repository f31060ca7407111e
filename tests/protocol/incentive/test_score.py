"""Standings follow the rule of docs/incentive.md, and a validator's own trouble costs nobody anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.incentive.own_data import Control, Errors
from muster.protocol.incentive.rating import Rating, rate
from muster.protocol.incentive.row import PeerState
from muster.protocol.incentive.score import (
    Absent,
    Evaluated,
    Failed,
    Finding,
    Judgement,
    NotEvaluated,
    Outcome,
    Screened,
    Sight,
    gate,
    judge,
    multiplier,
    sight,
)
from muster.protocol.reasons import CLONE, COPY, MIXTURE
from muster.protocol.spec import GauntletSpec

SPEC = GauntletSpec(
    heldout_windows=8,
    step_scale=0.2,
    rating_beta=7.0,
    rating_tau=0.1,
    seats=4,
    newcomer_share=0.1,
    lag=1,
    score_wait=1,
    mu_settled=0,
    mu_warmup=3,
)
"""With a gate that is absolute from the first round on, so that single rounds show it."""

GAUNTLET = SPEC.model_copy(
    update={
        "mu_rule": "sign",
        "rating": "ordinal",
        "tokens": False,
        "power": 2.0,
        "idle": "gauntlet",
        "mu_warmup": 10,
        "clone_ratio": 0.0,
        "copy_ratio": 0.0,
        "mixer_ratio": 0.0,
    }
)
"""As Gauntlet pays."""

FULL = 32
NO_CONTROL = Control()
EVEN = Errors(0.001, 0.001)


def seen(assigned: float, unassigned: float, control: Control = NO_CONTROL, errors: Errors = EVEN) -> Evaluated:
    return Evaluated(assigned, unassigned, control, errors)


GOOD = seen(0.02, 0.01)
"""Ten standard errors better on its own data."""

losses = st.floats(-10, 10)
outcome_values: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(seen, losses, losses, st.builds(Control, losses, losses)),
    st.builds(Screened, losses),
    st.builds(Failed, st.just("late")),
    st.just(Absent()),
    st.just(NotEvaluated()),
)
findings = st.builds(
    Finding,
    outcome_values,
    windows=st.integers(0, FULL),
    accepted=st.booleans(),
    clone=st.none() | st.floats(0, 64),
    copy=st.none() | st.floats(0, 64),
    first=st.booleans(),
)
rounds = st.lists(st.dictionaries(st.sampled_from("abcde"), findings, max_size=5), max_size=6)
specs = st.sampled_from([SPEC, GAUNTLET, SPEC.model_copy(update={"rating": "openskill"})])


def whole(outcome: Outcome) -> Finding:
    """An accepted submission that declares a whole round's work."""
    return Finding(outcome, windows=FULL, accepted=True)


def judged(
    states: Mapping[str, PeerState], outcomes: Mapping[str, Outcome | Finding], spec: GauntletSpec = SPEC
) -> dict[str, Judgement]:
    found = {name: one if isinstance(one, Finding) else whole(one) for name, one in outcomes.items()}
    return judge(states, found, spec, FULL)


def after(*outcomes: Outcome | Finding, start: PeerState | None = None, spec: GauntletSpec = SPEC) -> Judgement:
    """What is said of peer p after these rounds, alone in the run."""
    states = {"p": start or PeerState("p")}
    for outcome in outcomes:
        last = judged(states, {"p": outcome}, spec)["p"]
        states = {"p": last.state}
    return last


class TestTheRule:
    """Work is paid by its measured worth, once it is shown to be the peer's own."""

    def test_a_first_round(self) -> None:
        found = judged({}, {"b": seen(0.03, 0.01), "a": seen(0.01, 0.02), "c": seen(-0.01, -0.01)})
        assert list(found) == ["a", "b", "c"]
        assert [found[name].rank for name in "abc"] == [1, 2, 3]
        assert [found[name].ratio for name in "abc"] == [2.0, 1.0, -1.0], "beside the lower median of the positive"
        assert [found[name].own_data for name in "abc"] == [-1.0, 1.0, 0.0]
        state = found["b"].state
        assert (state.mu, state.tested, state.work, state.worked, state.evaluated) == (1.0, 1, 1.0, 1, 1)
        assert (state.positive, state.last_score) == (True, 0.01)
        assert found["b"].score == pytest.approx(1 / 3), "a third of the warm-up"
        assert found["a"].score == found["c"].score == 0.0

    def test_pay_opens_with_the_tested_rounds_and_then_stands(self) -> None:
        assert [after(*[GOOD] * n).score for n in (1, 2, 3, 9)] == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])

    def test_the_gate_is_a_ramp_of_the_smaller_average(self) -> None:
        state = PeerState("p", tested=9)
        assert [gate(replace(state, mu=mu), SPEC) for mu in (-1.0, 0.1, 0.175, 0.25, 1.0)] == pytest.approx(
            [0, 0, 0.5, 1, 1]
        )
        turned = after(*[GOOD] * 20, *[seen(0.01, 0.02)] * 4).state
        assert turned.mu == turned.mu_fast < turned.mu_slow, "who stops is seen to by the fast one"

    def test_declared_windows_are_paid_in_proportion(self) -> None:
        half = Finding(GOOD, windows=FULL // 2, accepted=True)
        assert after(*[GOOD] * 6, half).score == pytest.approx(0.5)

    def test_worth_is_the_mean_of_ratios_whatever_the_round_s_luck(self) -> None:
        states: dict[str, PeerState] = {}
        for round_ in range(12):
            scale = 0.01 * (1 + round_ % 3)  # rounds are worth more or less, to everybody
            found = judged(states, {"whole": seen(3 * scale, scale), "same": seen(3 * scale, scale)})
            states = {name: one.state for name, one in found.items()}
        assert found["whole"].score == found["same"].score == pytest.approx(1.0)

    def test_who_is_measured_to_first_order_is_rated_and_not_tested(self) -> None:
        found = judged({}, {"a": GOOD, "b": Screened(0.02)})
        assert found["b"].state.work == 2.0
        assert (found["b"].state.tested, found["b"].own_data, found["b"].factor) == (0, None, None)
        assert found["b"].state.evaluated == 1

    def test_without_a_positive_score_of_the_accepted_work_stands_still(self) -> None:
        before = after(GOOD, GOOD).state
        unseated = Finding(seen(0.02, 0.01), windows=FULL, accepted=False)
        assert after(unseated, start=before).state.work == before.work
        assert after(seen(0.02, -0.01), start=before).ratio is None

    def test_ratings_tie_where_work_is_equal_within_half_the_median(self) -> None:
        found = judged({}, {"a": seen(0.1, 0.010), "b": seen(0.1, 0.011), "c": seen(0.1, 0.030)})
        assert found["a"].state.rating == found["b"].state.rating
        assert found["c"].state.rating_mu > found["a"].state.rating_mu

    def test_pay_by_the_rating(self) -> None:
        spec = SPEC.model_copy(update={"rating": "openskill"})
        assert after(*[GOOD] * 5, spec=spec).score == pytest.approx(25.0), "alone it keeps the first rating"


class TestSight:
    """A test that sees nothing does not decide who is paid."""

    SPEC = SPEC.model_copy(update={"mu_settled": 20})

    def states(self, mu: float, tested: int = 5) -> dict[str, PeerState]:
        return {name: PeerState(name, mu=mu, tested=tested) for name in "abc"}

    @pytest.mark.parametrize(("mu", "seen"), [(-0.5, 0.25), (0.0, 0.25), (0.125, 0.5), (0.25, 1.0), (0.9, 1.0)])
    def test_it_is_the_median_mu_of_the_accepted_and_grows_with_the_rounds(self, mu: float, seen: float) -> None:
        assert sight(self.states(mu), "abc", self.SPEC).seen == seen
        assert sight(self.states(mu, tested=20), "abc", self.SPEC).seen == 1.0, "from then on the gate is absolute"

    def test_others_and_who_was_never_tested_have_no_part_in_it(self) -> None:
        states = self.states(0.25) | {"d": PeerState("d"), "e": PeerState("e", mu=-1.0, tested=5)}
        assert sight(states, "abcd", self.SPEC).seen == 1.0
        assert sight(states, "", self.SPEC).seen == 1.0, "where nobody was accepted it goes by all"
        assert sight({}, "", self.SPEC) == sight(states, "e", SPEC) == Sight(1.0, 0.25)

    @pytest.mark.parametrize(("mu", "full"), [(-0.5, 0.25), (0.3, 0.25), (0.5, 0.3), (1.0, 0.6)])
    def test_all_is_paid_from_a_part_of_the_median_on(self, mu: float, full: float) -> None:
        for spec in (self.SPEC, SPEC):
            assert sight(self.states(mu), "abc", spec).full == full
        assert gate(replace(self.states(mu)["a"], mu=full, tested=9), SPEC, Sight(1.0, full)) == 1.0
        assert gate(replace(self.states(mu)["a"], mu=(full + 0.1) / 2, tested=9), SPEC, Sight(1.0, full)) == (
            pytest.approx(0.5)
        )

    def test_without_sight_equal_work_is_paid_equally_and_no_work_is_not(self) -> None:
        found = judged({}, {"a": seen(0.01, 0.02), "b": seen(0.02, 0.02), "c": seen(0.0, 0.0)}, self.SPEC)
        assert found["a"].gate == found["b"].gate == pytest.approx(0.95 / 3)
        assert found["a"].score == found["b"].score > found["c"].score == 0.0


class TestWhoDoesNotDeliver:
    """No valid submission, no pay; nothing else is held against anybody."""

    def test_a_round_without_a_valid_submission_pays_nothing(self) -> None:
        start = after(*[GOOD] * 9).state
        assert after(Finding(Absent()), start=start).score == 0.0
        assert after(Finding(Failed("late")), start=start).score == 0.0
        assert after(Finding(NotEvaluated()), start=start).score == 0.0, "none is on record"
        assert after(Finding(Absent()), GOOD, start=start).score == pytest.approx(1.0), "and the next one pays again"

    def test_who_waits_in_the_reserve_is_paid_as_it_stands(self) -> None:
        start = after(*[GOOD] * 9)
        waiting = after(Finding(NotEvaluated(), windows=FULL), start=start.state)
        assert (waiting.state, waiting.score) == (start.state, start.score)

    def test_after_an_absence_only_measured_work_pays(self) -> None:
        start = after(*[GOOD] * 9).state
        assert after(Finding(Absent()), Finding(NotEvaluated(), windows=FULL), start=start).score == 0.0

    def test_failure_and_absence_leave_the_measurements_alone(self) -> None:
        state = PeerState("p", 0.5, 30.0, 4.0, 12, 0, 0, 0.01, True)
        assert after(Failed("late"), start=state).state == replace(state, failures=1)
        assert after(Absent(), start=state).state == replace(state, inactive=1)

    def test_who_never_submitted_has_no_standing(self) -> None:
        found = judged({}, {"a": Absent(), "b": NotEvaluated(), "c": Failed("late")})
        assert {name: one.state for name, one in found.items()} == {"c": PeerState("c", failures=1)}

    def test_a_peer_without_a_finding_keeps_its_standing(self) -> None:
        state = PeerState("q", failures=2, inactive=1)
        assert judged({"q": state}, {"p": GOOD})["q"].state is state


class TestOthersWork:
    """Updates that are taken for others' work fail, and are in nobody's median."""

    def test_a_clone_fails_unless_it_comes_first(self) -> None:
        clone = Finding(GOOD, FULL, True, clone=3.1, first=False)
        assert after(clone).outcome == Failed(CLONE)
        assert after(clone).state.mu == 1.0, "it is tested all the same, or it might never come first"
        assert after(replace(clone, first=True)).outcome == GOOD
        assert after(replace(clone, clone=3.0)).outcome == GOOD

    def test_a_copy_of_the_last_round_fails(self) -> None:
        assert after(Finding(GOOD, FULL, True, copy=4.1)).outcome == Failed(COPY)
        assert after(Finding(GOOD, FULL, True, copy=3.0)).outcome == GOOD

    def test_who_mixes_round_after_round_fails_and_can_come_back(self) -> None:
        mixed, own = Finding(GOOD, FULL, True, copy=3.5), Finding(GOOD, FULL, True, copy=1.0)
        last = after(own, *[mixed] * 4)
        assert last.outcome == GOOD
        last = after(*[mixed] * 3)
        assert (last.outcome, last.state.mixture, last.state.compared) == (Failed(MIXTURE), 3.5, 3)
        assert after(own, start=last.state).outcome == GOOD

    def test_who_does_it_twice_has_no_claim_to_a_seat_until_it_has_worked_again(self) -> None:
        copy, own = Finding(GOOD, FULL, True, copy=9.0), Finding(GOOD, FULL, True, copy=0.0)

        def then(*rounds: Finding | Outcome, start: PeerState | None = None) -> PeerState:
            return after(*rounds, start=start, spec=SPEC.model_copy(update={"mixer_ratio": 0.0})).state

        assert [then(*[copy] * n).copied for n in range(1, 6)] == [2, 4, 6, 8, 8]
        assert not then(copy).copier, "luck can bring one about"
        assert then(copy, copy).copier
        assert then(*[copy, own] * 3).copier, "every second round is too often"
        assert not then(*[copy, own, own] * 9).copier
        most = then(*[copy] * 9)
        assert [then(*[own] * n, start=most).copier for n in (5, 6)] == [True, False]
        assert then(Absent(), Failed("late"), start=most).copied == 8

    def test_what_it_scored_counts_for_nobody(self) -> None:
        found = judged({}, {"a": seen(0.02, 0.01), "b": Finding(seen(9.0, 9.0), FULL, True, copy=9.0)})
        assert found["a"].ratio == 1.0
        assert (found["b"].rank, found["b"].state.evaluated) == (None, 0)

    def test_limits_of_zero_look_at_nothing(self) -> None:
        worst = Finding(GOOD, FULL, True, clone=64.0, copy=64.0, first=False)
        assert after(worst, spec=GAUNTLET).outcome == GOOD


class TestGauntlet:
    """Its own rule, by fields of the spec."""

    def test_mu_approaches_one_at_the_spec_s_rate(self) -> None:
        assert after(*[GOOD] * 10, spec=GAUNTLET).state.mu == pytest.approx(1 - 0.95**10)
        assert after(GOOD, seen(0.01, 0.02), spec=GAUNTLET).state.mu == pytest.approx(0.95 * 0.05 - 0.05)

    def test_ratings_build_on_earlier_rounds_and_only_rank_the_measured(self) -> None:
        outcomes = {"a": seen(0, 2.0), "b": seen(0, 1.0), "c": Failed("late")}
        first = {name: one.state for name, one in judged({}, outcomes, GAUNTLET).items()}
        second = judged(first, {"a": seen(0, 1.0), "c": seen(0, 2.0), "b": NotEvaluated()}, GAUNTLET)
        expected = rate({"a": first["a"].rating, "c": Rating()}, {"a": 1.0, "c": 2.0}, 7.0, 0.1)
        assert second["a"].state.rating == expected["a"]
        assert second["c"].state.rating == expected["c"]
        assert second["b"].state == first["b"]

    def test_failures_cost_more_each_time_and_a_good_round_forgives(self) -> None:
        def left(*outcomes: Outcome) -> float:
            return multiplier(after(*outcomes, spec=GAUNTLET).state, GAUNTLET)

        bad = Failed("late")
        assert [left(*[bad] * n) for n in range(1, 5)] == [0.75, 0.5, 0.0, 0.0]
        assert left(bad, bad, bad, GOOD) == 1.0
        assert left(bad, NotEvaluated(), bad) == 0.5
        assert left(Absent(), Absent()) == 0.75**2
        assert left(bad, Absent(), bad) == 0.5 * 0.75
        assert left(Absent(), bad, Absent()) == 0.75 * 0.75**2

    def test_peer_score_is_the_product_of_its_parts(self) -> None:
        state = PeerState("p", mu=0.5, rating_mu=30.0, rating_sigma=4.0, evaluated=20, tested=20)
        assert after(NotEvaluated(), start=replace(state, failures=1, inactive=1), spec=GAUNTLET).score == (
            0.75 * 0.75 * 0.5 * 18.0
        )
        for change in ({"mu": -0.5, "tested": 3}, {"rating_mu": 10.0}, {"failures": 3}, {"mu": 0.09}):
            assert after(NotEvaluated(), start=replace(state, **change), spec=GAUNTLET).score == 0.0
        assert after(NotEvaluated(), start=replace(state, mu=0.09, tested=9), spec=GAUNTLET).score > 0

    def test_more_data_beats_the_baseline_and_a_copier_of_it(self) -> None:
        """Its expected order. A copy helps as much as the original, but not on the copier's own data."""
        states: dict[str, PeerState] = {}
        for i in range(40):
            luck = 0.001 * (-1) ** i
            outcomes = {
                "more": seen(0.06, 0.05),
                "base": seen(0.05, 0.04),
                "copy": seen(0.04 + luck, 0.04),
                "stale": seen(0.01, 0.01),
            }
            found = judged(states, outcomes, GAUNTLET)
            states = {name: one.state for name, one in found.items()}
        score = {name: one.score for name, one in found.items()}
        assert score["more"] > score["base"] > score["copy"] == score["stale"] == 0.0


@pytest.mark.parametrize(("assigned", "unassigned"), [(math.nan, 0.0), (0.0, math.inf), (-math.inf, 0.0)])
def test_loss_scores_must_be_finite(assigned: float, unassigned: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        seen(assigned, unassigned)
    with pytest.raises(ValueError, match="must be finite"):
        seen(0.0, 0.0, Control(assigned, unassigned))
    with pytest.raises(ValueError, match="must be finite"):
        Screened(assigned + unassigned)


def test_one_positive_loss_score_is_remembered() -> None:
    assert not after(seen(1.0, 0.0)).state.positive
    assert after(seen(0.0, 1e-9), seen(0.0, -1.0)).state.positive


@given(rounds, specs)
def test_laws_of_every_history(history: list[dict[str, Finding]], spec: GauntletSpec) -> None:
    states: dict[str, PeerState] = {}
    for found in history:
        before = dict(states)
        made = judge(states, found, spec, FULL)
        assert made == judge(before, dict(reversed(found.items())), spec, FULL)
        assert list(made) == sorted(made)
        assert set(before) <= set(made)
        states = {hotkey: one.state for hotkey, one in made.items()}
        for hotkey, one in made.items():
            assert one.state.hotkey == hotkey
            assert -1 <= one.state.mu <= 1
            assert -3 <= one.state.work <= 2
            assert 0 <= one.multiplier <= 1
            assert 0 <= one.gate <= 1
            assert 0 <= one.score < math.inf
            if spec is SPEC and not found.get(hotkey, Finding(NotEvaluated())).windows:
                assert one.score == 0.0


@given(st.floats(-1, 1), st.floats(0, 1), losses, losses)
def test_mu_stays_in_bounds_at_any_rate(mu: float, decay: float, assigned: float, unassigned: float) -> None:
    spec = GAUNTLET.model_copy(update={"mu_decay": decay})
    moved = after(seen(assigned, unassigned), start=PeerState("p", mu=mu), spec=spec).state.mu
    assert -1 <= moved <= 1
    if assigned > unassigned:
        assert moved >= mu - 2**-52
