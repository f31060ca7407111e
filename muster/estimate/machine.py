"""The machine an estimate is for: this one, looked at, or another one, of which its owner says what he knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from muster.doctor.fit import fit_of
from muster.doctor.machine import find_space, measure_step
from muster.doctor.needs import step_operations
from muster.node.compute import Machine as Looked
from muster.node.compute import choose
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.errors import UsageError
from muster.protocol.identity import Identity
from muster.protocol.spec import ChainSpec, GenesisSpec, RunSpec, Template
from muster.protocol.types import Role

HERE = "here"
GIB = 1 << 30
_KEYS = ("step", "tflops", "memory")


@dataclass(frozen=True, slots=True)
class Machine:
    """Seconds of an inner step and bytes of memory, None where they are not known, each with its source."""

    step_seconds: float | None
    step_source: str
    memory: int | None
    memory_source: str


def look_here(template: Template) -> Machine:
    """This machine: a step of the model measured or estimated, as the doctor does, and its memory."""
    space, seen = find_space(Path.cwd()), Looked.look()
    compute, _ = choose(seen)
    fit = fit_of(template, Role.MINER, compute, seen.card, space.memory_available)
    fits = fit.plan.host <= space.memory_available and fit.plan.gpu <= fit.card
    facts = measure_step(_as_run(template), compute, seen.card, fits)
    how = f"{'estimated from a matrix product' if facts.estimated else 'one step measured'} on this {facts.device}"
    return Machine(facts.step_seconds, how, space.memory_bytes, "this machine's, as the kernel or its container says")


def parse_machine(text: str, template: Template) -> Machine:
    """Another machine: `step=SECONDS` or `tflops=RATE`, and `memory=GIB`, with commas between.

    Raises:
        UsageError: it says something else, or no positive numbers.
    """
    given: dict[str, float] = {}
    for word in text.split(","):
        name, _, value = word.strip().partition("=")
        if name not in _KEYS or name in given:
            raise UsageError(f"--machine is {HERE}, or {'=…, '.join(_KEYS)}=… with commas between, not {text!r}")
        given[name] = _positive(value, name)
    if {"step", "tflops"} <= given.keys():
        raise UsageError("--machine takes step or tflops, not both")
    seconds, source = given.get("step"), "given: --machine step"
    if "tflops" in given:
        seconds = step_operations(template) / (given["tflops"] * 1e12)
        source = f"6 operations a parameter and token, at the {given['tflops']:g} TFLOPS given"
    memory = int(given["memory"] * GIB) if "memory" in given else None
    return Machine(
        seconds,
        source if seconds is not None else "not known: give --machine step=SECONDS or tflops=RATE",
        memory,
        "given: --machine memory" if memory is not None else "not known: give --machine memory=GIB",
    )


def _positive(value: str, name: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise UsageError(f"--machine {name} is a positive number, not {value!r}")
    return number


def _as_run(template: Template) -> RunSpec:
    """A template as a run that nobody plays: a step takes a model, and genesis weights to begin with."""
    if isinstance(template, RunSpec):
        return template
    nobody = Identity.derive(0, "nobody").hotkey
    genesis = GenesisSpec(
        seed=0,
        chain=ChainSpec.of(ChainGenesis(seed=0).origin),
        root="0" * 64,
        miners=(),
        leaders=(nobody,),
        owner=nobody,
    )
    return RunSpec(**{name: getattr(template, name) for name in Template.model_fields}, genesis=genesis)
