"""Inner training is AdamW from a copy of θ, and continues over restarts bit for bit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from node.genesis import genesis_parameters
from node.miner.inner import Diverged, InnerTrainer, learning_rate
from node.model import Llama
from protocol.errors import MusterError
from protocol.spec import InnerSpec, ModelSpec

MODEL = ModelSpec(
    vocab=64,
    hidden=16,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=8,
    ffn=24,
    context=16,
    rope_theta=10_000.0,
    norm_eps=1e-5,
    tied=True,
    init_std=0.1,
)
SETTINGS: dict[str, Any] = {
    "steps": 4,
    "batch": 2,
    "lr": 0.01,
    "final_lr": 0.001,
    "warmup": 2,
    "total": 20,
    "beta1": 0.9,
    "beta2": 0.95,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "clip": 1.0,
}
INNER = InnerSpec(**SETTINGS)


def inner_of(**changes: Any) -> InnerSpec:
    return InnerSpec(**{**SETTINGS, **changes})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def theta() -> list[torch.Tensor]:
    return genesis_parameters(MODEL, 0)


def windows_of(seed: int, count: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 16, (count, 9), generator=generator)


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# ---- learning rate


def test_warm_up_then_cosine_then_flat() -> None:
    spec = inner_of(lr=1.0, final_lr=0.5, warmup=4, total=12)
    rates = [learning_rate(spec, s) for s in range(14)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[8] == pytest.approx(0.75)
    assert rates[6] == pytest.approx(0.5 + 0.25 * (1 + math.sqrt(0.5)))
    assert rates[12:] == [0.5, 0.5]
    assert learning_rate(spec, 10**9) == 0.5


@given(st.integers(0, 50), st.integers(1, 60), st.integers(0, 200))
def test_rate_stays_in_range_and_falls_after_warm_up(warmup: int, total: int, step: int) -> None:
    spec = inner_of(warmup=warmup, total=total)
    rate, after = learning_rate(spec, step), learning_rate(spec, step + 1)
    rounding = 1e-15
    assert 0 < rate <= spec.lr + rounding
    if step < warmup - 1:
        assert after > rate
    else:
        assert spec.final_lr - rounding <= after <= rate + rounding


# ---- training


def plain_adamw(
    theta: list[torch.Tensor], windows: torch.Tensor, spec: InnerSpec
) -> tuple[list[torch.Tensor], list[float]]:
    """The textbook loop in fp64 bookkeeping, one tensor at a time."""
    weights = [t.clone() for t in theta]
    model = Llama.over(MODEL, weights).requires_grad_(True)
    moments = [(torch.zeros_like(t), torch.zeros_like(t)) for t in theta]
    losses = []
    for h in range(spec.steps):
        model.zero_grad()
        loss = model.loss(windows[h * spec.batch : (h + 1) * spec.batch])
        torch.autograd.backward(loss)
        losses.append(loss.item())
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = math.sqrt(sum(g.double().square().sum().item() for g in gradients))
        scale = min(1.0, spec.clip / (norm + 1e-6))
        rate = learning_rate(spec, h)
        with torch.no_grad():
            for p, gradient, (m, v) in zip(model.parameters(), gradients, moments, strict=True):
                g = gradient * scale
                if p.ndim > 1:
                    p.mul_(1 - rate * spec.weight_decay)
                m.mul_(spec.beta1).add_(g * (1 - spec.beta1))
                v.mul_(spec.beta2).add_(g * g * (1 - spec.beta2))
                unbiased = v / (1 - spec.beta2 ** (h + 1))
                p.sub_(rate / (1 - spec.beta1 ** (h + 1)) * m / (unbiased.sqrt() + spec.eps))
    return [t - p.detach() for t, p in zip(theta, model.parameters(), strict=True)], losses


@pytest.mark.parametrize("clip", [1.0, 0.05])
def test_delta_is_that_of_plain_adamw(theta: list[torch.Tensor], clip: float) -> None:
    spec = inner_of(clip=clip)
    expected, losses = plain_adamw(theta, windows_of(1), spec)
    result = InnerTrainer(MODEL, spec).train(theta, windows_of(1), 0)
    for ours, theirs in zip(result.delta, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-3)
    assert result.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert result.steps == spec.steps


def test_clip_zero_means_no_clipping(theta: list[torch.Tensor]) -> None:
    free = InnerTrainer(MODEL, inner_of(clip=0.0)).train(theta, windows_of(1), 0)
    loose = InnerTrainer(MODEL, inner_of(clip=1e9)).train(theta, windows_of(1), 0)
    assert same(free.delta, loose.delta)


def test_theta_is_untouched_and_training_learns(theta: list[torch.Tensor]) -> None:
    before = [t.clone() for t in theta]
    spec = inner_of(steps=30, total=60)
    windows = windows_of(1, 2).repeat(30, 1)
    losses: list[float] = []
    result = InnerTrainer(MODEL, spec).train(theta, windows, 0, on_step=lambda _, loss: losses.append(loss))
    assert same(theta, before)
    assert losses[-1] < 0.7 * losses[0]
    assert result.loss == pytest.approx(sum(losses) / 30)
    trained = Llama.over(MODEL, [t - d for t, d in zip(theta, result.delta, strict=True)])
    assert trained.loss(windows[:2]) < losses[-1]


def test_same_inputs_same_bits(theta: list[torch.Tensor]) -> None:
    one, other = (InnerTrainer(MODEL, INNER).train(theta, windows_of(1), 0) for _ in range(2))
    assert same(one.delta, other.delta)
    assert one.loss == other.loss


def test_each_round_starts_from_the_theta_it_is_given(theta: list[torch.Tensor]) -> None:
    trainer = InnerTrainer(MODEL, INNER)
    first = trainer.train(theta, windows_of(1), 0)
    trainer.load_state({})
    assert same(trainer.train(theta, windows_of(1), 0).delta, first.delta)


def test_a_restart_continues_bit_for_bit(theta: list[torch.Tensor]) -> None:
    lasting = InnerTrainer(MODEL, INNER)
    lasting.train(theta, windows_of(1), 0)
    saved = safetensors.torch.save(lasting.state())
    restarted = InnerTrainer(MODEL, INNER)
    restarted.load_state(safetensors.torch.load(saved))
    cold = InnerTrainer(MODEL, INNER)
    results = [t.train(theta, windows_of(2), INNER.steps) for t in (lasting, restarted, cold)]
    assert same(results[0].delta, results[1].delta)
    assert not same(results[0].delta, results[2].delta)
    assert safetensors.torch.save(lasting.state()) == safetensors.torch.save(restarted.state())


def test_state_is_a_copy(theta: list[torch.Tensor]) -> None:
    trainer = InnerTrainer(MODEL, INNER)
    assert trainer.state() == {}
    trainer.train(theta, windows_of(1), 0)
    state = trainer.state()
    kept = {key: value.clone() for key, value in state.items()}
    other = InnerTrainer(MODEL, INNER)
    other.load_state(state)
    for busy in (trainer, other):
        busy.train(theta, windows_of(2), 4)
    assert all(torch.equal(state[key], kept[key]) for key in kept)


def test_a_foreign_state_is_refused_whole(theta: list[torch.Tensor]) -> None:
    trainer = InnerTrainer(MODEL, INNER)
    trainer.train(theta, windows_of(1), 0)
    state = trainer.state()
    key = "model.norm.weight/exp_avg"
    without = {name: value for name, value in state.items() if name != key}
    for bad in (
        without,
        {**state, "more": torch.zeros(1)},
        {**state, key: torch.zeros(17)},
        {**state, key: state[key].double()},
    ):
        with pytest.raises(MusterError, match="cold moments"):
            trainer.load_state(bad)
        assert all(torch.equal(value, state[name]) for name, value in trainer.state().items())


def test_stop_ends_after_the_current_step(theta: list[torch.Tensor]) -> None:
    answers = iter([False, True])
    stopped = InnerTrainer(MODEL, INNER).train(theta, windows_of(1), 0, stop=lambda: next(answers))
    assert stopped.steps == 2
    prefix = InnerTrainer(MODEL, INNER).train(theta, windows_of(1)[:4], 0)
    assert prefix.steps == 2
    assert same(stopped.delta, prefix.delta)


def test_steps_are_reported_by_their_number_in_the_run(theta: list[torch.Tensor]) -> None:
    ticks = itertools.count(0.0, 2.5)
    seen: list[int] = []
    trainer = InnerTrainer(MODEL, INNER, clock=lambda: next(ticks))
    result = trainer.train(theta, windows_of(1), 40, on_step=lambda step, _: seen.append(step))
    assert seen == [40, 41, 42, 43]
    assert result.seconds == 2.5


def test_an_amended_spec_takes_effect(theta: list[torch.Tensor]) -> None:
    trainer = InnerTrainer(MODEL, INNER)
    trainer.inner = inner_of(steps=3, lr=0.02, weight_decay=0.0, beta1=0.8, beta2=0.9, eps=1e-6)
    amended = trainer.train(theta, windows_of(1), 0)
    born = InnerTrainer(MODEL, trainer.inner).train(theta, windows_of(1), 0)
    assert amended.steps == 3
    assert same(amended.delta, born.delta)


def test_a_gradient_that_is_not_finite_loses_the_round_only(theta: list[torch.Tensor]) -> None:
    trainer = InnerTrainer(MODEL, INNER)
    trainer.train(theta, windows_of(1), 0)
    state = trainer.state()
    broken = [t.clone() for t in theta]
    broken[0][0, 0] = math.inf
    with pytest.raises(Diverged, match="inner step 4 is not finite"):
        trainer.train(broken, torch.zeros_like(windows_of(1)), 4)
    assert all(torch.equal(value, state[name]) for name, value in trainer.state().items())
    assert trainer.train(theta, windows_of(2), 4).steps == 4


def test_wrong_inputs_are_refused(theta: list[torch.Tensor]) -> None:
    trainer = InnerTrainer(MODEL, INNER)
    with pytest.raises(ValueError, match="takes 2 windows"):
        trainer.train(theta, windows_of(1)[:1], 0)
    with pytest.raises(ValueError, match="shapes"):
        trainer.train(theta[:-1], windows_of(1), 0)
    with pytest.raises(ValueError, match="shapes"):
        trainer.train([t.unsqueeze(0) for t in theta], windows_of(1), 0)
