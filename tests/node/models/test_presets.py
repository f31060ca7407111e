"""Presets are models that can be built: on the meta device, every tensor with its shape, counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from muster.node.models import model_class
from muster.protocol.spec import load_template, preset_names
from muster.protocol.spec.layout import parameter_shapes

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
PARAMETERS = {
    "tiny": 329_376,
    "150m": 151_181_184,
    "512m": 512_398_848,
    "1b": 1_235_814_400,
    "8b": 8_030_261_248,
    "72b": 72_747_327_488,
}


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_a_model_of_so_many_parameters(name: str) -> None:
    spec = load_template(name).model
    with torch.device("meta"):
        model = model_class(spec)(spec)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert [(key, tuple(value.shape)) for key, value in model.state_dict().items()] == parameter_shapes(spec)


def test_what_memory_is_measured_with_is_the_presets_model_with_little_work() -> None:
    template = load_template(str(BENCHMARKS / "150m-cpu.toml"))
    assert template.model == load_template("150m").model
    assert (template.inner.steps, template.inner.batch, template.data.window) == (2, 2, 256)
    assert template.gauntlet.eval_windows == 4
    assert load_template(str(BENCHMARKS / "30m-cpu.toml")).model.vocab == 256
