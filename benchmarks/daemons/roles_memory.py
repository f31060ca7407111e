"""What memory an aggregator and a validator take for a model, in θ: the daemons' own processes, with checkpoints.

A whole run of one miner is played with a model of about 8 million parameters and with one of `millions`; what a figure
grows by, over what θ grows by, is free of what every process holds. Where the C library's high-water mark is met by
joining, that is in it, too. Of a validator the forward pass's own memory (`muster.plan`) is taken away.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli_w
from memory import Held, held

from muster.plan.memory import plan_of
from muster.protocol.spec import Template, load_template
from muster.protocol.spec.layout import layout_of
from muster.protocol.types import Role

MIDDLE = Path(__file__).resolve().parents[1] / "30m-cpu.toml"
SMALL = 8.0
"""Millions of parameters of the smaller model: large enough for the compiled loops."""
ROUNDS = 4
ROLES = (Role.AGGREGATOR, Role.VALIDATOR)


def steady(held: Held) -> float:
    """Bytes that are resident in the second half of the run, in the middle of all looks."""
    return statistics.median(held.resident[len(held.resident) // 2 :])


def template(millions: float) -> Template:
    """The middle preset with so many parameters by its layers, little work, and a checkpoint in every other round."""
    document: dict[str, Any] = load_template(str(MIDDLE)).model_dump()
    document["inner"] |= {"steps": 1, "batch": 1}
    document["clock"] |= {"checkpoint_every": 2, "seal_age": 15, "evaluate": 16}
    one, two = (layout_of(Template.model_validate(grown(document, layers)).model).parameters for layers in (1, 2))
    layers = 1 + max(0, round((millions * 1e6 - one) / (two - one)))
    return Template.model_validate(grown(document, layers))


def grown(document: dict[str, Any], layers: int) -> dict[str, Any]:
    """The template with another number of layers."""
    return document | {"model": document["model"] | {"layers": layers}}


def play(made: Template, folder: Path) -> dict[Role, Held]:
    """What an operator's processes hold in a run of one miner."""
    preset = folder / "preset.toml"
    preset.write_text(tomli_w.dumps(made.model_dump(mode="json")))
    return {role: process for (role, _), process in held(str(preset), 1, ROUNDS, folder / "run").items()}


def batch(made: Template) -> int:
    """Bytes of a forward pass of a validator."""
    return sum(item.size for item in plan_of(made, Role.VALIDATOR, peers=1).items if item.name == "evaluation")


def prepare(millions: float, folder: Path) -> Callable[[], dict[str, float]]:
    """Two runs of one miner, of different sizes."""
    sizes = [template(SMALL), template(millions)]
    theta = [4 * layout_of(made.model).parameters for made in sizes]
    batches = {Role.VALIDATOR: [batch(made) for made in sizes], Role.AGGREGATOR: [0, 0]}

    def measured() -> dict[str, float]:
        runs = []
        for made in sizes:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                runs.append(play(made, Path(place)))
        figures = {}
        for role in ROLES:
            less = batches[role][1] - batches[role][0]
            grows = runs[1][role].peak - runs[0][role].peak - less
            stays = steady(runs[1][role]) - steady(runs[0][role])
            figures[f"{role.value}_peak"] = grows / (theta[1] - theta[0])
            figures[f"{role.value}_resident"] = stays / (theta[1] - theta[0])
        return figures

    return measured
