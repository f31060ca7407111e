"""A batch's gradient is the same however its passes are made: in parts, with activations made again, in halves."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from inner_world import MODEL, Trainer, inner_of, same, windows_of

from muster.node.compute import CPU, Compute
from muster.node.miner.engine import RoundLost
from muster.node.miner.optimizers import InnerOptimizer
from muster.node.miner.passes import Passes
from muster.node.models.llama import Llama

BATCH = 7
"""Windows of a batch that most parts do not divide."""


def model_of(theta: list[torch.Tensor]) -> Llama:
    return Llama.over(MODEL, [t.clone() for t in theta]).requires_grad_(True)


def gradient(model: Llama, compute: Compute) -> tuple[float, list[torch.Tensor]]:
    loss = Passes(model, compute).gradient(windows_of(3, BATCH))
    return loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("most", [1, 2, 3, 6, 7, 100])
def test_parts_add_up_to_the_mean_over_the_batch(theta: list[torch.Tensor], most: int) -> None:
    """Seven windows in twos are three and a half parts: each window still counts the same."""
    loss, whole = gradient(model_of(theta), CPU)
    parted_loss, parted = gradient(model_of(theta), replace(CPU, micro_batch=most))
    assert parted_loss == pytest.approx(loss, rel=1e-6)
    for ours, theirs in zip(parted, whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-4)
    assert same(parted, whole) is (most >= BATCH)


def test_activations_made_again_give_the_same_bits(theta: list[torch.Tensor]) -> None:
    loss, kept = gradient(model_of(theta), CPU)
    again_loss, again = gradient(model_of(theta), replace(CPU, recompute=True))
    assert again_loss == loss
    assert same(again, kept)


def test_making_them_again_keeps_less(theta: list[torch.Tensor]) -> None:
    def saved(compute: Compute) -> int:
        held: list[int] = []
        model = model_of(theta)
        Passes(model, compute)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t.numel()) or t, lambda t: t):
            model.loss(windows_of(3, BATCH))
        return sum(held)

    assert saved(replace(CPU, recompute=True)) < 0.5 * saved(CPU)


def test_an_evaluation_makes_nothing_again(theta: list[torch.Tensor]) -> None:
    model = model_of(theta)
    model.recompute = True
    with torch.no_grad():
        again = model.window_losses(windows_of(3))
    model.recompute = False
    assert torch.equal(again, model.window_losses(windows_of(3)).detach())


def test_bf16_products_are_near_those_of_fp32_and_not_the_same(theta: list[torch.Tensor]) -> None:
    loss, exact = gradient(model_of(theta), CPU)
    rough_loss, rough = gradient(model_of(theta), replace(CPU, autocast=True))
    assert rough_loss == pytest.approx(loss, rel=0.01)
    assert not same(rough, exact)
    assert all(t.dtype == torch.float32 for t in rough)
    assert sum(((a - b).norm() / b.norm()).item() for a, b in zip(rough, exact, strict=True)) / len(exact) < 0.05


# ---- a memory that is too small, planted


class Small(Llama):
    """Holds the passes of `holds` windows, or, with activations made again, of `holds_again`."""

    holds = 2
    holds_again = 2

    def loss(self, windows: torch.Tensor) -> torch.Tensor:
        """The loss, where the windows fit."""
        if len(windows) > (self.holds_again if self.recompute else self.holds):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().loss(windows)


@pytest.fixture
def small(theta: list[torch.Tensor]) -> Small:
    return Small.over(MODEL, [t.clone() for t in theta]).requires_grad_(True)


def test_what_does_not_fit_is_tried_in_halves_and_stays_so(
    small: Small, theta: list[torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    passes = Passes(small, CPU)
    with caplog.at_level(logging.WARNING):
        loss = passes.gradient(windows_of(3, BATCH)).item()
    assert [record.message for record in caplog.records] == [
        "CUDA out of memory: trains 4 windows at a time from here on",
        "CUDA out of memory: trains 2 windows at a time from here on",
    ]
    found = [p.grad for p in small.parameters() if p.grad is not None]
    parted_loss, parted = gradient(model_of(theta), replace(CPU, micro_batch=2))
    assert loss == parted_loss
    assert same(found, parted)
    caplog.clear()
    passes.gradient(windows_of(4, BATCH))
    assert not caplog.records


def test_then_activations_are_made_again(small: Small, caplog: pytest.LogCaptureFixture) -> None:
    small.holds, small.holds_again = 0, 1
    with caplog.at_level(logging.WARNING):
        Passes(small, CPU).gradient(windows_of(3, 2))
    assert caplog.records[-1].message.endswith("makes activations again in the backward pass from here on")


def test_what_fits_in_no_way_loses_the_round_in_a_sentence(small: Small) -> None:
    small.holds = small.holds_again = 0
    with pytest.raises(RoundLost, match=r"does not hold training this model \(CUDA out of memory\): set moments"):
        Passes(small, CPU).gradient(windows_of(3, 2))


def test_a_gpu_that_is_full_beside_the_passes_loses_the_round_too(
    theta: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moments are first allocated after a pass."""

    def step(*_of: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    trainer = Trainer(MODEL, inner_of())
    monkeypatch.setattr(InnerOptimizer, "step", step)
    with pytest.raises(RoundLost, match=r"\(CUDA out of memory\): set moments to 8bit"):
        trainer.train(theta, windows_of(1), 0)


def test_an_engine_trains_in_parts(theta: list[torch.Tensor]) -> None:
    inner = inner_of(batch=4, steps=2)
    whole = Trainer(MODEL, inner).train(theta, windows_of(1), 0)
    parted = Trainer(MODEL, inner, compute=replace(CPU, micro_batch=1, recompute=True)).train(theta, windows_of(1), 0)
    assert parted.loss == pytest.approx(whole.loss, rel=1e-6)
    for ours, theirs in zip(parted.tensors, whole.tensors, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of itself
def test_a_compiled_engine_trains_the_same(theta: list[torch.Tensor]) -> None:
    inner = inner_of()
    plain = Trainer(MODEL, inner).train(theta, windows_of(1), 0)
    compiled = Trainer(MODEL, inner, compute=replace(CPU, compiled=True)).train(theta, windows_of(1), 0)
    assert compiled.loss == pytest.approx(plain.loss, rel=1e-5)
