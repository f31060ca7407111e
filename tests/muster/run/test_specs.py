"""A spec is made for one chain, and only with rounds that chain has room for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from run_folders import ROSTER, make_spec

from muster.protocol.chain.commitments import CommitSpace
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.sqlite import SqliteChain
from muster.protocol.errors import ChainError, ConfigError
from muster.protocol.spec import ChainSpec, RunSpec, load_template
from muster.protocol.types import Origin
from muster.run.file import RunFile
from muster.run.specs import Standing, check_pace, find_standing, new_spec

BITTENSOR = CommitSpace(3100, 360)


def test_a_spec_without_a_chain_is_for_the_local_one_of_its_seed(tmp_path: Path) -> None:
    spec = RunSpec.from_bytes((make_spec(tmp_path, seed=5) / "spec.json").read_bytes())
    assert spec.genesis.chain == ChainSpec.of(ChainGenesis(seed=5).origin)
    assert spec.genesis.chain != ChainSpec.of(ChainGenesis(seed=6).origin)


def test_the_chain_is_asked_which_it_is(tmp_path: Path) -> None:
    path = tmp_path / "chain.sqlite"
    SqliteChain.create(path, ChainGenesis(seed=3), block_seconds=1.0, clock=lambda: 0.0)
    found = asyncio.run(find_standing(RunFile(run_id="0" * 64, chain=f"sqlite:{path}")))
    assert (found.origin, found.space, found.locations) == (ChainGenesis(seed=3).origin, None, {})
    with pytest.raises(ChainError, match="none"):
        asyncio.run(find_standing(RunFile(run_id="0" * 64, chain=f"sqlite:{tmp_path}/none")))


def test_round_0_opens_at_the_newest_block_unless_told(tmp_path: Path) -> None:
    hotkey = ROSTER.operators[0].hotkey
    standing = Standing(Origin("bittensor", bytes(32), 3, 100), 4321, None)
    preset = make_spec(tmp_path) / ".." / "small.toml"
    texts = sorted(tmp_path.glob("text-*"))
    for i, (block, opens) in enumerate([(None, 4321), (5000, 5000)]):
        new_spec(str(preset), tmp_path / f"out{i}", hotkey, (hotkey,), (), texts, 0, block, standing)
        spec = RunSpec.from_bytes((tmp_path / f"out{i}" / "spec.json").read_bytes())
        assert (spec.genesis.block, spec.genesis.chain.netuid) == (opens, 3)


@pytest.mark.parametrize(("min_blocks", "fits"), [(0, False), (10, False), (11, True), (100, True)])
def test_rounds_that_no_leader_could_anchor_in_time_are_refused(min_blocks: int, fits: bool) -> None:
    clock = load_template("tiny").clock.model_copy(update={"min_blocks": min_blocks})
    check_pace(clock, None)
    if fits:
        check_pace(clock, BITTENSOR)
        return
    with pytest.raises(ConfigError, match=f"a round may last {min_blocks + 1} blocks.*clock.min_blocks to at least 11"):
        check_pace(clock, BITTENSOR)


def test_a_leader_whose_location_is_too_long_for_the_rounds_is_named() -> None:
    clock = load_template("tiny").clock.model_copy(update={"min_blocks": 11})
    locations = {"5Short": "x" * 59, "5Long": "x" * 205, "5Miner": "x" * 512}
    check_pace(clock, BITTENSOR, ["5Short", "5Unknown"], locations)
    sentence = (
        r"a round may last 12 blocks, .* an anchor of 5Long every 33 blocks only \(3100 bytes in 360 blocks, .* with a "
        r"location of 205 bytes\); have it commit a location of at most 59 bytes .* clock.min_blocks to at least 32"
    )
    with pytest.raises(ConfigError, match=sentence):
        check_pace(clock, BITTENSOR, ["5Short", "5Long"], locations)


@pytest.mark.parametrize("name", ["512m", "8b", "72b"])
def test_the_presets_for_strangers_have_rounds_that_bittensor_has_room_for(name: str) -> None:
    check_pace(load_template(name).clock, BITTENSOR)
