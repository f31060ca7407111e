"""One map from a model to tensors, in the order and under the names everybody uses."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
import torch
from blake3 import blake3
from builders import MODEL, layout, update

from muster.kernels import Codec, encode
from muster.node.models.llama import Llama
from muster.protocol.spec import ModelSpec, load_template
from muster.protocol.spec.layout import AEAD_TAG_BYTES, layout_of, max_payload_bytes, parameter_shapes

UNTIED = MODEL.model_copy(update={"tied": False, "layers": 2})


def test_golden_digest() -> None:
    assert layout_of(load_template("tiny").model).digest.hex() == (
        "58bd5252493804ec476b22bdd2d60cc16edb62e9622209a72f2c45865b632875"
    )


def test_digest_is_of_the_documented_json() -> None:
    table: Any = [[name, list(shape)] for name, shape in parameter_shapes(MODEL)]
    assert layout().digest == blake3(b"muster/layout/v2" + rfc8785.dumps(table)).digest()
    assert table[:3] == [
        ["model.embed_tokens.weight", [64, 16]],
        ["model.layers.0.input_layernorm.weight", [16]],
        ["model.layers.0.self_attn.q_proj.weight", [16, 16]],
    ]
    assert json.loads(rfc8785.dumps(table)) == table


@pytest.mark.parametrize("model", [MODEL, UNTIED])
def test_names_shapes_and_order_are_the_models(model: ModelSpec) -> None:
    with torch.device("meta"):
        parameters = [(name, tuple(p.shape)) for name, p in Llama(model).named_parameters()]
    assert parameters == parameter_shapes(model)
    made = layout_of(model)
    assert list(zip(made.names, made.shapes, strict=True)) == parameters
    assert made.parameters == sum(torch.Size(shape).numel() for _, shape in parameters)


def test_a_tied_head_appears_once() -> None:
    assert "lm_head.weight" not in layout().names
    assert layout_of(UNTIED).names[-1] == "lm_head.weight"


def test_what_does_not_shape_a_tensor_does_not_change_the_digest() -> None:
    longer = MODEL.model_copy(update={"context": 4096, "rope_theta": 5e5})
    assert layout_of(longer).digest == layout().digest
    wider = MODEL.model_copy(update={"ffn": 25})
    assert layout_of(wider).digest != layout().digest


def test_bounds_of_a_payload() -> None:
    work = update()
    assert len(work.indices) == work.codec.count
    assert len(encode(work)) + AEAD_TAG_BYTES <= max_payload_bytes(work.codec)


def test_a_72b_payload_is_bounded() -> None:
    """12.3 bits a kept value at the very most; the published run shipped 20 (arXiv 2603.08163)."""
    large = layout_of(load_template("72b").model)
    assert max_payload_bytes(Codec(large.grid, 64)) * 8 < 12.3 * Codec(large.grid, 64).count
