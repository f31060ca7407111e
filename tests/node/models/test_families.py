"""A family of models is one entry in the protocol and one module here: a throw-away one plays a whole run."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from muster.lab.nano import nano_template
from muster.lab.simulator import Simulator
from muster.node.data.build import build_corpus
from muster.node.data.dataset import TextReader
from muster.node.models import LanguageModel, model_class
from muster.node.models.llama import Llama
from muster.protocol.spec import ModelSpec, Template
from muster.protocol.spec.families import FAMILIES, Family, Shapes
from muster.protocol.spec.layout import parameter_shapes
from muster.testnet.roster import Roster

ROUNDS = 3


def bigram_shapes(model: ModelSpec) -> Shapes:
    return [("gain", (model.vocab,)), ("table.weight", (model.vocab, model.vocab))]


class Bigram(LanguageModel):
    """The next byte from this one alone."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.table = nn.Embedding(spec.vocab, spec.vocab, _weight=torch.empty(spec.vocab, spec.vocab))
        self.gain = nn.Parameter(torch.empty(spec.vocab))

    @staticmethod
    def genesis_std(spec: ModelSpec, name: str) -> float:
        return spec.init_std / 2

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.table(tokens) * self.gain
        return logits

    def block_matrices(self) -> list[nn.Parameter]:
        return []


@pytest.fixture
def bigram(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the two files of a family would hold."""
    monkeypatch.setitem(FAMILIES, "bigram", Family(lambda _model: None, bigram_shapes))
    module = ModuleType("muster.node.models.bigram")
    module.MODEL = Bigram
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_module_has_the_tensors_that_the_protocol_says(family: str) -> None:
    spec = nano_template().model.model_copy(update={"family": family})
    with torch.device("meta"):
        model = model_class(spec)(spec)
    assert [(name, tuple(p.shape)) for name, p in model.named_parameters()] == parameter_shapes(spec)
    assert list(model.state_dict()) == [name for name, _ in parameter_shapes(spec)]
    assert {id(p) for p in model.block_matrices()} <= {id(p) for p in model.parameters() if p.ndim > 1}


def test_llama_is_the_family_of_the_presets() -> None:
    assert model_class(nano_template().model) is Llama


def test_a_new_family_plays_a_whole_run(bigram: None, tmp_path: Path) -> None:
    document = nano_template().model_dump()
    document["model"]["family"] = "bigram"
    template, roster = Template.model_validate(document), Roster.of(0, 2, 1, {})
    texts = [tmp_path / f"{i}.txt" for i in range(8)]
    for i, path in enumerate(texts):
        path.write_text(f"the {i}th text is like every other one and says nothing; " * 40)
    manifest = build_corpus(texts, tmp_path / "data", template.data.window)
    spec = roster.spec(template, manifest)
    assert len(parameter_shapes(spec.model)) == 2
    run = asyncio.run(Simulator(roster, spec, TextReader.open(tmp_path / "data", manifest.digest)).run(ROUNDS))
    assert len(run.losses) == ROUNDS
    assert run.losses[-1] < run.losses[0], "it learns"
