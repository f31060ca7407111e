"""The spec, the text and the beacons of a measured run: what Muster itself would be given to run it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from benchmarks.convergence.setting import open_text
from benchmarks.gauntlet.scenarios import Scenario
from muster.node.data.dataset import TextReader
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.spec import RunSpec, Template, load_template
from muster.testnet.roster import Roster

SLOTS = 80
"""Of every measured run, at least: room for sixty-four peers and a validator."""
TEXT = Path(__file__).parents[1] / ".cache" / "gauntlet-text"
"""Where the text is written, once for each length of window; git does not see it."""


@lru_cache
def template(preset: str = "study") -> Template:
    """A spec file beside this one, or one of the product's presets, with room for the peers of any scenario."""
    beside = Path(__file__).with_name(f"{preset}.toml")
    found = load_template(str(beside) if beside.exists() else preset)
    data = found.data.model_copy(update={"slots": max(found.data.slots, SLOTS)})
    return found.model_copy(update={"data": data})


@lru_cache
def text(preset: str = "study") -> TextReader:
    """The text, opened once a process."""
    window = template(preset).data.window
    return open_text(TEXT / str(window), window)


def roster_of(scenario: Scenario, seed: int) -> Roster:
    """A hotkey for each validator and each role."""
    return Roster.of(seed, len(scenario.roles), scenario.validators, {})


def spec_of(scenario: Scenario, seed: int) -> RunSpec:
    """The run spec of a scenario and seed."""
    return roster_of(scenario, seed).spec(template(scenario.preset), text(scenario.preset).manifest)


def beacon(seed: int, purpose: str, round_: int) -> bytes:
    """The local chain's beacon."""
    return ChainGenesis(seed=seed).beacon(purpose, round_)
