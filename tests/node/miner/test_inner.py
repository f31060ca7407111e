"""Inner training is AdamW, or Muon, from a copy of θ, and continues over restarts bit for bit."""

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

from muster.node.miner.inner import Diverged, InnerTrainer, learning_rate
from muster.node.models.llama import Llama
from muster.node.replica import Replica
from muster.node.replica.genesis import genesis_parameters
from muster.protocol.errors import ConfigError, MusterError
from muster.protocol.spec import InnerSpec, ModelSpec

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


def inner_of(**changes: Any) -> InnerSpec:
    return InnerSpec(**{**SETTINGS, **changes})


def changed(inner: InnerSpec, **changes: Any) -> InnerSpec:
    return InnerSpec(**{**inner.model_dump(), **changes})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


MUON = pytest.param(
    "muon", marks=pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="Muon needs torch 2.9 or later")
)


@pytest.fixture(params=["adamw", MUON])
def optimizer(request: pytest.FixtureRequest) -> str:
    """Every optimizer a run may name: what is true of one is true of all."""
    name: str = request.param
    return name


@pytest.fixture
def inner(optimizer: str) -> InnerSpec:
    return inner_of(optimizer=optimizer)


@pytest.fixture
def theta() -> list[torch.Tensor]:
    return genesis_parameters(MODEL, 0)


def windows_of(seed: int, count: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 16, (count, 9), generator=generator)


