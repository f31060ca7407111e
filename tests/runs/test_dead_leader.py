"""Real processes: the leader dies in the middle of a round and its bucket is gone; the run goes on, and it comes back.

Chain blocks are the clock: what is asserted counts in them, whatever else the machine has to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from list_daemons import CLOCK, Daemons, daemons_of

pytestmark = [pytest.mark.processes, pytest.mark.timeout(3000)]

MINERS = 2
FALLS = 4
"""The round in which the leader dies: it has signed the record on its disk, and nobody has seen it."""
FAULT = f"record.before_put:crash@{FALLS + 1}"
LAST = FALLS + 3
"""A round that takes a final record of the time after it."""
DEAD, NEXT = "operator-0", "operator-1"


@pytest.fixture
def daemons(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Daemons]:
    """Everybody is there, and the leader is scripted to die."""
    operators, place = request.param
    server = request.getfixturevalue("s3_server") if place == "s3" else None
    with daemons_of(tmp_path, operators, MINERS, server) as made:
        made.start_all({DEAD: FAULT})
        yield made


@pytest.mark.parametrize(
    "daemons",
    [
        (2, "folders"),
        (3, "s3"),
        pytest.param((3, "folders"), marks=pytest.mark.slow),
        pytest.param((2, "s3"), marks=pytest.mark.slow),
    ],
    indirect=True,
    ids=["list of 2-folders", "list of 3-s3", "list of 3-folders", "list of 2-s3"],
)
def test_the_next_closes_the_round_and_the_run_goes_on(daemons: Daemons) -> None:
    leader = f"aggregator-{DEAD}"
    daemons.until(lambda: daemons.running[leader].poll() is not None)
    # What nobody else has voted for nobody else may have.
    assert FALLS - 2 in daemons.votes(NEXT), "the next has started too late to have anything of the dead one's"
    daemons.place.lose(DEAD)
    daemons.until(lambda: LAST in daemons.applied("miner-0"))
    records = {record.round: record for record in daemons.records(NEXT).values()}
    blocks = {seen.anchor.round: seen.block for seen in reversed(daemons.anchors())}
    fell = records[FALLS]

    # The next closes it with the list that there was, which the miners had answered: no work is lost.
    opening = records[FALLS - 1].opening
    assert opening is not None
    assert (daemons.name_of(fell.leader), fell.turn) == (NEXT, 1)
    assert blocks[FALLS] <= opening.anchor_by + CLOCK["turn"]
    assert all(len(record.accepted) == MINERS for round_, record in records.items() if round_ < LAST)

    # The dead one does not cost its limit again. In a list of two nothing is final without its vote until it is out of
    # touch, and the run waits for that once.
    gaps = sorted(blocks[round_ + 1] - blocks[round_] for round_ in range(FALLS, LAST - 1))
    waits = len(daemons.stage.roster.operators) == 2
    assert all(gap < CLOCK["deadline"] for gap in gaps[: len(gaps) - waits]), blocks
    assert gaps[-1] <= CLOCK["touch"] + CLOCK["turn"], blocks

    comes_back(daemons, FALLS)


def comes_back(daemons: Daemons, fell: int) -> None:
    """It follows what the others have done without it, and votes again; what it had signed nobody ever sees."""
    before = len(daemons.votes(DEAD))
    daemons.place.give_back(DEAD)
    daemons.start("aggregator", DEAD)
    daemons.until(lambda: len(daemons.votes(DEAD)) > before)
    assert daemons.votes(DEAD)[-1] > fell
    own = [record.round for record in daemons.records(DEAD).values() if daemons.name_of(record.leader) == DEAD]
    assert own == []
    roots = [
        {round_: event.root for round_, event in daemons.applied(label).items()}
        for label in ("miner-0", "miner-1", f"aggregator-{DEAD}", f"aggregator-{NEXT}")
    ]
    common = set.intersection(*(set(each) for each in roots))
    assert {fell, LAST} <= common
    assert all(len({each[round_] for each in roots}) == 1 for round_ in common)
