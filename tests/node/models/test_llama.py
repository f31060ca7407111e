"""The model equals Hugging Face's Llama, weight for weight and number for number."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from muster.node.models.llama import Llama
from muster.protocol.spec import ModelSpec
from muster.protocol.spec.layout import parameter_shapes


def spec_of(*, tied: bool, kv_heads: int) -> ModelSpec:
    return ModelSpec(
        vocab=50,
        hidden=24,
        layers=2,
        heads=4,
        kv_heads=kv_heads,
        head_dim=8,
        ffn=40,
        context=32,
        rope_theta=500_000.0,
        norm_eps=1e-5,
        tied=tied,
        init_std=0.02,
    )


def random_parameters(spec: ModelSpec, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator) * 0.3 + (1.0 if len(shape) == 1 else 0.0)
        for _, shape in parameter_shapes(spec)
    ]


def tokens_of(spec: ModelSpec, batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, spec.vocab, (batch, length), generator=torch.Generator().manual_seed(1))


def reference(spec: ModelSpec, parameters: list[torch.Tensor]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM  # a second and more, for whoever runs these tests alone

    config: dict[str, Any] = {
        "vocab_size": spec.vocab,
        "hidden_size": spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "intermediate_size": spec.ffn,
        "max_position_embeddings": spec.context,
        "rope_theta": spec.rope_theta,
        "rms_norm_eps": spec.norm_eps,
        "tie_word_embeddings": spec.tied,
        "attn_implementation": "eager",
    }
    model = LlamaForCausalLM(LlamaConfig(**config))
    missing, unexpected = model.load_state_dict(Llama.over(spec, parameters).state_dict(), strict=False)
    assert (missing, unexpected) == (["lm_head.weight"] if spec.tied else [], [])
    model.tie_weights()
    return model


SPECS = [
    spec_of(tied=True, kv_heads=4),
    spec_of(tied=True, kv_heads=2),
    spec_of(tied=False, kv_heads=1),
]


@pytest.mark.parametrize("spec", SPECS, ids=["tied", "tied-gqa", "untied-mqa"])
def test_logits_and_loss_equal_the_reference(spec: ModelSpec) -> None:
    parameters = random_parameters(spec)
    theirs, ours = reference(spec, parameters), Llama.over(spec, parameters)
    windows = tokens_of(spec, 3, 21)
    with torch.no_grad():
        expected = theirs(windows[:, :-1])
        torch.testing.assert_close(ours(windows[:, :-1]), expected.logits, atol=1e-5, rtol=1e-5)
        loss = torch.nn.functional.cross_entropy(expected.logits.flatten(0, 1), windows[:, 1:].flatten())
        torch.testing.assert_close(ours.loss(windows), loss, atol=1e-5, rtol=1e-5)


def test_gradients_equal_the_reference() -> None:
    spec = SPECS[1]
    parameters = random_parameters(spec)
    theirs, ours = reference(spec, parameters), Llama.over(spec, parameters).requires_grad_(True)
    windows = tokens_of(spec, 2, 17)
    torch.autograd.backward(ours.loss(windows))
    logits = theirs(windows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    torch.autograd.backward(loss)
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("spec", SPECS, ids=["tied", "tied-gqa", "untied-mqa"])
def test_state_is_the_layout(spec: ModelSpec) -> None:
    with torch.device("meta"):
        model = Llama(spec)
    shapes = [(name, tuple(value.shape)) for name, value in model.state_dict().items()]
    assert shapes == parameter_shapes(spec)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in shapes]
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_model_over_tensors_shares_them() -> None:
    spec = SPECS[0]
    parameters = random_parameters(spec)
    model = Llama.over(spec, parameters)
    tokens = tokens_of(spec, 1, 8)
    before = model(tokens)
    assert not before.requires_grad
    parameters[0].mul_(0)
    assert model(tokens).abs().max() == 0
    assert before.abs().max() > 0


def test_a_model_refuses_tensors_of_another_layout() -> None:
    with pytest.raises(ValueError, match="shapes"):
        Llama.over(SPECS[0], random_parameters(SPECS[1]))
    with pytest.raises(ValueError, match="shapes"):
        Llama.over(SPECS[0], random_parameters(SPECS[0])[:-1])


def test_building_draws_no_random_numbers() -> None:
    before = torch.random.get_rng_state()
    Llama(SPECS[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_window_losses_average_to_the_loss() -> None:
    spec = SPECS[2]
    model = Llama.over(spec, random_parameters(spec))
    windows = tokens_of(spec, 4, 12)
    each = model.window_losses(windows)
    assert each.shape == (4,)
    torch.testing.assert_close(each.mean(), model.loss(windows))
    torch.testing.assert_close(each[2], model.loss(windows[2:3]))


def test_a_token_sees_nothing_after_it() -> None:
    spec = SPECS[1]
    model = Llama.over(spec, random_parameters(spec))
    tokens = tokens_of(spec, 1, 10)
    changed = tokens.clone()
    changed[0, 6] = (changed[0, 6] + 1) % spec.vocab
    difference = (model(tokens) - model(changed)).abs().amax(-1)[0]
    assert difference[:6].max() < 1e-6
    assert difference[6:].min() > 1e-4


def test_rotary_tables_follow_the_length() -> None:
    spec = SPECS[0]
    model = Llama.over(spec, random_parameters(spec))
    tokens = tokens_of(spec, 1, 12)
    long = model(tokens)
    torch.testing.assert_close(model(tokens[:, :5]), long[:, :5], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(tokens), long)


def test_half_precision_weights_give_fp32_logits() -> None:
    spec = SPECS[1]
    parameters = random_parameters(spec)
    half = Llama.over(spec, [p.bfloat16() for p in parameters])
    tokens = tokens_of(spec, 2, 8)
    logits = half(tokens)
    assert logits.dtype == torch.float32
    exact = Llama.over(spec, parameters)(tokens)
    assert (logits - exact).norm() < 0.1 * exact.norm()


def test_a_model_that_scored_can_train() -> None:
    spec = SPECS[1]
    model = Llama.over(spec, random_parameters(spec)).requires_grad_(True)
    windows = tokens_of(spec, 1, 9)
    with torch.inference_mode():
        model.loss(windows)
    torch.autograd.backward(model.loss(windows))
    assert all(parameter.grad is not None for parameter in model.parameters())
