"""What the doctor times is what the miner would do: products in the precision that the same trial chooses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import run_spec

from muster.doctor import machine
from muster.node.compute import CPU, Compute
from muster.protocol.spec import ModelSpec

UNDECIDED = replace(CPU, autocast=None)
SPEC = run_spec()


@pytest.mark.parametrize("faster", [False, True])
@pytest.mark.parametrize("operations", [0.0, machine.TIMED_OPERATIONS])
def test_products_are_as_the_trial_says(monkeypatch: pytest.MonkeyPatch, *, faster: bool, operations: float) -> None:
    tried: list[Compute] = []

    def trial(compute: Compute, _model: ModelSpec) -> tuple[Compute, str]:
        tried.append(compute)
        return replace(compute, autocast=faster), ""

    monkeypatch.setattr(machine, "settled", trial)
    monkeypatch.setattr(machine, "TIMED_OPERATIONS", operations)
    facts = machine.measure_step(SPEC, UNDECIDED, None, fits=True)
    assert tried == [UNDECIDED]
    assert (facts.bf16, facts.estimated) == (faster, operations == 0.0)
    assert facts.step_seconds > 0


def test_a_model_that_does_not_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "settled", lambda *_: pytest.fail("it has no memory for a trial"))
    facts = machine.measure_step(SPEC, UNDECIDED, None, fits=False)
    assert (facts.bf16, facts.estimated) == (False, True)
