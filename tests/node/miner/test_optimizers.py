"""AdamW and Muon behind one object: what each decays, how far it goes, which moments it keeps and takes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from inner_world import MODEL, Trainer, changed, inner_of, windows_of

from muster.node.miner.optimizers import InnerOptimizer
from muster.node.models.llama import Llama
from muster.protocol.errors import MusterError
from muster.protocol.spec import InnerSpec, MuonSpec


@pytest.mark.parametrize("optimizer", ["muon"])
def test_a_step_of_muon_is_as_large_as_one_of_adamw(inner: InnerSpec, theta: list[torch.Tensor]) -> None:
    """Its root mean square is 0.2 of the rate, within the 30 % that five Newton–Schulz steps leave."""
    flat = inner.model_copy(update={"steps": 1, "warmup": 0, "lr": 0.001, "weight_decay": 0.0})
    result = Trainer(MODEL, flat).train(theta, windows_of(1), 0)
    sizes = [delta.square().mean().sqrt().item() for delta in result.tensors if delta.shape == (16, 16)]
    assert len(sizes) == 2 * MODEL.layers
    assert all(size == pytest.approx(0.2 * flat.lr, rel=0.3) for size in sizes)


def test_matrices_decay_and_gains_do_not(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    """By rate times decay of θ a step, whatever the optimizer adds to it."""
    specs = [changed(inner, steps=1, warmup=0, weight_decay=decay) for decay in (0.5, 0.0)]
    with_it, without = (Trainer(MODEL, spec).train(theta, windows_of(1), 0).tensors for spec in specs)
    for before, one, other in zip(theta, with_it, without, strict=True):
        share = 0.5 * inner.lr if before.ndim > 1 else 0.0
        torch.testing.assert_close(one - other, share * before, atol=1e-6, rtol=1e-3)


def test_state_is_copied_neither_to_be_saved_nor_to_be_loaded(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    trainer = Trainer(MODEL, inner)
    assert trainer.state() == {}
    trainer.train(theta, windows_of(1), 0)
    state = trainer.state()
    assert places(trainer.state()) == places(state)
    given = {key: value.clone() for key, value in state.items()}
    other = Trainer(MODEL, inner)
    other.load_state(given)
    assert places(other.state()) == places(given)


def places(state: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Where each tensor lies."""
    return {key: value.data_ptr() for key, value in state.items()}