def held(theta: list[torch.Tensor], model: ModelSpec = MODEL) -> Replica:
    """What training begins from."""
    return Replica(model, bytes(32), theta, 0)


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


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Five Newton–Schulz steps in fp64 with the coefficients of Jordan et al., always on the wide side."""
    x = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().T
    x = x / x.norm()
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x if x.shape == matrix.shape else x.T


def plain(
    theta: list[torch.Tensor], windows: torch.Tensor, spec: InnerSpec, shape: ModelSpec = MODEL
) -> tuple[list[torch.Tensor], list[float], list[torch.Tensor]]:
    """Δ, losses and first moments of the textbook loops, one tensor at a time."""
    weights = [t.clone() for t in theta]
    model = Llama.over(shape, weights).requires_grad_(True)
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
            for (name, p), gradient, (m, v) in zip(model.named_parameters(), gradients, moments, strict=True):
                g = gradient * scale
                if p.ndim > 1:
                    p.mul_(1 - rate * spec.weight_decay)
                if spec.optimizer == "muon" and name.endswith("_proj.weight"):
                    m.mul_(0.95).add_(0.05 * g)
                    longer = math.sqrt(max(p.shape))
                    p.sub_(0.2 * longer * rate * orthogonal(0.05 * g + 0.95 * m))
                    continue
                m.mul_(spec.beta1).add_(g * (1 - spec.beta1))
                v.mul_(spec.beta2).add_(g * g * (1 - spec.beta2))
                unbiased = v / (1 - spec.beta2 ** (h + 1))
                p.sub_(rate / (1 - spec.beta1 ** (h + 1)) * m / (unbiased.sqrt() + spec.eps))
    return [t - p.detach() for t, p in zip(theta, model.parameters(), strict=True)], losses, [m for m, _ in moments]


def first_moments(trainer: InnerTrainer) -> list[torch.Tensor]:
    return [value for key, value in trainer.state().items() if key.endswith(("/exp_avg", "/momentum_buffer"))]


@pytest.mark.parametrize("clip", [1.0, 0.05])
def test_delta_is_that_of_plain_adamw(theta: list[torch.Tensor], clip: float) -> None:
    spec = inner_of(clip=clip)
    expected, losses, moments = plain(theta, windows_of(1), spec)
    trainer = InnerTrainer(MODEL, spec)
    result = trainer.train(held(theta), windows_of(1), 0)
    for ours, theirs in zip(result.delta, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-3)
    for ours, theirs in zip(first_moments(trainer), moments, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-3)
    assert result.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert result.steps == spec.steps


@pytest.mark.parametrize("optimizer", [MUON])
@pytest.mark.parametrize("tied", [True, False])
def test_delta_is_that_of_plain_muon(inner: InnerSpec, tied: bool) -> None:
    """To what bf16, in which torch orthogonalises, leaves of it: four steps instead of five are 20 % off."""
    model = MODEL.model_copy(update={"tied": tied})
    theta = genesis_parameters(model, 0)
    expected, losses, moments = plain(theta, windows_of(1), inner, model)
    trainer = InnerTrainer(model, inner)
    result = trainer.train(held(theta, model), windows_of(1), 0)
    for ours, theirs in zip(result.delta, expected, strict=True):
        assert (ours - theirs).norm() < 0.1 * theirs.norm()
    for ours, theirs in zip(first_moments(trainer), moments, strict=True):
        assert (ours - theirs).norm() < 0.05 * theirs.norm()
    assert result.loss == pytest.approx(sum(losses) / len(losses), rel=1e-3)


@pytest.mark.parametrize("optimizer", [MUON])
def test_a_step_of_muon_is_as_large_as_one_of_adamw(inner: InnerSpec, theta: list[torch.Tensor]) -> None:
    """Its root mean square is 0.2 of the rate, within the 30 % that five Newton–Schulz steps leave."""
    flat = inner.model_copy(update={"steps": 1, "warmup": 0, "lr": 0.001, "weight_decay": 0.0})
    result = InnerTrainer(MODEL, flat).train(held(theta), windows_of(1), 0)
    sizes = [delta.square().mean().sqrt().item() for delta in result.delta if delta.shape == (16, 16)]
    assert len(sizes) == 2 * MODEL.layers
    assert all(size == pytest.approx(0.2 * flat.lr, rel=0.3) for size in sizes)


def test_clip_zero_means_no_clipping(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    free = InnerTrainer(MODEL, changed(inner, clip=0.0)).train(held(theta), windows_of(1), 0)
    loose = InnerTrainer(MODEL, changed(inner, clip=1e9)).train(held(theta), windows_of(1), 0)
    assert same(free.delta, loose.delta)


def test_matrices_decay_and_gains_do_not(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    """By rate times decay of θ a step, whatever the optimizer adds to it."""
    specs = [changed(inner, steps=1, warmup=0, weight_decay=decay) for decay in (0.5, 0.0)]
    with_it, without = (InnerTrainer(MODEL, spec).train(held(theta), windows_of(1), 0).delta for spec in specs)
    for before, one, other in zip(theta, with_it, without, strict=True):
        share = 0.5 * inner.lr if before.ndim > 1 else 0.0
        torch.testing.assert_close(one - other, share * before, atol=1e-6, rtol=1e-3)


def test_theta_is_untouched_and_training_learns(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    before = [t.clone() for t in theta]
    spec = changed(inner, steps=30, total=60)
    windows = windows_of(1, 2).repeat(30, 1)
    losses: list[float] = []
    result = InnerTrainer(MODEL, spec).train(held(theta), windows, 0, on_step=lambda _, loss: losses.append(loss))
    assert same(theta, before)
    assert losses[-1] < 0.7 * losses[0]
    assert result.loss == pytest.approx(sum(losses) / 30)
    trained = Llama.over(MODEL, [t - d for t, d in zip(theta, result.delta, strict=True)])
    assert trained.loss(windows[:2]) < losses[-1]


def test_same_inputs_same_bits(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    one, other = (InnerTrainer(MODEL, inner).train(held(theta), windows_of(1), 0) for _ in range(2))
    assert same(one.delta, other.delta)
    assert one.loss == other.loss


def test_each_round_starts_from_the_theta_it_is_given(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    trainer = InnerTrainer(MODEL, inner)
    first = trainer.train(held(theta), windows_of(1), 0)
    trainer.load_state({})
    assert same(trainer.train(held(theta), windows_of(1), 0).delta, first.delta)


def test_a_restart_continues_bit_for_bit(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    lasting = InnerTrainer(MODEL, inner)
    lasting.train(held(theta), windows_of(1), 0)
    saved = safetensors.torch.save(lasting.state())
    restarted = InnerTrainer(MODEL, inner)
    restarted.load_state(safetensors.torch.load(saved))
    cold = InnerTrainer(MODEL, inner)
    results = [t.train(held(theta), windows_of(2), inner.steps) for t in (lasting, restarted, cold)]
    assert same(results[0].delta, results[1].delta)
    assert not same(results[0].delta, results[2].delta)
    assert safetensors.torch.save(lasting.state()) == safetensors.torch.save(restarted.state())


def test_state_is_not_copied_to_be_saved_and_is_to_be_loaded(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    trainer = InnerTrainer(MODEL, inner)
    assert trainer.state() == {}
    trainer.train(held(theta), windows_of(1), 0)
    state = trainer.state()
    assert {k: v.data_ptr() for k, v in trainer.state().items()} == {k: v.data_ptr() for k, v in state.items()}
    kept = {key: value.clone() for key, value in state.items()}
    other = InnerTrainer(MODEL, inner)
    other.load_state(state)
    other.train(held(theta), windows_of(2), 4)
    assert all(torch.equal(state[key], kept[key]) for key in kept)


def test_a_foreign_state_is_refused_whole(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    trainer = InnerTrainer(MODEL, inner)
    trainer.train(held(theta), windows_of(1), 0)
    state = trainer.state()
    for key in ("model.norm.weight/exp_avg", next(name for name in state if "down_proj" in name)):
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


@pytest.mark.parametrize("optimizer", [MUON])
def test_one_optimizers_moments_are_no_others(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    """An amendment cannot change the optimizer, so this is a file of another run, or a mistake."""
    specs = [inner, changed(inner, optimizer="adamw")]
    one, other = (InnerTrainer(MODEL, spec) for spec in specs)
    for trainer in (one, other):
        trainer.train(held(theta), windows_of(1), 0)
    for trainer, foreign in ((one, other), (other, one)):
        with pytest.raises(MusterError, match="not of this run's model and optimizer"):
            trainer.load_state(foreign.state())
    one.inner = specs[1]
    with pytest.raises(ValueError, match="optimizer is muon, not adamw"):
        one.train(held(theta), windows_of(1), 0)


@pytest.mark.parametrize("optimizer", [MUON])
def test_muon_keeps_one_moment_of_the_matrices_inside_the_blocks(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    trainer = InnerTrainer(MODEL, inner)
    trainer.train(held(theta), windows_of(1), 0)
    kept: dict[str, set[str]] = {}
    for key, value in trainer.state().items():
        name, _, moment = key.partition("/")
        kept.setdefault(name, set()).add(moment)
        assert value.dtype == torch.float32
    of_muon = {name for name, moments in kept.items() if moments == {"momentum_buffer"}}
    assert len(of_muon) == 7 * MODEL.layers
    assert all(name.startswith("model.layers.") and name.endswith("_proj.weight") for name in of_muon)
    assert all(kept[name] == {"exp_avg", "exp_avg_sq", "step"} for name in kept.keys() - of_muon)


def test_a_torch_without_muon_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ConfigError, match=r"needs torch 2\.9 or later"):
        InnerTrainer(MODEL, inner_of(optimizer="muon"))


def test_stop_ends_after_the_current_step(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    answers = iter([False, True])
    stopped = InnerTrainer(MODEL, inner).train(held(theta), windows_of(1), 0, stop=lambda: next(answers))
    assert stopped.steps == 2
    prefix = InnerTrainer(MODEL, inner).train(held(theta), windows_of(1)[:4], 0)
    assert prefix.steps == 2
    assert same(stopped.delta, prefix.delta)


def test_steps_are_reported_by_their_number_in_the_run(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    ticks = itertools.count(0.0, 2.5)
    seen: list[int] = []
    trainer = InnerTrainer(MODEL, inner, clock=lambda: next(ticks))
    result = trainer.train(held(theta), windows_of(1), 40, on_step=lambda step, _: seen.append(step))
    assert seen == [40, 41, 42, 43]
    assert result.seconds == 2.5


def test_an_amended_spec_takes_effect(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    trainer = InnerTrainer(MODEL, inner)
    trainer.inner = changed(inner, steps=3, lr=0.02, weight_decay=0.0, beta1=0.8, beta2=0.9, eps=1e-6)
    amended = trainer.train(held(theta), windows_of(1), 0)
    born = InnerTrainer(MODEL, trainer.inner).train(held(theta), windows_of(1), 0)
    assert amended.steps == 3
    assert same(amended.delta, born.delta)


def test_a_gradient_that_is_not_finite_loses_the_round_only(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    trainer = InnerTrainer(MODEL, inner)
    trainer.train(held(theta), windows_of(1), 0)
    state = trainer.state()
    broken = [t.clone() for t in theta]
    broken[0][0, 0] = math.inf
    with pytest.raises(Diverged, match="inner step 4 is not finite"):
        trainer.train(held(broken), torch.zeros_like(windows_of(1)), 4)
    assert all(torch.equal(value, state[name]) for name, value in trainer.state().items())
    assert trainer.train(held(theta), windows_of(2), 4).steps == 4


def test_wrong_inputs_are_refused(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    trainer = InnerTrainer(MODEL, inner)
    with pytest.raises(ValueError, match="takes 2 windows"):
        trainer.train(held(theta), windows_of(1)[:1], 0)
    for changes in ({"vocab": 2 * MODEL.vocab}, {"layers": MODEL.layers + 1}):
        other = MODEL.model_copy(update=changes)
        with pytest.raises(ValueError, match="shapes"):
            trainer.train(held(genesis_parameters(other, 0), other), windows_of(1), 0)
