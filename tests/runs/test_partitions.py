"""Real processes in network namespaces that are cut off from each other: the majority goes on, the rest stalls, and
after healing there is one ledger.

Each operator and each miner is in a namespace of its own, with its bucket: a real S3 server behind a port of that
namespace. The chain is this machine's file and is cut off from nobody. What is cut vanishes without a word.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from list_daemons import Daemons, PlaceOnS3, ended, environments, moved, provided_on, stage_of
from namespaces import NETWORK, PORT, Network, NoNamespaces, doors, network
from s3_server import RadosGateway

from muster.node.telemetry.events import Recorded, Undone
from muster.protocol.wire import Record

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(3000)]

OPERATORS, MINERS = 3, 3
LEADERS = tuple(f"operator-{i}" for i in range(OPERATORS))
NAMES = (*LEADERS, *(f"miner-{i}" for i in range(MINERS)))
LABELS = tuple(f"aggregator-{name}" if name in LEADERS else name for name in NAMES)
TOUCH = 1200
"""Blocks, of 0.25 s: many times the deadline of a request, as some dozens of Bittensor's are."""
CUT = 1
"""The cut comes once all have anchored the record of this round."""
ALONE = 2
"""Rounds that a majority closes by itself after the one that was cut in two."""


TURN = 240
"""Blocks of a turn, twice the deadline of a request: nobody takes over from who only waits for one."""


@pytest.fixture
def apart(tmp_path: Path, s3_server: RadosGateway) -> Iterator[tuple[Daemons, Network]]:
    """A namespace for everybody, in which nobody has started, and nothing is cut yet."""
    try:
        with network(NAMES) as net:
            listeners = [net.listen(name) for name in NAMES]
            _, _, port = s3_server.address.rpartition(":")
            made = provided_on(s3_server, OPERATORS, MINERS)
            provided = moved(made, NETWORK, {name: (host, PORT) for name, host in net.hosts.items()})
            stage = stage_of(tmp_path, OPERATORS, MINERS, provided, touch=TOUCH, turn=TURN)
            before = {name: net.before(name) for name in NAMES}
            daemons = Daemons(stage, PlaceOnS3(s3_server, made), environments(stage, provided), before)
            with doors(listeners, int(port)), ended(daemons):
                yield daemons, net
    except NoNamespaces as why:
        pytest.skip(f"no network can be cut here: {why}")


def newest(daemons: Daemons, name: str) -> int:
    """The newest round that an operator has anchored."""
    return max(daemons.votes(name), default=-1)


def recorded(daemons: Daemons, name: str) -> list[int]:
    """The rounds that an operator has closed itself."""
    return [event.round for event in daemons.told(f"aggregator-{name}") if isinstance(event, Recorded)]


def agreed(daemons: Daemons, round_: int) -> bytes | None:
    """The record of a round that more than half of the list have anchored."""
    newest = {(seen.hotkey, seen.anchor.round): seen.anchor.digest for seen in daemons.anchors()}
    votes = Counter(digest for (_, at), digest in newest.items() if at == round_)
    return next((digest for digest, count in votes.items() if 2 * count > OPERATORS), None)


def ledger(daemons: Daemons, name: str, last: int) -> list[Record]:
    """The records, in somebody's bucket, that lead to the one of a round on which most are agreed, oldest first."""
    records, at = daemons.records(name), agreed(daemons, last)
    found: list[Record] = []
    while at in records:
        found.insert(0, records[at])
        at = records[at].parent
    assert [record.round for record in found] == list(range(last + 1))
    return found


def audit(daemons: Daemons, net: Network) -> list[str]:
    """The state roots that an audit, made from within the network, finds."""
    words = ("audit", str(daemons.stage.run.path), "--json")
    argv = (*net.before("miner-1"), sys.executable, "-P", "-m", "muster", *words)
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    roots: list[str] = json.loads(done.stdout.splitlines()[-1])["state_roots"]
    return roots


@pytest.mark.parametrize(
    "minority",
    [("operator-0", "miner-0"), ("operator-2", "miner-2")],
    ids=["with the leader", "with a follower"],
)
def test_the_majority_goes_on_and_there_is_one_ledger_in_the_end(
    apart: tuple[Daemons, Network], minority: tuple[str, str]
) -> None:
    daemons, net = apart
    daemons.start_all()
    lone, _ = minority
    others = [name for name in LEADERS if name != lone]
    daemons.until(lambda: min(newest(daemons, name) for name in LEADERS) >= CUT)
    net.cut(minority, [name for name in NAMES if name not in minority])
    cut = max(newest(daemons, name) for name in LEADERS) + 1  # this one may be the last that all have, or the first
    daemons.until(lambda: min(newest(daemons, name) for name in others) >= cut + 1 + ALONE)

    # The majority goes on; the minority closes by itself what it may before a round is final, and no more.
    last = min(newest(daemons, name) for name in others)
    alone = [round_ for round_ in recorded(daemons, lone) if round_ > cut]
    assert len(alone) <= daemons.stage.spec.clock.finality
    assert newest(daemons, lone) <= cut + daemons.stage.spec.clock.finality
    net.heal()

    # All come to stand on what the majority did, and go on together from there.
    daemons.until(lambda: newest(daemons, lone) > last and all(last in daemons.applied(label) for label in LABELS))
    applied = [daemons.applied(label) for label in LABELS]
    for round_ in range(last + 1):
        assert len({each[round_].root for each in applied}) == 1, round_
    records = ledger(daemons, others[0], last)
    accepted = Counter((entry.round, entry.public) for record in records for entry in record.accepted)
    assert set(accepted.values()) == {1}
    assert {daemons.name_of(record.leader) for record in records[cut + 1 :]} <= set(others)
    taken_back = {event.round for event in daemons.told(f"aggregator-{lone}") if isinstance(event, Undone)}
    assert taken_back <= {cut, *alone}
    assert audit(daemons, net)[: last + 1] == [applied[0][round_].root for round_ in range(last + 1)]


def test_a_leader_that_dies_with_its_network_is_followed_by_the_next(apart: tuple[Daemons, Network]) -> None:
    daemons, net = apart
    dead, follower, fell = "operator-0", "operator-1", 3
    daemons.start_all({dead: f"record.before_put:crash@{fell + 1}"})
    daemons.until(lambda: daemons.running[f"aggregator-{dead}"].poll() is not None)
    net.cut([dead], [name for name in NAMES if name != dead])
    last = fell + 2
    daemons.until(lambda: agreed(daemons, last) is not None)
    records = {record.round: record for record in ledger(daemons, follower, last)}
    blocks = {seen.anchor.round: seen.block for seen in reversed(daemons.anchors())}
    opening = records[fell - 1].opening
    assert opening is not None
    assert (daemons.name_of(records[fell].leader), records[fell].turn) == (follower, 1)
    assert blocks[fell] <= opening.anchor_by + TURN
    # The list is that of the seal that the miners had answered: no work is lost, though its bucket swallows requests.
    assert all(len(records[round_].accepted) == MINERS for round_ in range(fell, last + 1))
    net.heal()
    before = len(daemons.votes(dead))
    daemons.start("aggregator", dead)
    daemons.until(lambda: len(daemons.votes(dead)) > before)
    assert newest(daemons, dead) > fell
    assert recorded(daemons, dead)[-1] < fell