def test_a_foreign_state_is_refused_whole(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    trainer = Trainer(MODEL, inner)
    trainer.train(theta, windows_of(1), 0)
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


@pytest.mark.parametrize("optimizer", ["muon"])
def test_one_optimizers_moments_are_no_others(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    """An amendment cannot change the optimizer, so this is a file of another run, or a mistake."""
    specs = [inner, changed(inner, optimizer="adamw")]
    one, other = (Trainer(MODEL, spec) for spec in specs)
    for trainer in (one, other):
        trainer.train(theta, windows_of(1), 0)
    for trainer, foreign in ((one, other), (other, one)):
        with pytest.raises(MusterError, match="not of this run's model and optimizer"):
            trainer.load_state(foreign.state())
    one.inner = specs[1]
    with pytest.raises(ValueError, match="optimizer is muon, not adamw"):
        one.train(theta, windows_of(1), 0)


@pytest.mark.parametrize("optimizer", ["muon"])
def test_muon_keeps_one_moment_of_the_matrices_inside_the_blocks(theta: list[torch.Tensor], inner: InnerSpec) -> None:
    trainer = Trainer(MODEL, inner)
    trainer.train(theta, windows_of(1), 0)
    kept: dict[str, set[str]] = {}
    for key, value in trainer.state().items():
        name, _, moment = key.partition("/")
        kept.setdefault(name, set()).add(moment)
        assert value.dtype == torch.float32
    of_muon = {name for name, moments in kept.items() if moments == {"momentum_buffer"}}
    assert len(of_muon) == 7 * MODEL.layers
    assert all(name.startswith("model.layers.") and name.endswith("_proj.weight") for name in of_muon)
    assert all(kept[name] == {"exp_avg", "exp_avg_sq", "step"} for name in kept.keys() - of_muon)


# ---- the definitions are torch's


def twins(theta: list[torch.Tensor]) -> tuple[Llama, Llama]:
    """Two models of the same weights, which are trained."""
    one, other = (Llama.over(MODEL, [t.clone() for t in theta]).requires_grad_(True) for _ in range(2))
    return one, other


def same_steps(ours: Llama, theirs: Llama, step: Callable[[int], None], optimizer: torch.optim.Optimizer) -> None:
    """Eight steps on batches of their own, after each of which both models have the same bits."""
    for i in range(8):
        for model in (ours, theirs):
            model.zero_grad()
            torch.autograd.backward(model.loss(windows_of(i, 2)))
        step(i)
        optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("eps", [1e-8, 1e-3])
def test_adamw_has_the_bits_of_torchs(theta: list[torch.Tensor], eps: float) -> None:
    ours, theirs = twins(theta)
    inner = inner_of(eps=eps, weight_decay=0.3)
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": 0.3},
        {"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.0, betas=(inner.beta1, inner.beta2), eps=eps, fused=True)
    optimizer = InnerOptimizer(ours, inner)

    def step(i: int) -> None:
        for group in reference.param_groups:
            group["lr"] = 0.01 / (i + 1)
        optimizer.step(inner, 0.01 / (i + 1))

    same_steps(ours, theirs, step, reference)
    kept = dict(optimizer.state())
    for name, parameter in theirs.named_parameters():
        assert all(torch.equal(kept[name][part], value) for part, value in reference.state[parameter].items())


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
@pytest.mark.parametrize(
    "constants",
    [
        {},
        {"scale": "original"},
        {"momentum": 0.8, "nesterov": False, "steps": 3, "a": 3.0, "b": -4.0, "c": 1.5, "eps": 1e-5},
    ],
)
def test_muon_has_the_bits_of_torchs(theta: list[torch.Tensor], constants: dict[str, Any]) -> None:
    ours, theirs = twins(theta)
    inner = inner_of(optimizer="muon", muon=MuonSpec(**constants))
    spec = inner.muon
    reference = torch.optim.Muon(
        theirs.block_matrices(),
        lr=0.02,
        weight_decay=inner.weight_decay,
        momentum=spec.momentum,
        nesterov=spec.nesterov,
        ns_coefficients=(spec.a, spec.b, spec.c),
        eps=spec.eps,
        ns_steps=spec.steps,
        adjust_lr_fn=spec.scale,
    )
    rest = InnerOptimizer(theirs, inner_of())  # AdamW, whose steps of the matrices are taken back
    optimizer = InnerOptimizer(ours, inner)

    def step(_i: int) -> None:
        optimizer.step(inner, 0.02)
        before = [p.detach().clone() for p in theirs.block_matrices()]
        rest.step(inner_of(), 0.02)
        with torch.no_grad():
            for p, old in zip(theirs.block_matrices(), before, strict=True):
                p.copy_(old)

    same_steps(ours, theirs, step, reference)


def test_training_imports_no_compiler() -> None:
    """torch.optim's own classes do, for over a second and a hundred megabytes a process."""
    program = """
import sys
from muster.node.compute import Compute
from inner_world import MODEL, Trainer, inner_of, windows_of
from muster.node.replica.genesis import genesis_parameters
for optimizer in ("adamw", "muon"):
    for moments in ("full", "8bit", "factored"):
        trainer = Trainer(MODEL, inner_of(optimizer=optimizer), compute=Compute(moments=moments))
        trainer.train(genesis_parameters(MODEL, 0), windows_of(1), 0)
print(sorted({"torch._dynamo", "sympy"} & set(sys.modules)))
"""
    where = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-c", program], env=where, check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "[]\n"
