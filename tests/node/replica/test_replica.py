"""Only the replica changes θ, and what it tries out it takes back to the bit."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from blake3 import blake3
from builders import MODEL, SEED, hash32, layout, run_spec, theta, update

from muster.kernels import aggregate_
from muster.node.replica import EVAL_BATCH, Replica, genesis_root
from muster.protocol.ledger.roots import possession, state_root
from muster.protocol.wire import Kind

RUN = hash32("run")


def replica() -> Replica:
    return Replica(MODEL, RUN, [tensor.clone() for tensor in theta()], 0)


def bits(held: Replica) -> bytes:
    return blake3(b"".join(tensor.numpy().tobytes() for tensor in held.theta)).digest()


def applied(kind: Kind) -> Any:
    weights = np.ones((2, len(layout().shapes)), np.float32)
    return SimpleNamespace(record=SimpleNamespace(kind=kind), updates=(update(1), update(2)), weights=weights)


def windows(count: int) -> torch.Tensor:
    return (torch.arange(count * (MODEL.context + 1)) * 7 % MODEL.vocab).reshape(count, -1)


def test_genesis_is_what_the_spec_pins() -> None:
    spec = run_spec()
    held = Replica.genesis(spec, spec.run_id())
    assert genesis_root(spec.model, SEED).hex() == spec.genesis.root
    assert held.root() == state_root(theta(), layout(), spec.run_id(), 0)


def test_a_round_record_takes_the_outer_step_and_moves_the_root() -> None:
    held, expected = replica(), [tensor.clone() for tensor in theta()]
    spec, before = run_spec(outer={"alpha": ((0, 0.5), (1, 0.25))}), held.root()
    held.apply(applied(Kind.ROUND), spec)
    aggregate_(expected, [update(1), update(2)], np.ones((2, len(expected)), np.float32), 0.5, spec.outer.rule)
    assert held.outer_step == 1
    assert held.root() == state_root(expected, layout(), RUN, 1) != before
    held.apply(applied(Kind.ROUND), spec)
    aggregate_(expected, [update(1), update(2)], np.ones((2, len(expected)), np.float32), 0.25, spec.outer.rule)
    assert held.root() == state_root(expected, layout(), RUN, 2)


@pytest.mark.parametrize("kind", [Kind.NULL, Kind.CLOSE])
def test_other_records_change_nothing(kind: Kind) -> None:
    held = replica()
    before = held.root()
    held.apply(applied(kind), run_spec())
    assert (held.root(), held.outer_step) == (before, 0)


@pytest.mark.parametrize("scale", [0.2, 1.0, 1e30])
def test_a_perturbation_is_taken_back_to_the_bit(scale: float) -> None:
    held = replica()
    before = bits(held)
    with held.perturbed(update(), scale):
        assert bits(held) != before
    assert bits(held) == before


def test_a_perturbation_is_taken_back_when_the_evaluation_fails() -> None:
    held = replica()
    before = bits(held)
    with pytest.raises(RuntimeError, match="out of memory"), held.perturbed(update(), 0.2):
        raise RuntimeError("out of memory")
    assert bits(held) == before


@pytest.mark.parametrize("count", [1, EVAL_BATCH, EVAL_BATCH + 3])
def test_loss_is_the_mean_over_windows_of_theta_as_it_is(count: int) -> None:
    held, text = replica(), windows(count)
    alone = [held.loss(text[i : i + 1]) for i in range(count)]
    assert held.loss(text) == pytest.approx(sum(alone) / count, abs=1e-6)
    before = held.loss(text)
    with held.perturbed(update(), 1.0):
        assert held.loss(text) != before
    assert held.loss(text) == before


@pytest.mark.parametrize(
    "other",
    [
        lambda held: held.possession(hash32("other beacon"), hash32("peer"), 3),
        lambda held: held.possession(hash32("beacon"), hash32("other peer"), 3),
        lambda held: held.possession(hash32("beacon"), hash32("peer"), 4),
    ],
)
def test_possession_depends_on_beacon_peer_and_round(other: Callable[[Replica], bytes]) -> None:
    held = replica()
    assert held.possession(hash32("beacon"), hash32("peer"), 3) != other(held)


def test_possession_is_of_theta_as_it_is() -> None:
    """A beacon's tiles are kept for the next peer, and never for the next θ or another beacon."""
    held = replica()
    for _ in range(2):
        for beacon in (hash32("beacon"), hash32("other beacon"), hash32("beacon")):
            for peer in (hash32("peer"), hash32("other peer")):
                assert held.possession(beacon, peer, 3) == possession(held.theta, layout(), beacon, peer, 3)
        held.apply(applied(Kind.ROUND), run_spec())


def test_a_working_copy_is_theta_and_its_difference_is_rounded_once() -> None:
    held = replica()
    before, copy = bits(held), [torch.empty(shape, requires_grad=True) for shape in layout().shapes]
    held.copy_into(copy)
    assert all(torch.equal(one, other) for one, other in zip(copy, theta(), strict=True))
    with torch.no_grad():
        for tensor in copy:
            tensor.mul_(1 / 3)
    exact = [(one.double() - other.detach().double()).float() for one, other in zip(theta(), copy, strict=True)]
    delta = held.delta(copy)
    assert all(torch.equal(one, other) for one, other in zip(delta, exact, strict=True))
    assert not any(tensor.requires_grad for tensor in delta)
    assert bits(held) == before


def test_a_working_copy_of_another_model_is_refused() -> None:
    for wrong in ([torch.zeros(2)], [torch.zeros(shape).unsqueeze(0) for shape in layout().shapes]):
        for refused in (replica().copy_into, replica().delta):
            with pytest.raises(ValueError, match="shapes of this model's layout"):
                refused(wrong)
