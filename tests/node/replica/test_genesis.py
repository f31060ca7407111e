"""Genesis weights are the documented integers, scaled: the same bits everywhere."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
import torch
from blake3 import blake3

from muster.node.replica import genesis
from muster.node.replica.genesis import genesis_parameters
from muster.protocol.spec import ModelSpec
from muster.protocol.spec.layout import parameter_shapes

SIZES: dict[str, Any] = {
    "vocab": 256,
    "hidden": 64,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
    "head_dim": 32,
    "ffn": 96,
    "context": 64,
    "rope_theta": 10_000.0,
    "norm_eps": 1e-5,
    "tied": True,
    "init_std": 0.02,
}
SPEC = ModelSpec(**SIZES)


def digest_of(parameters: list[torch.Tensor]) -> str:
    return blake3(b"".join(p.numpy().astype("<f4").tobytes() for p in parameters)).hexdigest()


def named(spec: ModelSpec, seed: int) -> dict[str, torch.Tensor]:
    names = [name for name, _ in parameter_shapes(spec)]
    return dict(zip(names, genesis_parameters(spec, seed), strict=True))


def test_golden_digest() -> None:
    assert digest_of(genesis_parameters(SPEC, 0)) == (
        "dfb9f0aa286142663278b3384e5c62793cced542fc5ec372e87d12644521609c"
    )
    assert digest_of(genesis_parameters(SPEC, 1)) == (
        "9166d9738582827accc5af819bedfe39e34beb1971d44696901d7c68bd16d06d"
    )


def test_entries_follow_the_formula() -> None:
    weights = named(SPEC, 7)
    std_of_sum = math.sqrt(4 * (65_536**2 - 1) / 12)
    cases = [
        ("model.embed_tokens.weight", 0.02),
        ("model.layers.1.self_attn.q_proj.weight", 0.02),
        ("model.layers.1.self_attn.o_proj.weight", 0.02 / math.sqrt(4)),
        ("model.layers.0.mlp.down_proj.weight", 0.02 / math.sqrt(4)),
    ]
    for name, std in cases:
        entries = weights[name].flatten()
        for j in (0, 1, 77, entries.numel() - 1):
            stream = blake3(b"muster/genesis/v1" + (7).to_bytes(8, "little") + name.encode())
            centred = sum(struct.unpack("<4H", stream.digest(length=8 * (j + 1))[-8:])) - 131_070
            assert entries[j].item() == np.float32(centred) * np.float32(std / std_of_sum)


def test_shapes_types_and_norms() -> None:
    for tied in (True, False):
        spec = ModelSpec(**{**SIZES, "tied": tied})
        for (name, shape), weight in zip(parameter_shapes(spec), genesis_parameters(spec, 3), strict=True):
            assert (tuple(weight.shape), weight.dtype) == (shape, torch.float32)
            assert weight.is_contiguous()
            assert torch.equal(weight, torch.ones(shape)) == ("norm" in name)


def test_matrices_have_the_stated_spread() -> None:
    weights = named(SPEC, 11)
    embedding, down = weights["model.embed_tokens.weight"], weights["model.layers.0.mlp.down_proj.weight"]
    assert embedding.std().item() == pytest.approx(0.02, rel=0.03)
    assert abs(embedding.mean().item()) < 5e-4
    assert down.std().item() == pytest.approx(0.01, rel=0.03)


def test_block_size_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = digest_of(genesis_parameters(SPEC, 5))
    monkeypatch.setattr(genesis, "_BLOCK_ENTRIES", 1000)
    assert digest_of(genesis_parameters(SPEC, 5)) == whole


def test_every_tensor_and_seed_has_its_own_stream() -> None:
    first, second = named(SPEC, 0), named(SPEC, 1)
    gate, up = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(first[gate], first[up])
    assert not torch.equal(first[gate], second[gate])


def test_a_tensor_does_not_depend_on_the_other_tensors() -> None:
    wider = named(ModelSpec(**{**SIZES, "ffn": 128}), 0)
    name = "model.layers.1.self_attn.k_proj.weight"
    assert torch.equal(wider[name], named(SPEC, 0)[name])
