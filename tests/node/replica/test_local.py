"""Only the replica changes θ, and what it tries out it takes back to the bit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from blake3 import blake3
from builders import MODEL, SEED, hash32, layout, run_spec, theta, update
from torch.overrides import TorchFunctionMode

from muster.kernels import aggregate_
from muster.node.replica import EVAL_BATCH, Replica, genesis_root
from muster.protocol.ledger import roots
from muster.protocol.ledger.roots import possession, state_root
from muster.protocol.wire import Kind

RUN = hash32("run")


def replica() -> Replica:
    return Replica(MODEL, RUN, [tensor.clone() for tensor in theta()], 0)


def copied(held: Replica) -> list[torch.Tensor]:
    """θ as a working copy of its own."""
    copies = [torch.empty(shape) for shape in layout().shapes]
    held.copy_into(copies)
    return copies


def bits(held: Replica) -> bytes:
    return blake3(b"".join(tensor.numpy().tobytes() for tensor in copied(held))).digest()


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
    held.step(applied(Kind.ROUND), spec)
    aggregate_(expected, [update(1), update(2)], np.ones((2, len(expected)), np.float32), 0.5, spec.outer.rule)
    assert held.outer_step == 1
    assert held.root() == state_root(expected, layout(), RUN, 1) != before
    held.step(applied(Kind.ROUND), spec)
    aggregate_(expected, [update(1), update(2)], np.ones((2, len(expected)), np.float32), 0.25, spec.outer.rule)
    assert held.root() == state_root(expected, layout(), RUN, 2)


@pytest.mark.parametrize("kind", [Kind.NULL, Kind.CLOSE])
def test_other_records_change_nothing(kind: Kind) -> None:
    held = replica()
    before = held.root()
    held.step(applied(kind), run_spec())
    assert (held.root(), held.outer_step) == (before, 0)


ONES = np.ones((1, len(layout().shapes)), np.float32)


@pytest.mark.parametrize("scale", [0.2, 1.0, 1e30])
def test_a_perturbation_is_taken_back_to_the_bit(scale: float) -> None:
    held = replica()
    before = bits(held)
    with held.perturbed(update(), ONES[0], scale):
        assert bits(held) != before
    assert bits(held) == before


def test_a_perturbation_is_taken_back_when_the_evaluation_fails() -> None:
    held = replica()
    before = bits(held)
    with pytest.raises(RuntimeError, match="out of memory"), held.perturbed(update(), ONES[0], 0.2):
        raise RuntimeError("out of memory")
    assert bits(held) == before


def test_several_updates_move_it_by_their_weighted_sum() -> None:
    held, expected = replica(), copied(replica())
    weights = np.stack([ONES[0] * np.float32(0.25), ONES[0] * np.float32(0.75)])
    aggregate_(expected, [update(1), update(2)], weights, 0.2, "mean")
    with held.moved([update(1), update(2)], weights, 0.2):
        assert all(torch.equal(one, other) for one, other in zip(copied(held), expected, strict=True))


@pytest.mark.parametrize("count", [1, EVAL_BATCH, EVAL_BATCH + 3])
def test_loss_is_the_mean_over_windows_of_theta_as_it_is(count: int) -> None:
    held, text = replica(), windows(count)
    alone = [held.loss(text[i : i + 1]) for i in range(count)]
    assert held.loss(text) == pytest.approx(sum(alone) / count, abs=1e-6)
    assert held.losses(text).tolist() == pytest.approx(alone, abs=1e-6)
    assert held.losses(text).dtype == np.float64
    before = held.loss(text)
    with held.perturbed(update(), ONES[0], 1.0):
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
                assert held.possession(beacon, peer, 3) == possession(copied(held), layout(), beacon, peer, 3)
        held.step(applied(Kind.ROUND), run_spec())


class CopiesToTheCpu(TorchFunctionMode):
    """Tells how many entries each copy to the CPU has."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.cpu, torch.Tensor.numpy):
            self.sizes.append(args[0].numel())
        return func(*args, **(kwargs or {}))


def test_of_theta_on_a_gpu_only_the_chosen_tiles_would_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for is a copy to the CPU, of single tiles: so it is done with what is not in the host's memory."""
    held, tiles = replica(), layout().grid.tile_sizes
    in_memory = held.possession(hash32("beacon"), hash32("peer"), 3)
    held = replica()
    monkeypatch.setattr(roots, "_in_reach", torch.Tensor.detach)
    with CopiesToTheCpu() as copies:
        assert held.possession(hash32("beacon"), hash32("peer"), 3) == in_memory
    assert len(copies.sizes) == 2 * min(64, layout().grid.tiles)
    assert max(copies.sizes) <= max(tiles)


