"""A daemon whose disk goes away while it works says so where it is asked, goes on, and heals when it is back."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from doctor_setups import lay_out

from muster.node.telemetry.events import Ailing, Event, Recovered, Service, Submitted
from muster.node.telemetry.journal import read_journal
from muster.run.stopping import STOP_SECONDS

pytestmark = pytest.mark.processes

LOOK_SECONDS = 0.02
DEADLINE = 120.0


def health(address: str) -> str:
    """What /healthz says, whatever its status."""
    try:
        with urllib.request.urlopen(f"http://{address}/healthz", timeout=DEADLINE) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def test_the_folder_of_logs_goes_and_comes_back(tmp_path: Path) -> None:
    """While a miner begins its first round: nothing it was to note is lost, and its work is sent."""
    run = lay_out(tmp_path / "run")
    logs, journal = run.path / "logs", run.journal("miner-0")
    log = tmp_path / "log"
    argv = [sys.executable, "-P", "-m", "muster", "miner", "--run", str(run.path), "--name", "miner-0"]

    def noted() -> list[Event]:
        return [one.event for one in read_journal(journal).noted]

    with log.open("wb") as stream, subprocess.Popen(argv, stdout=stream, stderr=stream) as miner:

        def until(true: Callable[[], bool]) -> None:
            end = time.monotonic() + DEADLINE
            while not true():
                assert miner.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(LOOK_SECONDS)

        try:
            until(lambda: any(isinstance(event, Service) for event in noted()))
            (address,) = (event.address for event in noted() if isinstance(event, Service))
            logs.rename(tmp_path / "away")
            logs.touch()
            until(lambda: "the journal cannot be kept on disk: " in health(address))
            logs.unlink()
            (tmp_path / "away").rename(logs)
            until(lambda: any(isinstance(event, Submitted) for event in noted()))
            until(lambda: "cannot be kept on disk" not in health(address))
            miner.terminate()
            assert miner.wait(STOP_SECONDS) == 0, log.read_text()
        finally:
            miner.kill()
    assert {type(event) for event in noted()} >= {Ailing, Recovered}
    assert log.read_text().count("the journal cannot be kept on disk") == 1
