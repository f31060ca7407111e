"""One gradient scores everybody; who is measured exactly beside is drawn by lot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import MODEL, hash32, identity, layout, run_spec, theta, update

from muster.kernels import capped
from muster.node.replica import Replica
from muster.protocol.incentive.row import PeerState
from muster.validator.gauntlet import first_order as module
from muster.validator.gauntlet.evaluation import Candidate, Measured, evaluate
from muster.validator.gauntlet.first_order import along, drawn_exact, first_order

BEACON = bytes(range(32))
SPEC = run_spec().gauntlet
NAMES = [identity(name).hotkey for name in ("alice", "bob", "carol", "dave", "eve")]


def windows(count: int, first: int = 0) -> torch.Tensor:
    return ((torch.arange(count * (MODEL.context + 1)) + first) * 7 % MODEL.vocab).reshape(count, -1)


def candidates(count: int) -> list[Candidate]:
    draws = np.random.default_rng(3)
    return [
        Candidate(NAMES[i], update(i), draws.random(len(layout().shapes), np.float32), windows(3), accepted=True)
        for i in range(count)
    ]


def test_along_is_the_product_with_the_dense_update() -> None:
    draws = torch.Generator().manual_seed(1)
    gradient = [torch.randn(shape, generator=draws) for shape in layout().shapes]
    several = [replace(one, update=capped(one.update, [0.01] * len(gradient))) for one in candidates(3)]
    dense = [
        sum(
            float(weight) * float((g.double() * v.double()).sum())
            for weight, g, v in zip(one.weights, gradient, one.update.dense(), strict=True)
        )
        for one in several
    ]
    flat, updates, weights = (
        [g.reshape(-1) for g in gradient],
        [o.update for o in several],
        [o.weights for o in several],
    )
    assert along(flat, updates, weights) == pytest.approx(dense)
    assert len({round(product, 9) for product in dense}) == len(several)


def test_a_gradient_that_is_not_finite_makes_scores_that_are_none() -> None:
    gradient = [torch.full(shape, torch.inf).reshape(-1) for shape in layout().shapes]
    (one,) = candidates(1)
    (score,) = along(gradient, [one.update], [one.weights])
    assert not np.isfinite(score)


def test_many_are_scored_as_each_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = Replica(MODEL, hash32("run"), [tensor.clone() for tensor in theta()], 0)
    offered, common = candidates(5), windows(5, 3)
    together = first_order(replica, offered, common, 1e-3)
    assert first_order(replica, [], common, 1e-3) == {}
    monkeypatch.setattr(module, "_TOGETHER", 2 * offered[0].update.codec.count)
    assert first_order(replica, offered, common, 1e-3) == pytest.approx(together)
    assert list(together) == [one.hotkey for one in offered]


def test_of_small_steps_it_is_the_exact_score() -> None:
    replica = Replica(MODEL, hash32("run"), [tensor.clone() for tensor in theta()], 0)
    offered, scale = candidates(4), 1e-3
    exact = evaluate(replica, offered, windows(5, 3), scale)
    for hotkey, score in first_order(replica, offered, windows(5, 3), scale).items():
        found = exact[hotkey]
        assert isinstance(found, Measured)
        assert score == pytest.approx(found.unassigned.score, rel=0.05, abs=2e-7)


def test_newcomers_are_drawn_first_and_the_rest_by_lot() -> None:
    states = {name: PeerState(name, tested=9) for name in NAMES[:3]}
    states[NAMES[3]] = PeerState(NAMES[3], failures=1)
    one, two, all_ = (SPEC.model_copy(update={"exact_peers": count}) for count in (1, 2, 9))
    assert drawn_exact(BEACON, states, NAMES, one) == {NAMES[4]}, "and not who failed last"
    others = {drawn_exact(bytes([i]) * 32, states, NAMES[:4], two) for i in range(20)}
    assert len(others) > 1
    assert all(len(drawn) == 2 for drawn in others)
    assert drawn_exact(BEACON, states, NAMES, all_) == frozenset(NAMES)
