"""An evaluation blames a submission for what the submission did, and for nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from muster.kernels import SparseUpdate
from muster.protocol.incentive.own_data import Control, Errors
from muster.protocol.incentive.score import Evaluated, Failed, NotEvaluated
from muster.protocol.reasons import LOSS_NOT_FINITE, NO_ASSIGNED_WINDOWS
from muster.validator.gauntlet.evaluation import (
    Candidate,
    Evaluation,
    Losses,
    LossPair,
    Measured,
    RoundEvaluation,
    Row,
    assigned_sample,
    evaluate,
    own_beacon,
)

BEACON = bytes(range(32))
POISON = 99
"""A token on which the loss is infinite wherever θ is not 0."""


@dataclass
class Step:
    """An update of the one-parameter model below."""

    delta: float


@dataclass
class Parabola:
    """A replica whose θ is one number, with loss (θ − token)² of a window's first token."""

    theta: float = 0.0
    calls: list[tuple[float, int]] = field(default_factory=list)

    def losses(self, windows: torch.Tensor) -> Losses:
        tokens = [int(token) for token in windows[:, 0]]
        self.calls.append((self.theta, len(tokens)))
        return np.array([math.inf if t == POISON and self.theta != 0 else (self.theta - t) ** 2 for t in tokens])

    @contextmanager
    def moved(self, updates: Sequence[SparseUpdate], weights: Row, scale: float) -> Iterator[None]:
        saved = self.theta
        self.theta -= scale * sum(
            float(w) * cast(Step, one).delta for one, w in zip(updates, weights[:, 0], strict=True)
        )
        try:
            yield
        finally:
            self.theta = saved


def windows(*tokens: int) -> torch.Tensor:
    return torch.tensor(tokens, dtype=torch.int64).reshape(-1, 1).expand(-1, 3)


def candidate(hotkey: str, delta: float, *tokens: int, weight: float = 1.0, accepted: bool = False) -> Candidate:
    weights = np.array([weight], np.float32)
    return Candidate(hotkey, cast(SparseUpdate, Step(delta)), weights, windows(*tokens), accepted)


def measured(found: Evaluation) -> Measured:
    assert isinstance(found, Measured)
    return found


def test_losses_of_each_candidate_and_their_errors() -> None:
    """θ = 0 moves to 0.5 (half of Δ = −1): towards windows at 4, away from windows at −2."""
    found = evaluate(Parabola(), [candidate("a", -1.0, 4, 6), candidate("b", -1.0, -2)], windows(2, 4), 0.5)
    other = LossPair(10.0, 7.25)
    assert found == {
        "a": Measured(LossPair(26.0, 21.25), other, Control(), Errors(1.0, 1.0), Errors(1.0, 1.0)),
        "b": Measured(LossPair(4.0, 6.25), other, Control(), Errors(0.0, 1.0), Errors(0.0, 1.0)),
    }
    assert measured(found["a"]).outcome() == Evaluated(4.75, 2.75, Control(), Errors(1.0, 1.0))


def test_an_update_is_measured_as_it_is_applied() -> None:
    (found,) = evaluate(Parabola(), [candidate("a", -2.0, 4, weight=0.5)], windows(2), 0.5).values()
    assert measured(found).assigned == LossPair(16.0, 12.25)


def test_the_control_of_a_few_is_the_mean_of_the_others() -> None:
    """a moves θ to 1, and b, who is all of its control, to 2."""
    offered = [candidate("a", -1.0, 4, 6, accepted=True), candidate("b", -2.0, 4, 6, accepted=True)]
    found = measured(evaluate(Parabola(), offered, windows(4, 10), 1.0)["a"])
    assert found.control == Control(assigned=16.0, unassigned=24.0)
    assert (found.assigned.score, found.unassigned.score) == (9.0, 13.0)
    assert found.spreads == Errors(2.0, 6.0)
    b = 13 / 24
    assert found.errors.assigned == pytest.approx(abs(2 - b * 4))
    assert found.errors.unassigned == pytest.approx(abs(6 - b * 12))
    assert found.columns()["control_unassigned"] == 24.0


def test_from_five_accepted_on_all_share_one_control() -> None:
    offered = [candidate(name, -1.0, 4, accepted=name != "e") for name in "abcdef"]
    found = evaluate(Parabola(), offered, windows(4), 1.0)
    assert {measured(one).control for one in found.values()} == {Control(7.0, 7.0)}


