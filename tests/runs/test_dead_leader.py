"""Real processes: the leader is killed in the middle of a run and its bucket is gone, and the run goes on.

Chain blocks are the clock: what is asserted counts in them, whatever else the machine has to do.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from run_builders import Stage, lay_out, template, write_text

from muster.node.telemetry.events import Applied, Event, Recorded
from muster.node.telemetry.journal import read_journal
from muster.protocol.chain.base import AnchorSeen
from muster.testnet.roster import Roster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(3000)]

SEED, MINERS = 8, 2
CLOCK = {
    "min_blocks": 4, "deadline": 40, "reveal": 12, "grace": 8, "seal_age": 15, "evaluate": 16, "anchor": 6,
    "term": 1000, "turn": 40, "touch": 180, "checkpoint_every": 100,
}  # fmt: skip
FALLS = 2
"""The last round before the leader is killed: it dies somewhere in the next."""
LAST = FALLS + 4
"""A round that takes a final record of the time after it."""
PATIENCE_SECONDS = 1200.0


@dataclass
class Daemons:
    """The processes of a run, by label."""

    stage: Stage
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, role: str, name: str, *more: str) -> None:
        argv = (sys.executable, "-P", "-m", "muster", role, "--run", str(self.stage.run.path), "--name", name, *more)
        log = self.stage.run.log(name if role == "miner" else f"{role}-{name}")
        with log.open("ab") as out:
            self.running[f"{role}-{name}"] = subprocess.Popen(argv, stdout=out, stderr=out, start_new_session=True)

    def told(self, label: str) -> list[Event]:
        journal = self.stage.run.path / "logs" / f"{label}.jsonl"
        return [noted.event for noted in read_journal(journal).noted] if journal.exists() else []

    def anchors(self) -> list[AnchorSeen]:
        async def look() -> list[AnchorSeen]:
            chain = self.stage.run.chain()
            try:
                return list(await chain.anchors(0))
            finally:
                await chain.close()

        return asyncio.run(look())

    def until(self, true: Callable[[], bool]) -> None:
        """Look at every block whether it has come true."""
        asyncio.run(self._until(true))

    async def _until(self, true: Callable[[], bool]) -> None:
        chain = self.stage.run.chain()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not await asyncio.to_thread(true):
                    ended = {label: process.poll() for label, process in self.running.items()}
                    ended = {label: status for label, status in ended.items() if status not in (None, -signal.SIGKILL)}
                    assert not ended, f"{ended} ended"
                    await chain.next_block((await chain.head()).number)
        finally:
            await chain.close()

    def kill(self, label: str) -> None:
        os.killpg(self.running[label].pid, signal.SIGKILL)
        self.running[label].wait()


@pytest.fixture
def daemons(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Daemons]:
    made = template(clock=CLOCK, gauntlet={"score_wait": 0})
    roster = Roster.of(SEED, MINERS, request.param, {})
    stage = lay_out(tmp_path / "run", write_text(tmp_path / "text"), made, roster)
    running = Daemons(stage)
    for operator in roster.operators:
        running.start("aggregator", operator.name)
    for miner in roster.miners:
        running.start("miner", miner.name)
    yield running
    for process in running.running.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("daemons", [2, pytest.param(3, marks=pytest.mark.slow)], indirect=True)
def test_the_next_closes_the_round_and_the_run_goes_on(daemons: Daemons) -> None:
    leader = next(operator for operator in daemons.stage.roster.operators if operator.name == "operator-0")
    daemons.until(lambda: any(seen.anchor.round == FALLS for seen in daemons.anchors()))
    daemons.kill("aggregator-operator-0")
    shutil.rmtree(daemons.stage.run.path / "buckets" / leader.name)

    def decided() -> set[int]:
        return {event.round for event in daemons.told("miner-0") if isinstance(event, Applied)}

    daemons.until(lambda: LAST in decided())
    left = [seen for seen in daemons.anchors() if seen.hotkey != leader.hotkey]
    after = [event.round for event in daemons.told("aggregator-operator-1") if isinstance(event, Recorded)]
    taken_over = after[0]
    applied = {event.round: event for event in daemons.told("miner-0") if isinstance(event, Applied)}
    before = applied[taken_over - 1]
    assert before.accepted, "there was work before"
    assert all(len(applied[round_].accepted) == MINERS for round_ in range(taken_over + 1, LAST))
    # Within anchor_by and one turn, counted from the block in which the record before it was anchored.
    blocks = {seen.anchor.round: seen.block for seen in reversed(daemons.anchors())}
    longest = sum(CLOCK[part] for part in ("deadline", "reveal", "anchor", "turn"))
    assert blocks[taken_over] - blocks[taken_over - 1] <= longest
    # Those after it do not cost the dead one's limit again: once the run waits until it is out of touch, since without
    # its vote nothing is final before.
    gaps = [blocks[round_ + 1] - blocks[round_] for round_ in range(taken_over, LAST - 1)]
    assert sorted(gaps)[-1] <= CLOCK["touch"] + CLOCK["turn"], blocks
    assert all(gap < CLOCK["deadline"] for gap in sorted(gaps)[:-1]), blocks
    assert {seen.anchor.round for seen in left} >= set(range(taken_over, LAST))
    roots = [
        {event.round: event.root for event in daemons.told(label) if isinstance(event, Applied)}
        for label in ("miner-0", "miner-1", "aggregator-operator-1")
    ]
    common = set.intersection(*(set(each) for each in roots))
    assert LAST - 1 in common
    assert all(len({each[round_] for each in roots}) == 1 for round_ in common)
