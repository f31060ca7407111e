"""Runs that are cut off in every phase say what they wait for, by chain and buckets alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from cut_runs import ROUNDS, Cut, cut, nano, simulator
from files_left_alone import picture
from folder_runs import write_run
from forked import Commands
from run_builders import Stage

from muster.history.standing import Standing, look, page
from muster.lab import clock
from muster.lab.faults import Fault, Script
from muster.node.directory import Directory
from muster.protocol.errors import StorageError
from muster.protocol.ledger.waiting import Stage as Phase
from muster.protocol.storage import Buckets
from muster.protocol.storage.locations import MemoryBuckets

WIDTH = 120
LATE = 40.5
"""Seconds, and blocks, after which a leader is late whatever holds up round 1."""


@pytest.fixture
def stage(texts: list[Path], tmp_path: Path) -> Stage:
    return nano(tmp_path, texts)


def looked(stage: Stage, left: Cut, buckets: Buckets | None = None) -> Standing:
    directory = Directory(left.chain, buckets or left.buckets)
    return asyncio.run(look(stage.run.history, left.chain, directory))


class Expected:
    """What `--json` says of round 1, by names."""

    def __init__(self, stage: Stage, standing: Standing) -> None:
        told = standing.to_json_object()
        json.dumps(told)
        name = {member.hotkey: member.name for member in stage.roster.members}
        self.told = told
        self.phase = told["phase"]
        waits: list[dict[str, object]] = told["waits_for"]  # type: ignore[assignment]
        self.waits = [(one["what"], sorted(name[hotkey] for hotkey in one["whom"])) for one in waits]  # type: ignore[attr-defined]
        self.until = [one["until_block"] for one in waits]
        self.movers = sorted(name[hotkey] for hotkey in told["can_move_it"])  # type: ignore[attr-defined]
        self.late = [name[hotkey] for hotkey in told["late"]]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fault", "phase", "waits", "late"),
    [
        (Fault("error", "store.put", "*/00000001.head", who="miner-2"), "submit", ("submissions", ["miner-2"]), False),
        (Fault("error", "store.put_if_absent", "*/00000001.*.heads"), "submit", ("seal", ["operator-0"]), False),
        (Fault("error", "store.put_if_absent", "*/00000001.*.heads"), "submit", ("seal", ["operator-0"]), True),
        (Fault("error", "store.put", "*/00000001.key", who="miner-2"), "reveal", ("keys", ["miner-2"]), False),
        (Fault("error", "store.put_if_absent", "*/00000001.*.made"), "record", ("record", ["operator-0"]), True),
        (Fault("error", "chain.commit", "anchor/1"), "record", ("anchor", ["operator-0"]), False),
        (Fault("error", "chain.commit", "anchor/1"), "record", ("anchor", ["operator-0"]), True),
    ],
)
def test_a_run_that_waits(stage: Stage, fault: Fault, phase: str, waits: tuple[str, list[str]], late: bool) -> None:
    seconds = LATE if late else 6.5 if phase == "reveal" else 8.5
    standing = looked(stage, cut(stage, seconds, fault))
    found = Expected(stage, standing)
    assert (standing.waiting.round, found.phase, found.waits) == (1, phase, [waits])
    assert (found.movers, found.late) == (waits[1], waits[1] if late else [])
    (until,) = found.until
    assert isinstance(until, int)
    assert (until <= standing.waiting.block) is late
    text = page(standing, WIDTH)
    assert (f"  late        {standing.name(next(iter(standing.waiting.movers)))}" in text) is late
    assert max(map(len, text.splitlines())) <= WIDTH


def test_what_is_not_final_is_told_and_whose_anchor_is_missing(stage: Stage) -> None:
    """The chain shows a record of round 0 that no final block holds yet."""
    left = cut(stage, 8.5, Fault("error", "store.put", "*/00000001.head", who="miner-2"))
    left.chain._final_after = 10**6  # type: ignore[attr-defined]
    standing = looked(stage, left)
    assert standing.to_json_object()["not_final"] == {"round": 0, "anchors_missing": []}
    assert "  not final   the records from round 0 on" in page(standing, WIDTH)


def test_a_leader_whose_bucket_is_gone_leaves_what_the_chain_shows(stage: Stage) -> None:
    left = cut(stage, 8.5, Fault("error", "store.put", "*/00000001.head", who="miner-2"))
    leader = stage.member("operator-0").hotkey
    with pytest.raises(StorageError, match=rf"the newest anchor is of round 0, made in block \d+ by {leader}, whose"):
        looked(stage, left, MemoryBuckets())


@pytest.fixture(scope="module")
def finished(texts: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A run that is over, in its folder."""
    made = nano(tmp_path_factory.mktemp("status"), texts)
    write_run(made, clock.run(simulator(made, Script(()), MemoryBuckets()).run(ROUNDS)))
    return made


class TestCommand:
    def test_a_run_that_is_over_waits_for_nothing_and_keeps_every_byte(
        self, finished: Stage, muster_command: Commands
    ) -> None:
        before = picture(finished.run.path)
        ended = muster_command("status", str(finished.run.path), "--json")
        assert (ended.returncode, ended.stderr) == (0, "")
        told = json.loads(ended.stdout)
        assert (told["round"], told["phase"], told["outer_step"]) == (ROUNDS, Phase.CLOSED.value, ROUNDS)
        assert [told[key] for key in ("waits_for", "can_move_it", "late", "not_final", "problems")] == [
            [], [], [], None, []
        ]  # fmt: skip
        assert picture(finished.run.path) == before
        ended = muster_command("status", str(finished.run.path))
        assert "  phase       closed: the run is over" in ended.stdout.splitlines()

    def test_no_such_run_is_a_sentence(self, tmp_path: Path, muster_command: Commands) -> None:
        ended = muster_command("status", str(tmp_path))
        assert (ended.returncode, ended.stdout) == (3, "")
        assert ended.stderr.startswith("error[config]: no run at ")
