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

STUDY = Path(__file__).with_name("study.toml")
TEXT = Path(__file__).parents[1] / ".cache" / "gauntlet-text"
"""Where the text is written, once; git does not see it."""


@lru_cache(1)
def template() -> Template:
    """The study's preset."""
    return load_template(str(STUDY))


@lru_cache(1)
def text() -> TextReader:
    """The text, opened once a process."""
    return open_text(TEXT, template().data.window)


def roster_of(scenario: Scenario, seed: int) -> Roster:
    """A hotkey for each validator and each role."""
    return Roster.of(seed, len(scenario.roles), scenario.validators, {})


def spec_of(scenario: Scenario, seed: int) -> RunSpec:
    """The run spec of a scenario and seed."""
    return roster_of(scenario, seed).spec(template(), text().manifest)


def beacon(seed: int, purpose: str, round_: int) -> bytes:
    """The local chain's beacon."""
    return ChainGenesis(seed=seed).beacon(purpose, round_)
