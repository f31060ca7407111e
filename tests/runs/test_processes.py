"""The real command with real processes: kills change nothing, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from forked import Commands
from run_builders import PATIENT, Stage, play, template, write_template

from muster.node.data.dataset import TextReader
from muster.node.telemetry.events import Applied, Event, Finished, RoundEvent, Scored, Sealed, Started, Training
from muster.node.telemetry.journal import read_journal
from muster.run.folder import RunDirectory
from muster.testnet.roster import Roster

pytestmark = pytest.mark.processes

ROUNDS = 4
SEED = 3
MINERS = 3
ONE_OF_EACH = ("aggregator-operator-0", "validator-operator-0", "miner-0")
LOOK_SECONDS = 0.02
"""Between two looks at a journal: short against the 0.25 s block in which a killed process must be caught."""

DEADLINE_SECONDS = 900.0
SUMMARY_KEYS = {
    "rounds", "wall_s", "first_record_s", "loss", "unigram", "state_roots", "state_root", "roots_agree",
    "bits_per_value", "compression_ratio", "bytes_up", "bytes_down", "utilisation", "peers",
}  # fmt: skip
PEER_KEYS = {
    "uid", "hotkey", "behaviour", "submitted", "accepted", "late", "rejected", "mu", "rating", "peer_score", "weight",
    "score",
}  # fmt: skip


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with rounds long enough to be hit in the middle, and time for a restart in all of them."""
    made = template(
        inner={"steps": 24, "total": 96},
        clock={"deadline": 240, "reveal": 120, "grace": 120, **PATIENT},
        gauntlet={"score_wait": 120},
    )
    return write_template(made, tmp_path_factory.mktemp("preset") / "miniature.toml")


