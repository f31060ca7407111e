"""Runs whose aggregators let go of what is old: whoever joins finds what it needs, and an audit says what is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from list_runs import Case, right
from run_builders import lay_out

from muster.audit import FaultClass
from muster.lab import clock
from muster.lab.nano import counting_miner, nano_template
from muster.lab.simulator import Simulator
from muster.node.telemetry.events import Applied, Joined
from muster.protocol import paths
from muster.protocol.spec import Template
from muster.testnet.roster import Roster
from muster.validator.aggregator.aggregator import Aggregator

ROUNDS, EVERY = 9, 2
SECOND = 8
"""The round of the second newest checkpoint of all: the closing record pins one, too."""


class Thrifty(Aggregator):
    """Keeps what it must."""

    def __init__(self, *parts: Any, **named: Any) -> None:
        super().__init__(*parts, **{**named, "keep": 1})


@pytest.fixture(scope="module")
def case(texts: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A run that two lead, and in which miner-2 joins late."""
    document = nano_template().model_dump()
    document["clock"] |= {"checkpoint_every": EVERY}
    folder = tmp_path_factory.mktemp("kept") / "run"
    stage = lay_out(folder, texts, Template.model_validate(document), Roster.of(0, 3, 2, {}))
    simulator = Simulator(
        stage.roster, stage.spec, stage.text, arrivals={"miner-2": 7}, makers=lambda _: counting_miner,
        block_seconds=12.0, leader=Thrifty,
    )  # fmt: skip
    return Case(stage, clock.run(simulator.run(ROUNDS)))


def rounds(case: Case, name: str, prefix: Callable[[bytes], str]) -> set[int]:
    """The rounds of which somebody's bucket has something under a prefix."""
    start = prefix(case.run_id)
    return {int(key.removeprefix(start)[:8]) for key in case.everything_of(name) if key.startswith(start)}


def test_two_checkpoints_and_what_follows_are_there_and_all_records(case: Case) -> None:
    for name in case.operators:
        checkpoints = sorted(rounds(case, name, paths.checkpoints))
        assert checkpoints[0] <= SECOND
        assert {SECOND, ROUNDS} <= set(checkpoints)
        assert rounds(case, name, paths.bundles) == set(range(checkpoints[0], ROUNDS))
        assert checkpoints[0] >= SECOND - 2 * EVERY, "older ones have gone"
        every = {key[: key.rindex("-")] for key in case.everything_of(name) if key.endswith(".rec")}
        assert len(every) == ROUNDS + 1


def test_who_joins_late_finds_what_it_needs(case: Case) -> None:
    told = [noted.event for noted in case.run.journals["miner-2"]]
    joined = next(event for event in told if isinstance(event, Joined))
    assert joined.round >= EVERY
    last = [event for event in told if isinstance(event, Applied)][-1]
    assert last.root == case.run.state_roots[-1]


def test_miners_keep_their_last_rounds(case: Case) -> None:
    assert rounds(case, "miner-0", paths.submissions) == set(range(ROUNDS - 4, ROUNDS + 1))


def test_the_audit_says_what_is_gone_and_replays_the_rest(case: Case) -> None:
    report = case.audit()
    assert report.of(FaultClass.LEDGER) == []
    (note,) = [note.said for note in report.notes if "no longer kept" in note.said]
    first = min(rounds(case, "operator-0", paths.checkpoints))
    assert f"{first} rounds from 0 to {first - 1}" in note
    assert report.not_replayed == list(range(first))
    assert report.state_roots == case.run.state_roots[first:]
    assert report.closed
    later = case.audit(first_round=first)
    assert (later.of(FaultClass.LEDGER), later.state_roots) == ([], case.run.state_roots[first:])
    assert not [note for note in later.notes if "no longer kept" in note.said]


def test_what_is_missing_later_is_a_fault_all_the_same(case: Case) -> None:
    gone = case.key("bundles", SECOND)
    with case.changed({(name, gone): None for name in case.operators}):
        report = case.audit()
    (fault,) = report.of(FaultClass.LEDGER)
    assert (fault.round, fault.name) == (SECOND, gone)
    assert not right(case, report)
    assert asyncio.run(case.bucket("operator-0").head(gone)) is not None


def test_a_gap_in_what_is_older_is_a_fault(case: Case) -> None:
    first = min(rounds(case, "operator-0", paths.checkpoints))
    assert first < SECOND
    gap = case.key("bundles", first + 1)
    with case.changed({(name, gap): None for name in case.operators}):
        report = case.audit()
    assert [(fault.round, fault.name) for fault in report.of(FaultClass.LEDGER)] == [(first + 1, gap)]
