"""The testnet over scripted children: what it starts, when it ends, and what it says of a run that did not go well."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from muster.history.status import RunStatus, RunSummary
from muster.history.view import View
from muster.protocol.chain.sqlite import SqliteChain
from muster.protocol.errors import RunFailed, StorageError, UsageError
from muster.run.folder import RunDirectory
from muster.testnet import testnet

CHILD = Path(__file__).with_name("scripted_child.py")
ROUNDS = 2
STARTED = 1_700_000_000.0
LABELS = ("aggregator-operator-0", "validator-operator-0", "miner-0", "miner-1", "silent-0")


class Seen(View):
    """What a person would have seen."""

    def __init__(self) -> None:
        self.statuses: list[RunStatus] = []
        self.notes: list[str] = []
        self.summaries: list[RunSummary] = []

    def update(self, status: RunStatus) -> None:
        self.statuses.append(status)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finish(self, summary: RunSummary) -> None:
        self.summaries.append(summary)


@dataclass
class Bench:
    """A testnet of two miners, an adversary and an operator, whose processes play what `script` says."""

    folder: Path
    lives: Path
    script: Path
    view: Seen = field(default_factory=Seen)

    def made(self, **options: Any) -> testnet.Testnet:
        asked = {
            "preset": "tiny", "miners": 2, "validators": 1, "rounds": ROUNDS, "seed": 0, "directory": self.folder,
            "adversaries": {"silent": 1}, "started": STARTED,
        }  # fmt: skip
        return testnet.Testnet(testnet.TestnetOptions(**(asked | options)), self.view)

    def play(self, parts: Mapping[str, list[str]]) -> RunSummary:
        self.script.write_text(json.dumps(parts))
        return asyncio.run(self.made().run())

    def told(self, label: str) -> list[dict[str, Any]]:
        """What each life of a participant was started with."""
        path = self.lives / label
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {CHILD} "$@"\n')
    python.chmod(0o755)
    made = Bench(tmp_path / "run", tmp_path / "lives", tmp_path / "script.json")
    made.lives.mkdir()
    monkeypatch.setattr(sys, "executable", str(python))
    for name, value in (("CHILD_SCRIPT", made.script), ("CHILD_LIVES", made.lives), ("ROUNDS", ROUNDS)):
        monkeypatch.setenv(name, str(value))
    return made


def test_everybody_is_started_once_and_the_run_ends_when_all_have(bench: Bench) -> None:
    summary = bench.play({})
    assert summary.roots_agree
    assert summary.state_roots == tuple(f"{round_:064x}" for round_ in range(ROUNDS))
    assert bench.view.summaries == [summary]
    assert bench.view.notes == []
    assert bench.view.statuses[-1].processes == summary.processes
    assert [(row.name, row.alive, row.restarts) for row in summary.processes] == [(name, False, 0) for name in LABELS]
    assert (bench.folder / "report.html").stat().st_size > 1000
    where = ["--run", str(bench.folder), "--name"]
    for label, program in (
        (
            "aggregator-operator-0",
            ["muster", "aggregator", *where, "operator-0", "--rounds", str(ROUNDS), "--keep", "0"],
        ),
        ("validator-operator-0", ["muster", "validator", *where, "operator-0"]),
        ("miner-1", ["muster", "miner", *where, "miner-1"]),
        ("silent-0", [testnet.ADVERSARY_PROGRAM, "silent", *where, "silent-0"]),
    ):
        assert bench.told(label) == [{"arguments": ["-P", "-m", *program], "threads": "1"}]


def test_a_participant_that_crashes_is_started_again_and_the_summary_says_so(bench: Bench) -> None:
    summary = bench.play({"miner-0": ["crash", "follow"]})
    assert summary.roots_agree
    (note,) = bench.view.notes
    assert note.startswith("miner-0 crashed (exit status 1), restart 1")
    assert note in summary.events
    assert any(status.note == note for status in bench.view.statuses)
    assert [row.restarts for row in summary.processes if row.name == "miner-0"] == [1]
    assert bench.told("miner-0") == bench.told("miner-0")[:1] * 2


@pytest.mark.parametrize("part", ["other root", "leave"])
@pytest.mark.parametrize("label", ["miner-1", "validator-operator-0"])
def test_a_replica_that_does_not_end_on_the_root_fails_the_run(bench: Bench, label: str, part: str) -> None:
    with pytest.raises(RunFailed, match="do not agree on every state root"):
        bench.play({label: [part]})
    (summary,) = bench.view.summaries
    assert not summary.roots_agree
    assert (bench.folder / "report.html").exists(), "what happened can be read there"


@pytest.mark.parametrize("part", ["other root", "leave"])
def test_what_an_adversary_says_counts_for_nothing(bench: Bench, part: str) -> None:
    assert bench.play({"silent-0": [part]}).roots_agree


def test_a_setting_that_no_restart_cures_ends_everybody_at_once(bench: Bench) -> None:
    with pytest.raises(RunFailed, match=r"^miner-1 cannot go on \(exit status 3\): the setting colour is not known$"):
        bench.play({"miner-1": ["refuse"], "miner-0": ["stay"], "aggregator-operator-0": ["stay"]})
    assert bench.view.summaries == []
    assert len(bench.told("miner-1")) == 1


def test_a_run_can_be_laid_out_and_started_from_elsewhere(bench: Bench) -> None:
    """Everybody has the slot it would have had, and its location; no process is started."""

    async def main() -> list[tuple[int, str, str | None]]:
        run = await bench.made().prepare()
        chain = run.chain()
        peers = (await chain.snapshot()).peers
        await chain.close()
        assert isinstance(chain, SqliteChain)
        return [(peer.uid, peer.hotkey, peer.location) for peer in peers]

    found = asyncio.run(main())
    roster = bench.made()._roster
    assert found == [(uid, member.hotkey, f"dir:{member.name}") for uid, member in enumerate(roster.members)]
    assert list(bench.lives.iterdir()) == []
    assert RunDirectory.open(str(bench.folder)).history.genesis.genesis.miners == tuple(m.hotkey for m in roster.miners)


class TestRefusals:
    """What it does not begin."""

    def test_a_folder_that_holds_something_is_left_alone(self, bench: Bench) -> None:
        bench.folder.mkdir()
        (bench.folder / "thesis.txt").write_text("years of work")
        with pytest.raises(StorageError, match="is not empty"):
            bench.play({})
        assert [path.name for path in bench.folder.iterdir()] == ["thesis.txt"]

    def test_more_participants_than_slots_make_no_folder(self, bench: Bench) -> None:
        with pytest.raises(UsageError, match="slots of preset tiny"):
            asyncio.run(bench.made(miners=1000).run())
        assert not bench.folder.exists()

    def test_nobody_is_no_run(self, bench: Bench) -> None:
        with pytest.raises(UsageError, match="at least one miner"):
            bench.made(miners=0, adversaries={})
