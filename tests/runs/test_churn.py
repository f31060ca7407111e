"""Who comes and goes: a run without miners waits for them at nobody's cost, crowds get in at once, and one that flaps
costs the others what the rule says and no more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from nano_stage import BLOCK, NanoStage, Setting
from run_builders import Ledger

from muster.lab.faults import Fault, Script
from muster.lab.simulator import SimulatedRun
from muster.node.telemetry.events import Joined, Scored
from muster.protocol.identity import hotkey_of
from muster.protocol.wire import Kind

CLOCK = {"min_blocks": 3, "deadline": 8, "reveal": 6, "grace": 3, "seal_age": 2, "evaluate": 3, "checkpoint_every": 2}


AWAY, ROUNDS = range(2, 5), 7
"""The rounds in which no miner is there, and how many there are."""


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> tuple[NanoStage, SimulatedRun]:
    stage = NanoStage.lay(Setting("away", CLOCK, 4), tmp_path_factory.mktemp("away"))
    return stage, stage.play(Script(), ROUNDS, absent=lambda _name, round_: round_ in AWAY)


class TestEverybodyLeaves:
    """All miners are away for some rounds, and come back."""

    def test_rounds_pass_and_nothing_moves(self, away: tuple[NanoStage, SimulatedRun]) -> None:
        """θ stays, and so do the schedules, which follow the outer step."""
        _, run = away
        records = [Ledger(run).record(round_) for round_ in range(ROUNDS)]
        assert [one.kind is Kind.NULL for one in records] == [round_ in AWAY for round_ in range(ROUNDS)]
        assert [one.outer_step for one in records] == [0, 1, 2, 2, 2, 2, 3]
        assert len({run.state_roots[round_] for round_ in range(1, 5)}) == 1
        assert len(run.state_roots) == ROUNDS

    def test_they_are_expected_all_the_time_and_taken_in_when_they_are_back(
        self, away: tuple[NanoStage, SimulatedRun]
    ) -> None:
        stage, run = away
        miners = tuple(sorted(miner.identity.public for miner in stage.roster.miners))
        for round_ in range(1, ROUNDS):
            assert Ledger(run).opening(round_).expected == miners
        for round_ in range(AWAY.stop, ROUNDS):
            assert set(Ledger(run).reasons(stage.roster, round_).values()) == {""}
            opening, seal = Ledger(run).opening(round_), Ledger(run).seal(round_)
            assert seal.block.number < opening.deadline, "nobody waits for a deadline any more"

    def test_it_is_held_against_nobody(self, away: tuple[NanoStage, SimulatedRun]) -> None:
        """Neither as an absence nor as a failure, nor are they measured."""
        _, run = away
        standings = {
            scored.round: {
                row.hotkey: (row.inactive, row.failures, row.evaluated, row.rating_mu) for row in scored.peers
            }
            for scored in run.events("validator-0", Scored)
        }
        assert set(standings) >= {1, *AWAY}
        assert all(standings[round_] == standings[1] for round_ in AWAY)

    def test_the_chain_is_written_less_often_than_ever(self, away: tuple[NanoStage, SimulatedRun]) -> None:
        """A null round takes the whole deadline: an empty run cannot use up what the chain takes of commitments."""
        stage, run = away
        anchored = {seen.anchor.round: seen.block for seen in asyncio.run(run.chain.anchors(0))}
        for round_ in AWAY:
            assert anchored[round_] - anchored[round_ - 1] >= stage.spec.clock.deadline
        assert len(anchored) == ROUNDS + 1, "once a round, and for the closing record"


def test_sixteen_who_come_at_once_are_in_the_first_whole_round(tmp_path: Path) -> None:
    """And cost the round nothing: who is new is not waited for, and from the third round on is."""
    newcomers = [f"miner-{i}" for i in range(2, 18)]
    setting = Setting("crowd", CLOCK, 4, strangers=tuple(newcomers), miners=18)
    stage = NanoStage.lay(setting, tmp_path)
    run = stage.play(Script(), 3, arrivals=dict.fromkeys(newcomers, 1))
    ledger = Ledger(run)
    assert [len(ledger.record(round_).accepted) for round_ in range(3)] == [2, 18, 18]
    assert [len(ledger.opening(round_).expected) for round_ in range(4)] == [2, 2, 2, 18]
    assert len(run.state_roots) == 3
    waited = [ledger.seal(round_).block.number - ledger.opening(round_).open.number for round_ in range(3)]
    assert max(waited) < stage.spec.clock.deadline


@pytest.mark.parametrize("rounds", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_one_that_flaps_costs_two_deadlines_in_all(tmp_path: Path, rounds: int) -> None:
    """However long it goes on: it is never good three times in a row, and so never waited for again."""
    stage = NanoStage.lay(Setting("flaps", CLOCK, 4), tmp_path)
    absent = lambda name, round_: name == "miner-1" and round_ % 2 == 1  # noqa: E731
    run = stage.play(Script(), rounds, absent=absent, stuck=40 * rounds)
    ledger = Ledger(run)
    waited = [ledger.seal(round_).block.number >= ledger.opening(round_).deadline for round_ in range(rounds)]
    assert [round_ for round_ in range(rounds) if waited[round_]] == [1, 3]
    here = [ledger.reasons(stage.roster, round_).get("miner-1") for round_ in range(0, rounds, 2)]
    assert set(here) == {""}, "it is taken in whenever it is there"


class TestColdJoin:
    """A newcomer is in the first round that opens after it has its checkpoint."""

    @pytest.mark.parametrize(
        ("operators", "blocks"),
        [
            (1, 20),
            pytest.param(1, 0, marks=pytest.mark.slow),
            pytest.param(1, 45, marks=pytest.mark.slow),
            pytest.param(3, 0, marks=pytest.mark.slow),
            pytest.param(3, 30, marks=pytest.mark.slow),
        ],
    )
    def test_its_first_submission_is_in_the_first_whole_round(
        self, tmp_path: Path, operators: int, blocks: int
    ) -> None:
        setting = Setting("cold", CLOCK, 4, operators=operators, strangers=("miner-1",))
        stage = NanoStage.lay(setting, tmp_path)
        slow = [Fault("slow", "store.get", "*.safetensors", who="miner-1", seconds=blocks * BLOCK)] if blocks else []
        run = stage.play(Script(slow), 6 + blocks // 3, arrivals={"miner-1": 3}, stuck=600)
        ledger = Ledger(run)
        (had,) = (noted.time for noted in run.journals["miner-1"] if isinstance(noted.event, Joined))
        public = stage.roster.miners[1].identity.public
        opened = {round_: ledger.opening(round_).open.number for round_ in range(len(run.state_roots))}
        whole = min(round_ for round_ in opened if opened[round_] * BLOCK > had)
        taken = [round_ for round_ in opened if any(entry.public == public for entry in ledger.record(round_).accepted)]
        assert min(taken) <= whole, "a round that is open already may do, too"
        assert taken == list(range(min(taken), len(opened)))
        assert hotkey_of(public) not in stage.spec.genesis.miners