@pytest.mark.parametrize(("accepted", "forwards"), [(0, 3 * 6 + 1), (4, 5 * 6 + 1), (6, 4 * 6 + 2)])
def test_what_it_costs(accepted: int, forwards: int) -> None:
    replica = Parabola()
    offered = [candidate(name, -1.0, 4, accepted=i < accepted) for i, name in enumerate("abcdef")]
    evaluation = RoundEvaluation(replica, offered, offered[:accepted], windows(1, 2), 0.5)
    for _ in evaluation.pieces():
        assert replica.theta == 0.0, "each piece leaves θ as it was"
    assert evaluation.forwards == len(replica.calls) == forwards
    assert sum(theta == 0.0 for theta, _ in replica.calls) == 1 + 6, "what is the same for all is measured once"


@given(st.permutations(["a", "b", "c", "d"]), st.floats(0, 1))
def test_order_of_the_candidates_changes_nothing(order: list[str], scale: float) -> None:
    offered = {name: candidate(name, -0.3 * i, i, 2 * i) for i, name in enumerate("abcd")}
    straight = evaluate(Parabola(1 / 3), list(offered.values()), windows(1, 5), scale)
    shuffled = evaluate(Parabola(1 / 3), [offered[name] for name in order], windows(1, 5), scale)
    assert shuffled == straight
    assert list(shuffled) == order


def test_no_step_no_score() -> None:
    (found,) = evaluate(Parabola(0.7), [candidate("a", -1.0, 4)], windows(1), 0.0).values()
    assert measured(found).outcome() == Evaluated(0.0, 0.0, Control(), Errors(0.0, 0.0))


@pytest.mark.parametrize(("own", "other"), [((POISON,), (1,)), ((1,), (POISON,)), ((POISON,), (POISON,))])
def test_a_step_that_breaks_the_loss_fails(own: tuple[int, ...], other: tuple[int, ...]) -> None:
    offered = [candidate("bad", -1.0, *own), candidate("still", 0.0, 1)]
    found = evaluate(Parabola(), offered, windows(*other), 0.5)
    assert found["bad"] == Failed(LOSS_NOT_FINITE)
    assert isinstance(found["still"], Measured)


def test_a_control_that_breaks_the_loss_is_none() -> None:
    offered = [candidate("bad", -1.0, 1, accepted=True), candidate("good", -1.0, POISON)]
    replica = Parabola()
    found = evaluate(replica, [*offered[:1], candidate("good", 0.0, POISON)], windows(1), 0.5)
    assert measured(found["good"]).control == Control()


def test_a_loss_broken_before_the_step_is_nobody_s_fault() -> None:
    broken = Parabola(theta=1.0)
    offered = [candidate("a", -1.0, POISON), candidate("b", -1.0, 1)]
    assert evaluate(broken, offered, windows(POISON), 0.5) == {"a": NotEvaluated(), "b": NotEvaluated()}
    found = evaluate(broken, offered, windows(1), 0.5)
    assert found["a"] == NotEvaluated()
    assert isinstance(found["b"], Measured)


def test_who_declares_no_data_fails() -> None:
    assert evaluate(Parabola(), [candidate("a", -1.0)], windows(1), 0.5) == {"a": Failed(NO_ASSIGNED_WINDOWS)}


def test_there_must_be_unassigned_data() -> None:
    with pytest.raises(ValueError, match="at least one unassigned window"):
        evaluate(Parabola(), [], windows(), 0.5)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_losses_must_be_finite(loss: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        LossPair(loss, 1.0)
    with pytest.raises(ValueError, match="must be finite"):
        LossPair(1.0, loss)


def test_samples_are_pinned() -> None:
    declared = list(range(1000, 2000))
    assert assigned_sample(BEACON, bytes(32), declared, 4) == [1884, 1556, 1515, 1679]
    assert assigned_sample(BEACON, b"\1" * 32, declared, 4) == [1969, 1391, 1920, 1505]


def test_a_short_prefix_is_sampled_whole() -> None:
    assert assigned_sample(BEACON, bytes(32), [5, 3, 9], 4) == [5, 3, 9]
    assert assigned_sample(BEACON, bytes(32), [], 4) == []


@given(st.binary(min_size=32, max_size=32), st.lists(st.integers(0, 99), unique=True), st.integers(0, 30))
def test_assigned_samples_come_from_the_declared_prefix(public: bytes, declared: list[int], count: int) -> None:
    drawn = assigned_sample(BEACON, public, declared, count)
    assert len(set(drawn)) == len(drawn) == min(count, len(declared))
    assert set(drawn) <= set(declared)


def test_each_validator_draws_windows_of_its_own() -> None:
    declared, peer = list(range(1000)), bytes(32)
    drawn = {
        tuple(assigned_sample(own_beacon(BEACON, bytes([validator]) * 32), peer, declared, 4))
        for validator in range(20)
    }
    assert len(drawn) == 20
    assert own_beacon(BEACON, bytes(32)) == blake3(BEACON + bytes(32)).digest()