class Testnet:
    """A running `muster testnet`, watched through its participants' journals."""

    __test__ = False

    def __init__(self, process: Process, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.ended = asyncio.ensure_future(process.communicate())

    def told(self, label: str) -> list[Event]:
        """All a participant has written."""
        return told(self.folder, label)

    async def until(self, label: str, happened: Callable[[Event], bool]) -> Event:
        """The first event of a participant's journal of which that is true."""
        journal, read = self.folder / "logs" / f"{label}.jsonl", -1
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                size = journal.stat().st_size if journal.exists() else 0
                for event in self.told(label) if size != read else ():
                    if happened(event):
                        return event
                read = size
                assert not self.ended.done(), self.ended.result()[1].decode()
                await asyncio.wait({self.ended}, timeout=LOOK_SECONDS)

    def pids(self, label: str) -> list[int]:
        """The processes a participant has been, the newest last."""
        return [event.pid for event in self.told(label) if isinstance(event, Started)]

    async def end(self) -> tuple[int, str, str]:
        """Exit status, stdout and stderr."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            out, err = await asyncio.shield(self.ended)
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def started(preset: Path, folder: Path, rounds: int, miners: int = MINERS) -> AsyncIterator[Testnet]:
    """Start the command; nothing of it outlives the block."""
    argv = (
        "testnet", "--preset", str(preset), "--miners", str(miners), "--rounds", str(rounds), "--seed", str(SEED),
        "--dir", str(folder), "--json",
    )  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "muster", *argv, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    running = Testnet(process, folder)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.wait({running.ended})


def told(folder: Path, label: str) -> list[Event]:
    """All a participant of the run in that folder has written."""
    return [noted.event for noted in read_journal(folder / "logs" / f"{label}.jsonl").noted]


def of(kind: type[RoundEvent], round_: int) -> Callable[[Event], bool]:
    """Whether an event is of that kind and round."""
    return lambda event: isinstance(event, kind) and event.round == round_


def alive(pid: int) -> bool:
    """Whether a process still runs; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


async def gone(pids: Sequence[int]) -> bool:
    """Whether all these processes end; the kernel tells of each by its pidfd, whoever's child it is."""
    for pid in pids:
        if not alive(pid):
            continue
        try:
            handle, ended = os.pidfd_open(pid), asyncio.Event()
        except ProcessLookupError:
            continue
        asyncio.get_running_loop().add_reader(handle, ended.set)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await ended.wait()
        finally:
            asyncio.get_running_loop().remove_reader(handle)
            os.close(handle)
    return not any(alive(pid) for pid in pids)


@pytest.fixture(scope="module")
def finished(preset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """A run in which a miner, the validator and the aggregator are each killed once: folder, status, stdout."""
    folder = tmp_path_factory.mktemp("processes") / "run"

    async def live() -> tuple[int, str, str]:
        async with started(preset, folder, ROUNDS) as net:
            for label, moment in (
                ("miner-0", of(Training, 1)),
                ("validator-operator-0", of(Scored, 1)),
                ("aggregator-operator-0", of(Sealed, 2)),
            ):
                await net.until(label, moment)
                os.kill(net.pids(label)[-1], signal.SIGKILL)
            return await net.end()

    status, out, err = asyncio.run(live())
    assert not status, err
    return folder, status, out


def test_the_run_survives_a_kill_of_each(finished: tuple[Path, int, str]) -> None:
    folder, _, out = finished
    summary = json.loads(out.splitlines()[-1])
    assert set(summary) == SUMMARY_KEYS
    assert all(set(peer) == PEER_KEYS for peer in summary["peers"])
    assert set(summary["peers"][0]["rating"]) == {"mu", "sigma", "ordinal"}
    assert summary["roots_agree"] is True
    assert len(summary["state_roots"]) == len(summary["loss"]) == summary["rounds"] == ROUNDS
    assert summary["loss"][-1] < summary["loss"][0]
    for peer in summary["peers"]:
        assert (peer["submitted"], peer["accepted"], peer["rejected"]) == (ROUNDS, ROUNDS, {})
    report = (folder / "report.html").read_text()
    for label in ("miner-0", "validator-operator-0", "aggregator-operator-0"):
        assert f"{label} crashed (killed by SIGKILL), restart 1" in report
        events = told(folder, label)
        assert sum(isinstance(event, Started) for event in events) == 2
        assert isinstance(events[-1], Finished)


def test_the_simulator_gives_the_same_roots(finished: tuple[Path, int, str]) -> None:
    folder, _, out = finished
    summary = json.loads(out.splitlines()[-1])
    run = RunDirectory.open(str(folder))
    stage = Stage(run, Roster.of(SEED, MINERS, 1, {}), TextReader.open(run.data, run.history.genesis.data.manifest))
    simulated = play(stage, ROUNDS)
    assert simulated.state_roots == summary["state_roots"]
    assert simulated.losses == summary["loss"]


def test_the_audit_agrees_and_notices_a_wrong_byte(finished: tuple[Path, int, str], muster_command: Commands) -> None:
    folder, _, out = finished
    good = muster_command("audit", str(folder), "--json")
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["state_roots"] == json.loads(out.splitlines()[-1])["state_roots"]
    (bundle,) = folder.glob("buckets/operator-0/*/bundles/00000002-*.bin")
    whole = bundle.read_bytes()
    bundle.write_bytes(whole[:-1] + bytes((whole[-1] ^ 1,)))
    bad = muster_command("audit", str(folder), "--json")
    bundle.write_bytes(whole)
    assert bad.returncode == 6
    assert bad.stderr.splitlines()[-1].startswith("error[audit]: round 2: ")
    assert f"bundles/{bundle.name}" in bad.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
async def test_no_process_outlives_the_command(
    preset: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    async with started(preset, tmp_path / "run", 1000, miners=1) as net:
        for label in ONE_OF_EACH:
            await net.until(label, lambda event: isinstance(event, Applied))
        pids = [net.pids(label)[-1] for label in ONE_OF_EACH]
        assert all(alive(pid) for pid in pids)
        net.process.send_signal(number)
        assert (await net.end())[0] == status
        assert await gone(pids)
