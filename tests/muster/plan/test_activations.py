"""What the plan says a forward pass keeps is what autograd keeps, to the byte, whatever the model's shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from muster.node.models import model_class
from muster.plan import activations
from muster.protocol.spec import ModelSpec, load_template
from muster.protocol.spec.layout import layout_of

BATCH, WINDOW = 2, 16


def kept_by_autograd(spec: ModelSpec, *, bf16: bool) -> int:
    """Bytes of all that a forward pass keeps for its way back, weights excepted."""
    torch.manual_seed(0)
    model = model_class(spec)(spec)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no other takes its address
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model.loss(torch.zeros(BATCH, WINDOW + 1, dtype=torch.int64))
    return sum(tensor.untyped_storage().nbytes() for at, tensor in found.items() if at not in weights)


@st.composite
def models(draw: st.DrawFn) -> ModelSpec:
    """Small models of many shapes; heads of 16, so that attention's rows are whole cache lines."""
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": 16, "layers": draw(st.integers(1, 3))}
    sizes |= {"hidden": 16 * draw(st.integers(1, 6)), "ffn": 16 * draw(st.integers(1, 9))}
    sizes |= {"vocab": 16 * draw(st.integers(1, 20)), "context": WINDOW}
    return load_template("tiny").model.model_copy(update={**sizes, "tied": draw(st.booleans())})


@pytest.mark.parametrize("bf16", [False, True])
@given(spec=models())
@settings(max_examples=15, deadline=None)
def test_what_is_kept(bf16: bool, spec: ModelSpec) -> None:
    tokens = BATCH * WINDOW
    tables = 2 * WINDOW * spec.head_dim * 4  # of rotary positions, once
    numbers = 8 * (BATCH * (WINDOW + 1) + tokens) + 4  # ids, targets (as two tensors), the count of them
    planned = tokens * activations.kept(spec, bf16=bf16, recompute=False)
    planned += activations.halved_weights(spec, layout_of(spec).parameters) if bf16 else 0
    assert kept_by_autograd(spec, bf16=bf16) == planned + tables + numbers


def test_recomputing_keeps_a_layer_and_what_goes_into_the_others() -> None:
    spec = load_template("8b").model
    whole, less = (activations.kept(spec, bf16=True, recompute=recompute) for recompute in (False, True))
    assert less < whole / 5
    assert less > 4 * spec.hidden * spec.layers
