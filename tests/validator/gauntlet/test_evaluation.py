"""An evaluation blames a submission for what the submission did, and for nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from muster.kernels import SparseUpdate
from muster.protocol.incentive.score import Evaluated, Failed, NotEvaluated
from muster.validator.gauntlet.evaluation import (
    LOSS_NOT_FINITE,
    NO_ASSIGNED_WINDOWS,
    Candidate,
    LossPair,
    Measured,
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
    """A replica whose θ is one number, with loss (θ − token)² averaged over the windows' first tokens."""

    theta: float = 0.0
    calls: list[tuple[float, int]] = field(default_factory=list)

    def loss(self, windows: torch.Tensor) -> float:
        tokens = [int(token) for token in windows[:, 0]]
        self.calls.append((self.theta, len(tokens)))
        if POISON in tokens and self.theta != 0:
            return math.inf
        return sum((self.theta - token) ** 2 for token in tokens) / len(tokens)

    @contextmanager
    def perturbed(self, update: SparseUpdate, scale: float) -> Iterator[None]:
        saved = self.theta
        self.theta -= scale * cast(Step, update).delta
        try:
            yield
        finally:
            self.theta = saved


def windows(*tokens: int) -> torch.Tensor:
    return torch.tensor(tokens, dtype=torch.int64).reshape(-1, 1).expand(-1, 3)


def candidate(hotkey: str, delta: float, *tokens: int) -> Candidate:
    return Candidate(hotkey, cast(SparseUpdate, Step(delta)), windows(*tokens))


def test_four_losses_of_each_candidate() -> None:
    """θ = 0 moves to 0.5 (half of Δ = −1): towards windows at 4, away from windows at −2."""
    found = evaluate(Parabola(), [candidate("a", -1.0, 4, 4), candidate("b", -1.0, -2)], windows(2, 4), 0.5)
    other = LossPair(10.0, 7.25)
    assert found == {
        "a": Measured(LossPair(16.0, 12.25), other),
        "b": Measured(LossPair(4.0, 6.25), other),
    }
    assert cast(Measured, found["a"]).outcome() == Evaluated(3.75, 2.75)
    assert cast(Measured, found["b"]).outcome() == Evaluated(-2.25, 2.75)


def test_the_loss_before_on_unassigned_data_is_computed_once() -> None:
    replica = Parabola()
    evaluate(replica, [candidate("a", -1.0, 4), candidate("b", -2.0, 4)], windows(1, 2, 3), 0.5)
    assert replica.calls == [(0.0, 3), (0.0, 1), (0.5, 1), (0.5, 3), (0.0, 1), (1.0, 1), (1.0, 3)]
    assert replica.theta == 0.0


@given(st.permutations(["a", "b", "c", "d"]), st.floats(0, 1))
def test_order_of_the_candidates_changes_nothing(order: list[str], scale: float) -> None:
    offered = {name: candidate(name, -0.3 * i, i, 2 * i) for i, name in enumerate("abcd")}
    straight = evaluate(Parabola(1 / 3), list(offered.values()), windows(1, 5), scale)
    shuffled = evaluate(Parabola(1 / 3), [offered[name] for name in order], windows(1, 5), scale)
    assert shuffled == straight
    assert list(shuffled) == order


def test_no_step_no_score() -> None:
    (found,) = evaluate(Parabola(0.7), [candidate("a", -1.0, 4)], windows(1), 0.0).values()
    assert cast(Measured, found).outcome() == Evaluated(0.0, 0.0)


@pytest.mark.parametrize(("own", "other"), [((POISON,), (1,)), ((1,), (POISON,)), ((POISON,), (POISON,))])
def test_a_step_that_breaks_the_loss_fails(own: tuple[int, ...], other: tuple[int, ...]) -> None:
    offered = [candidate("bad", -1.0, *own), candidate("still", 0.0, 1)]
    found = evaluate(Parabola(), offered, windows(*other), 0.5)
    assert found["bad"] == Failed(LOSS_NOT_FINITE)
    assert isinstance(found["still"], Measured)


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
