"""Moments in bytes lose little, never what keeps a step finite; factored ones are what their formula says."""

from __future__ import annotations

import logging
import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inner_world import MODEL, Trainer, changed, inner_of, same, windows_of

from muster.node.compute import Compute
from muster.node.miner.adamw import SLAB, AdamW, BytewiseAdamW
from muster.node.miner.bytewise import BLOCK, blocks, pack_positive, pack_signed, unpack_positive, unpack_signed
from muster.node.miner.factored import Factored
from muster.node.miner.muon import BytewiseMuon
from muster.node.miner.rule import Rule, Trained
from muster.node.wished import Moments
from muster.protocol.spec import InnerSpec

sizes = st.one_of(st.just(0.0), st.floats(2.0**-60, 2.0**100, width=32))
values = st.lists(st.tuples(sizes, st.sampled_from([-1, 1])).map(math.prod), min_size=1, max_size=2 * BLOCK + 3)


def signed(given_: torch.Tensor) -> torch.Tensor:
    codes, scales = torch.zeros(len(given_), dtype=torch.uint8), torch.zeros(blocks(len(given_)))
    pack_signed(given_.clone(), codes, scales)
    return unpack_signed(codes, scales)


def positive(given_: torch.Tensor) -> torch.Tensor:
    codes, scales = torch.zeros(len(given_), dtype=torch.uint8), torch.zeros(blocks(len(given_)))
    pack_positive(given_.clone(), codes, scales)
    return unpack_positive(codes, scales)


def largest(given_: torch.Tensor) -> torch.Tensor:
    """Of each entry's block."""
    return torch.cat([part.abs().max().expand(len(part)) for part in given_.split(BLOCK)])


@given(values)
def test_either_sign_comes_back_within_half_a_code(numbers: list[float]) -> None:
    given_ = torch.tensor(numbers)
    found, most = signed(given_).double(), largest(given_).double()
    assert torch.equal(found.sign() * given_.double().sign(), found.sign().abs()), "no sign turns"
    roots = ((found.abs() / most).sqrt() - (given_.double().abs() / most).sqrt()).nan_to_num()
    assert roots.abs().max() <= 0.5 / 127 + 1e-6


@given(values)
def test_positive_ones_come_back_within_a_code_and_never_as_zero(numbers: list[float]) -> None:
    given_ = torch.tensor(numbers).abs()
    found, most = positive(given_).double(), largest(given_).double()
    roots = ((found / most) ** 0.25 - (given_.double() / most) ** 0.25).nan_to_num()
    assert roots.abs().max() <= 1 / 255 + 1e-6
    assert (found[given_ > 0] > 0).all()
    assert (found[given_ == 0] == 0).all()


def test_an_even_map_of_the_root_of_v_would_lose_what_a_fourth_root_keeps() -> None:
    """One entry a million times the others: evenly, √v of the others rounds to 0, and m/√v is infinite."""
    given_ = torch.full((BLOCK,), 1e-6)
    given_[0] = 1.0
    evenly = (given_.sqrt() * 255).round() / 255
    assert (evenly[1:] == 0).all()
    assert ((positive(given_)[1:] / given_[1:]).log().abs() < 0.3).all()


# ---- rules


def trained(rule: Rule, shape: tuple[int, ...]) -> Trained:
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(shape, generator=generator))
    kept = {name: torch.zeros(size, dtype=dtype) for name, (size, dtype) in rule.parts(parameter.shape).items()}
    return Trained(parameter, kept)


@torch.no_grad()
def run(rule: Rule, shape: tuple[int, ...], steps: int, inner: InnerSpec) -> Trained:
    """Steps by gradients that are drawn, with rows of very different sizes."""
    one, generator = trained(rule, shape), torch.Generator().manual_seed(1)
    sizes = torch.logspace(-4, 0, shape[0]).view(-1, *([1] * (len(shape) - 1)))
    for _ in range(steps):
        one.parameter.grad = torch.randn(shape, generator=generator) * sizes
        rule.step([one], inner, 0.01)
    return one


@pytest.mark.parametrize("shape", [(30, 50), (3, BLOCK), (1, 7)])
def test_adamw_in_bytes_goes_where_adamw_goes(shape: tuple[int, ...]) -> None:
    inner = inner_of(weight_decay=0.0)
    before = trained(AdamW(), shape).parameter
    full, packed = (run(rule, shape, 20, inner).parameter for rule in (AdamW(), BytewiseAdamW()))
    assert (packed - full).norm() < 0.1 * (full - before).norm()


