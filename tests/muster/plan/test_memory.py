"""The plan is arithmetic: moments as the engine keeps them, parts that add up, and what GPUs share divided."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from muster.node.compute import CPU, Compute
from muster.node.ledger.ahead import BYTES_AHEAD, ROUNDS_AHEAD, decoded_bytes
from muster.node.miner.optimizers import InnerOptimizer
from muster.node.models import model_class
from muster.node.wished import Moments
from muster.plan.memory import CONTEXT, OPENING, Item, Phase, Place, Plan, plan_of
from muster.plan.table import NOT_RUN, plan_object, table
from muster.protocol.spec import Template, load_template, preset_names
from muster.protocol.spec.layout import codec_of, layout_of, max_payload_bytes
from muster.protocol.types import Role

GPU = Compute(torch.device("cuda", 0), autocast=True)
MODES: tuple[Moments, ...] = ("full", "8bit", "factored")
MIB = 1 << 20
MIDDLE = str(Path(__file__).parents[3] / "benchmarks" / "30m-cpu.toml")


def item(plan: Plan, name: str) -> Item:
    """The one of that name."""
    (found,) = [one for one in plan.items if one.name == name]
    return found


def with_optimizer(name: str) -> Template:
    """`tiny` trained by another optimizer."""
    template = load_template("tiny")
    document: dict[str, Any] = template.model_dump()
    document["inner"]["optimizer"] = name
    return Template.model_validate(document)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("mode", MODES)
def test_moments_are_what_the_engine_keeps(optimizer: str, mode: Moments) -> None:
    template = with_optimizer(optimizer)
    model = model_class(template.model)(template.model)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
        parameter.grad = torch.ones_like(parameter)
    kept = InnerOptimizer(model, template.inner, mode)
    kept.step(template.inner, 1e-3)
    held = sum(tensor.nbytes for _, entry in kept.state() for part, tensor in entry.items() if part != "step")
    planned = item(plan_of(template, Role.MINER, replace(CPU, moments=mode)), "moments").size
    assert planned == held


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("gpus", [0, 1, 8])
def test_every_preset_has_a_plan_for_every_role(name: str, role: Role, gpus: int) -> None:
    template = load_template(name)
    plan = plan_of(template, role, GPU if gpus else CPU, gpus=gpus, local_bucket=True, text=5)
    for place in Place:
        peak, phase = plan.peak(place)
        assert peak == plan.at(place, phase) == max(plan.at(place, one) for one in plan.phases)
        assert peak <= sum(one.size for one in plan.items if one.place is place)
    assert all(one.size > 0 and one.why and one.phases for one in plan.items)
    theta = 4 * layout_of(template.model).parameters
    on_gpu = bool(gpus) and role is not Role.AGGREGATOR
    assert (plan.gpu > CONTEXT) is on_gpu
    assert (plan.gpu if on_gpu else plan.host) > theta // max(1, plan.gpus)
    told = table(plan, "title")
    assert ("GPU" in told) is on_gpu
    assert (NOT_RUN in told) is (on_gpu and gpus == 8)
    assert all(one.name in told for one in plan.items)
    assert plan_object(plan)["peaks"]["host"]["bytes"] == plan.host


def test_a_run_with_a_delay_takes_a_miner_two_models_more() -> None:
    document = load_template("tiny").model_dump()
    document["clock"]["delay"] = 1
    plain, delayed = (plan_of(t, Role.MINER) for t in (load_template("tiny"), Template.model_validate(document)))
    theta = 4 * layout_of(load_template("tiny").model).parameters
    more = {phase: delayed.at(Place.HOST, phase) - plain.at(Place.HOST, phase) for phase in plain.phases}
    assert more == {Phase.JOIN: 0, Phase.COMPRESS: theta} | dict.fromkeys(
        (Phase.FORWARD, Phase.BACKWARD, Phase.APPLY), 2 * theta
    )
    assert plan_of(Template.model_validate(document), Role.VALIDATOR) == plan_of(load_template("tiny"), Role.VALIDATOR)


def test_gpus_divide_what_is_of_the_models_size() -> None:
    template = load_template("72b")
    one, eight = (plan_of(template, Role.MINER, GPU, gpus=gpus) for gpus in (1, 8))
    theta = 4 * 72_747_327_488
    for name in ("θ", "working weights", "gradients", "Δ"):
        assert item(one, name).size == theta
        assert item(eight, name).size == theta // 8
    for name in ("error feedback", "new error feedback"):
        assert item(one, name).size == item(eight, name).size == theta
        assert item(one, name).place is Place.HOST
    assert item(one, "moments").size == pytest.approx(2 * theta, rel=1e-9)
    assert item(one, "activations").size == item(eight, "activations").size


def test_each_way_to_need_less_needs_less() -> None:
    template = load_template("1b")

    def gpu(**ways: Any) -> int:
        return plan_of(template, Role.MINER, replace(GPU, **ways), gpus=1).gpu

    few = {"micro_batch": 1, "recompute": True}
    assert gpu() > gpu(recompute=True) > gpu(**few)
    assert gpu(**few) > gpu(**few, moments="8bit") > gpu(**few, moments="factored")


def test_what_a_measured_round_took() -> None:
    """Peaks of daemons' processes (VmHWM, MiB), torch 2.13 on CPUs; benchmarks/memory.py measures them again."""
    for name, role, measured in (
        ("tiny", Role.MINER, 363), ("tiny", Role.AGGREGATOR, 295), ("tiny", Role.VALIDATOR, 331),
        (MIDDLE, Role.MINER, 1475), (MIDDLE, Role.AGGREGATOR, 523), (MIDDLE, Role.VALIDATOR, 584),
    ):  # fmt: skip
        planned = plan_of(load_template(name), role, peers=1).host
        assert planned == pytest.approx(measured * MIB, rel=0.1), (name, role)


def test_a_validator_screens_when_there_are_more_peers_than_it_measures_exactly() -> None:
    template = load_template("tiny")
    exact = template.gauntlet.exact_peers
    assert Phase.SCREEN not in plan_of(template, Role.VALIDATOR, peers=exact).phases
    assert Phase.SCREEN in plan_of(template, Role.VALIDATOR, peers=exact + 1).phases


@pytest.mark.parametrize("role", Role)
def test_what_is_read_ahead_is_little_and_of_no_size_of_the_model(role: Role) -> None:
    """It lies in memory while a round is applied: eight rounds of a small model, a fixed bound of a large one."""
    tiny, large = (item(plan_of(load_template(name), role, peers=1), "read ahead") for name in ("tiny", "72b"))
    codec = codec_of(load_template("tiny"))
    each = max_payload_bytes(codec)
    assert tiny.size == ROUNDS_AHEAD * (each + decoded_bytes(codec)) + int(OPENING * each)
    assert large.size == BYTES_AHEAD + int(OPENING * BYTES_AHEAD)
    assert tiny.phases == large.phases == {Phase.APPLY}