def test_a_step_is_undone_to_the_bit() -> None:
    held, spec = replica(), run_spec()
    seen = [(held.root(), bits(held))]
    logs = []
    for _ in range(3):
        logs.append(held.step(applied(Kind.ROUND), spec))
        seen.append((held.root(), bits(held)))
    assert len(set(seen)) == 4
    for outer_step in (2, 1, 0):
        undo = logs.pop()
        assert undo is not None
        held.undo(applied(Kind.ROUND), undo)
        assert (held.outer_step, held.root(), bits(held)) == (outer_step, *seen[outer_step])


def test_a_sibling_takes_the_place_of_a_record_that_is_undone() -> None:
    """Two records of one round: whoever applied the other one first ends with the same θ."""
    held, straight, spec = replica(), replica(), run_spec()
    sibling = applied(Kind.ROUND)
    sibling.updates = (update(3), update(2))
    undo = held.step(applied(Kind.ROUND), spec)
    assert undo is not None
    held.undo(applied(Kind.ROUND), undo)
    held.step(sibling, spec)
    straight.step(sibling, spec)
    assert (held.root(), held.outer_step) == (straight.root(), 1)


def test_the_log_of_another_record_is_refused() -> None:
    held, other = replica(), applied(Kind.ROUND)
    undo = held.step(applied(Kind.ROUND), run_spec())
    other.updates = (update(3), update(4))
    assert undo is not None
    with pytest.raises(ValueError, match="of other updates"):
        held.undo(other, undo)


def test_the_gradient_is_that_of_the_loss() -> None:
    """A small step against it lowers the loss by its squared length; θ keeps its bits."""
    held, text = replica(), windows(EVAL_BATCH + 3)
    before, gradient = bits(held), held.gradient(text)
    assert bits(held) == before
    squared, small = sum(float((part.double() ** 2).sum()) for part in gradient), 1e-3
    moved = [tensor - small * part for tensor, part in zip(copied(held), gradient, strict=True)]
    lower = Replica(MODEL, RUN, moved, 0).loss(text)
    assert (held.loss(text) - lower) / small == pytest.approx(squared, rel=0.05)
    assert [part.shape for part in gradient] == list(layout().shapes)


def test_a_delta_is_theta_less_the_parameters_with_one_rounding() -> None:
    held = replica()
    trained = [tensor * (1 + 2**-9) for tensor in copied(held)]
    for made, before, after in zip(held.delta(trained), theta(), trained, strict=True):
        assert torch.equal(made, (before.double() - after.double()).float())
    narrow = [tensor.bfloat16() for tensor in trained]
    for made, before, rounded in zip(held.delta(narrow), theta(), narrow, strict=True):
        assert made.dtype == torch.float32
        assert torch.equal(made, (before.double() - rounded.double()).float())


def test_a_working_copy_is_the_rounding_of_theta_and_nobody_elses_memory() -> None:
    held = replica()
    before, narrow = bits(held), [torch.empty(shape, dtype=torch.bfloat16) for shape in layout().shapes]
    held.copy_into(narrow)
    assert all(torch.equal(one, tensor.bfloat16()) for one, tensor in zip(narrow, theta(), strict=True))
    for copy in copied(held):
        copy.add_(1)
    assert bits(held) == before


@pytest.mark.parametrize("wrong", [lambda good: good[:-1], lambda good: [tensor.unsqueeze(0) for tensor in good]])
def test_parameters_of_another_model_are_refused(wrong: Callable[[list[torch.Tensor]], list[torch.Tensor]]) -> None:
    held = replica()
    for call in (held.copy_into, held.delta):
        with pytest.raises(ValueError, match="shapes of this model"):
            call(wrong(copied(held)))


def test_nobody_outside_has_a_whole_tensor() -> None:
    """The replica names none of its tensors, and no module outside its room asks for one."""
    assert not hasattr(Replica, "theta")
    root = Path(__file__).parents[3]
    rooms = [root / name for name in ("node", "validator", "muster", "protocol", "benchmarks")]
    sources = [path for room in rooms for path in room.rglob("*.py") if "node/replica" not in path.as_posix()]
    assert [path for path in sources if re.search(r"\breplica\._?theta\b", path.read_text())] == []
