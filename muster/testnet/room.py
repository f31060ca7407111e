"""A testnet's arithmetic before it starts: whether this machine's memory holds all its participants, told at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from muster.node.compute import CPU, Card, Compute
from muster.plan.fit import ways
from muster.plan.memory import FLOAT, PROCESS, plan_of
from muster.plan.table import size
from muster.protocol.errors import ConfigError
from muster.protocol.spec import Template, load_template, preset_names
from muster.protocol.spec.layout import parameter_shapes
from muster.protocol.types import Role

MINER_FLOATS, OPERATOR_FLOATS = 3, 2
"""Of each parameter, whatever the settings: a miner's θ, working weights and error feedback; θ of the two others."""


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that there are: of memory, and of the GPU (0: it computes on the CPU)."""

    memory: int
    card: int = 0

    @classmethod
    def of(cls, memory: int, compute: Compute, card: Card | None) -> Room:
        """That of a machine whose participants compute so."""
        return cls(memory, card.memory if card is not None and compute.device.type == "cuda" else 0)

    def holds(self, need: Room) -> bool:
        """Whether there is so much."""
        return need.memory <= self.memory and need.card <= self.card

    def __str__(self) -> str:
        return f"{size(self.memory)} of memory" + (f" and {size(self.card)} of its GPU's" if self.card else "")


def check_room(template: Template, miners: int, validators: int, compute: Compute, room: Room) -> None:
    """Refuse a testnet that this machine's memory does not hold; `compute` is how its miners do.

    Raises:
        ConfigError: what it needs, what there is, and what fits instead.
    """
    least = _least(template, miners, validators)
    # The plan of a model far too large takes seconds, and what it holds of θ says enough.
    need = least if not _possible(least, room) else _need(template, miners, validators, compute, bool(room.card))
    if room.holds(need):
        return
    about = "at least" if need is least else "about"
    raise ConfigError(
        f"a testnet of {template.name} with {_count(miners, 'miner')} and {_count(validators, 'validator')} needs "
        f"{about} {need}, this machine has {room}; {_instead(template, miners, validators, compute, room)}"
    )


def _possible(least: Room, room: Room) -> bool:
    return least.memory <= room.memory + room.card


def _least(template: Template, miners: int, validators: int) -> Room:
    parameters = sum(math.prod(shape) for _, shape in parameter_shapes(template.model))
    floats = MINER_FLOATS * miners + OPERATOR_FLOATS * validators
    return Room(FLOAT * parameters * floats + PROCESS * (miners + 2 * validators))


def _need(template: Template, miners: int, validators: int, compute: Compute, on_gpu: bool) -> Room:
    """The peaks of all participants added up, as if they came together."""
    miner = plan_of(template, Role.MINER, compute, gpus=int(on_gpu), peers=miners)
    plain = Compute(compute.device) if on_gpu else CPU
    validator = plan_of(template, Role.VALIDATOR, plain, gpus=int(on_gpu), peers=miners)
    aggregator = plan_of(template, Role.AGGREGATOR, peers=miners)
    gpu = miners * miner.gpu + validators * validator.gpu
    return Room(miners * miner.host + validators * (validator.host + aggregator.host), gpu)


def _instead(template: Template, miners: int, validators: int, compute: Compute, room: Room) -> str:
    """What of it fits: other settings, fewer miners, or the largest preset."""
    if _possible(_least(template, 1, 1), room):
        for way in ways(compute, template.inner.batch):
            if room.holds(_need(template, miners, validators, way, bool(room.card))):
                return f"it fits with {_variables(way, compute)}"
        fewer = [
            count
            for count in range(miners - 1, 0, -1)
            if room.holds(_need(template, count, 1, compute, bool(room.card)))
        ]
        if fewer:
            return f"{_count(fewer[0], 'miner')} and 1 validator would fit"
    fitting = [preset for preset in _others(template) if _fits(preset, miners, validators, compute, room)]
    return f"{fitting[0].name} fits" if fitting else "no preset fits it with so many; ask for fewer miners"


def _others(template: Template) -> list[Template]:
    """The presets, the largest first."""
    presets = [load_template(name) for name in preset_names() if name != template.name]
    return sorted(presets, key=lambda preset: -_least(preset, 1, 0).memory)


def _fits(template: Template, miners: int, validators: int, compute: Compute, room: Room) -> bool:
    if not _possible(_least(template, miners, validators), room):
        return False
    return room.holds(_need(template, miners, validators, compute, bool(room.card)))


def _variables(way: Compute, now: Compute) -> str:
    """The variables of the environment that make one way of another."""
    less = way.micro_batch is not None and way.micro_batch != now.micro_batch
    words = [f"MUSTER_MICRO_BATCH={way.micro_batch}"] if less else []
    words += ["MUSTER_RECOMPUTE=true"] if way.recompute and not now.recompute else []
    words += [f"MUSTER_MOMENTS={way.moments}"] if way.moments != now.moments else []
    return " ".join(words)


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("" if count == 1 else "s")
