"""The trainer's benchmark compares like with like: the loops make the same steps, the interval is one of ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import trainer
from muster.node.models import model_class
from muster.node.replica.genesis import genesis_parameters


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"vocab": 64, "hidden": 16, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 8, "ffn": 24, "context": 8}
    monkeypatch.setattr(trainer, "MODEL", trainer.MODEL.model_copy(update=few))


def test_the_bare_loop_takes_the_engines_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit: what it is measured against is the same training."""
    found: dict[str, Any] = {}
    run = trainer.LocalEngine.run
    monkeypatch.setattr(trainer.LocalEngine, "run", lambda self, *given: found.setdefault("delta", run(self, *given)))
    trainer.engine_round(3)()
    theta = genesis_parameters(trainer.MODEL, 0)
    model = model_class(trainer.MODEL).over(trainer.MODEL, [t.clone() for t in theta]).requires_grad_(True)
    trainer.plain_round(model, model.loss, 3)()
    for before, after, moved in zip(theta, model.parameters(), found["delta"].tensors, strict=True):
        assert torch.equal(before - after, moved)


def test_hugging_faces_model_has_as_many_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[nn.Module] = []
    monkeypatch.setattr(trainer, "plain_round", lambda model, _loss, _steps: models.append(model) or (lambda: None))
    assert trainer.huggingface_round(1) is not None
    ours = sum(t.numel() for t in genesis_parameters(trainer.MODEL, 0))
    assert sum(p.numel() for p in models[0].parameters()) == ours


def test_of_eleven_the_second_and_the_tenth_hold_the_median_in_99_of_100_cases() -> None:
    values = [float(n) for n in (7, 3, 11, 1, 9, 5, 2, 8, 4, 10, 6)]
    assert trainer.interval(values) == (6.0, 2.0, 10.0)