def test_a_tensor_of_several_slabs_is_trained_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = inner_of()
    whole = run(BytewiseAdamW(), (9, 100), 4, inner)
    assert SLAB % BLOCK == 0
    monkeypatch.setattr("muster.node.miner.adamw.SLAB", BLOCK)
    parted = run(BytewiseAdamW(), (9, 100), 4, inner)
    assert torch.equal(parted.parameter, whole.parameter)
    assert all(torch.equal(parted.kept[name], whole.kept[name]) for name in whole.kept)


def test_bytes_take_a_quarter() -> None:
    shape = torch.Size((64, 256))

    def size(rule: Rule) -> int:
        return sum(math.prod(shape_) * dtype.itemsize for shape_, dtype in rule.parts(shape).values())

    entries = shape.numel()
    assert size(AdamW()) == 8 * entries + 4
    assert size(BytewiseAdamW()) == 2 * entries * (1 + 4 / BLOCK) + 4
    assert size(BytewiseMuon()) == entries * (1 + 4 / BLOCK)
    assert size(Factored()) == 4 * (64 + 256) + 4


def test_factored_steps_are_those_of_the_formula() -> None:
    """In fp64, by the words of the paper: one row of sizes, one of columns, their product over the mean."""
    inner = inner_of()
    rows, columns, beta, rate = 6, 10, inner.beta2, 0.01
    weights = trained(Factored(), (rows, columns)).parameter.detach().double()
    generator = torch.Generator().manual_seed(1)
    sizes = torch.logspace(-4, 0, rows).view(-1, 1)
    r, c = torch.zeros(rows).double(), torch.zeros(columns).double()
    for t in range(1, 6):
        g = (torch.randn((rows, columns), generator=generator) * sizes).double()
        r = beta * r + (1 - beta) * (g**2 + 1e-30).mean(1)
        c = beta * c + (1 - beta) * (g**2 + 1e-30).mean(0)
        v = torch.outer(r, c) / r.mean() / (1 - beta**t)
        u = g / v.sqrt()
        u = u / max(1.0, u.square().mean().sqrt().item())
        weights = weights * (1 - rate * inner.weight_decay) - rate * u
    found = run(Factored(), (rows, columns), 5, inner).parameter
    torch.testing.assert_close(found.double(), weights, atol=1e-6, rtol=1e-4)


def test_a_row_without_gradients_stays_where_it_is() -> None:
    one = trained(Factored(), (4, 8))
    before = one.parameter.detach().clone()
    one.parameter.grad = torch.ones(4, 8)
    one.parameter.grad[2] = 0
    with torch.no_grad():
        Factored().step([one], inner_of(weight_decay=0.0), 0.01)
    assert torch.equal(one.parameter[2], before[2])
    assert torch.isfinite(one.parameter).all()


# ---- whole engines


@pytest.mark.parametrize("moments", get_args(Moments))
def test_every_way_of_keeping_them_learns(theta: list[torch.Tensor], inner: InnerSpec, moments: Moments) -> None:
    losses: list[float] = []
    spec = changed(inner, steps=30, total=60)
    trainer = Trainer(MODEL, spec, compute=Compute(moments=moments))
    trainer.train(theta, windows_of(1, 2).repeat(30, 1), 0, on_step=lambda _, loss: losses.append(loss))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("moments", get_args(Moments))
def test_gains_keep_their_moments_in_full(theta: list[torch.Tensor], inner: InnerSpec, moments: Moments) -> None:
    trainer = Trainer(MODEL, inner, compute=Compute(moments=moments))
    trainer.train(theta, windows_of(1), 0)
    norms = {name: tensor for name, tensor in trainer.state().items() if "norm" in name and "exp_avg" in name}
    assert len(norms) == 2 * (2 * MODEL.layers + 1)
    assert all(tensor.shape == (MODEL.hidden,) and tensor.dtype == torch.float32 for tensor in norms.values())


def test_after_another_way_they_begin_cold_and_the_log_says_so(
    theta: list[torch.Tensor], inner: InnerSpec, caplog: pytest.LogCaptureFixture
) -> None:
    full = Trainer(MODEL, inner)
    full.train(theta, windows_of(1), 0)
    packed = Trainer(MODEL, inner, compute=Compute(moments="8bit"))
    packed.train(theta, windows_of(2), 0)
    with caplog.at_level(logging.WARNING):
        packed.load_state(full.state())
    assert "moments begin cold" in caplog.text
    assert packed.state() == {}
    born = Trainer(MODEL, inner, compute=Compute(moments="8bit"))
    assert same(packed.train(theta, windows_of(1), 0).tensors, born.train(theta, windows_of(1), 0).tensors)
