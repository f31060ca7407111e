"""AdamW and Muon behind one object: what each decays, how far it goes, which moments it keeps and takes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from inner_world import MODEL, MUON, Trainer, changed, inner_of, windows_of

from muster.protocol.errors import ConfigError, MusterError
from muster.protocol.spec import InnerSpec


@pytest.mark.parametrize("optimizer", [MUON])
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


@pytest.mark.parametrize("optimizer", [MUON])
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


@pytest.mark.parametrize("optimizer", [MUON])
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


def test_a_torch_without_muon_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ConfigError, match=r"needs torch 2\.9 or later"):
        Trainer(MODEL, inner_of(optimizer="muon"))
