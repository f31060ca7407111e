"""A daemon that is told to stop ends what must not be cut, says so, and is gone with status 0 within its time."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from doctor_setups import lay_out

from muster.node.drain import Drain
from muster.node.ledger.session import Session
from muster.node.telemetry.events import Event, Stopped
from muster.node.telemetry.journal import read_journal
from muster.protocol.chain.sqlite import SqliteChain
from muster.protocol.identity import Identity
from muster.protocol.types import Role
from muster.run import stopping
from muster.run.daemon import label, run_daemon
from muster.run.folder import RunDirectory
from muster.run.settings import NodeConfig
from muster.run.stopping import SIGNALS, STOP_SECONDS, Stopping

OPERATOR, ELSEWHERE = "operator-0", "dir:elsewhere"
SHORT = 0.05
"""Seconds after which a test does not wait any longer for what cannot come."""

DEADLINE = 120.0


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run in folders."""
    return lay_out(tmp_path / "run")


@pytest.fixture(autouse=True)
def hangup() -> Iterator[None]:
    """SIGHUP as a terminal's process has it, even where these tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def aggregate(run: RunDirectory) -> list[Event]:
    """Run an aggregator in this process until it ends; its journal."""
    run_daemon(Role.AGGREGATOR, NodeConfig(run=str(run.path), name=OPERATOR, service="127.0.0.1:0"))
    return [noted.event for noted in read_journal(run.journal(label(Role.AGGREGATOR, OPERATOR))).noted]


def location(run: RunDirectory) -> str | None:
    """Where the chain says that the operator's bucket is."""

    async def read() -> str | None:
        chain = SqliteChain(run.path / "chain.sqlite")
        try:
            return (await chain.snapshot()).by_hotkey()[Identity.from_file(run.key(OPERATOR)).hotkey].location
        finally:
            await chain.close()

    return asyncio.run(read())


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_it_cleanly(run: RunDirectory, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its journal is written to the end, its role is free, and it is no failure."""

    async def signalled(self: Session) -> None:
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()

    monkeypatch.setattr(Session, "run", signalled)
    for life in (1, 2):
        events = aggregate(run)
        names = [event.name for event in events]
        assert names.count("started") == names.count("joined") == names.count("stopped") == life
        assert "finished" not in names
        last = events[-1]
        assert isinstance(last, Stopped)
        assert (last.signal, last.cut) == (number.name, ())
        assert last.seconds < STOP_SECONDS


class TestChainWrite:
    """The chain's file is locked by somebody, so that a write takes as long as that."""

    @pytest.fixture
    def told(self, run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], list[Event]]:
        """An aggregator is told to stop while it commits a location; the lock goes, or stays until it is gone."""

        def stop(unlock: bool) -> list[Event]:
            with closing(sqlite3.connect(run.path / "chain.sqlite", isolation_level=None)) as lock:

                async def writes(self: Session) -> None:
                    context = self._participant.context  # type: ignore[attr-defined]
                    lock.execute("BEGIN IMMEDIATE")
                    drain = context.chain._drain
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(context.chain.commit(context.identity, ELSEWHERE))
                        while not drain.under_way:  # noqa: ASYNC110 - a thread is on its way to the file
                            await asyncio.sleep(0)
                        os.kill(os.getpid(), signal.SIGTERM)
                        await drain.stopping.wait()
                        if unlock:
                            lock.execute("ROLLBACK")
                        await asyncio.Event().wait()

                monkeypatch.setattr(Session, "run", writes)
                return aggregate(run)

        return stop

    def test_it_is_finished(self, run: RunDirectory, told: Callable[[bool], list[Event]]) -> None:
        last = told(True)[-1]
        assert isinstance(last, Stopped)
        assert (last.signal, last.cut) == ("SIGTERM", ())
        assert location(run) == ELSEWHERE

    def test_it_is_cut_when_its_time_is_over_and_that_is_said(
        self,
        run: RunDirectory,
        told: Callable[[bool], list[Event]],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr("muster.run.daemon.Stopping", lambda drain: Stopping(drain, drain_seconds=SHORT))
        monkeypatch.setattr("muster.node.writes.FINISH_SECONDS", SHORT)
        monkeypatch.setattr("muster.protocol.chain.sqlite.BUSY_SECONDS", SHORT)
        last = told(False)[-1]
        assert isinstance(last, Stopped)
        assert last.cut == ("committing the location",)
        assert location(run) == f"dir:{OPERATOR}"
        assert "committing the location is cut after 0.05 s; the next start does it again" in caplog.messages


class TestStopping:
    """By itself."""

    def test_a_second_signal_waits_for_nothing(self) -> None:
        drain = Drain()
        end = Stopping(drain)

        async def work() -> None:
            async with drain.uncut("something long"):
                for _ in range(2):
                    os.kill(os.getpid(), signal.SIGTERM)
                    await drain.stopping.wait()
                await asyncio.Event().wait()

        asyncio.run(end.run(work()))
        end.done()
        assert (end.told, end.cut) == ("SIGTERM", ("something long",))

    def test_what_a_signal_is_meant_not_to_do_it_does_not(self) -> None:
        """`nohup` starts a process that ignores SIGHUP."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

        async def work() -> None:
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0)

        end = Stopping(Drain())
        asyncio.run(end.run(work()))
        assert end.told == ""

    def test_a_computation_that_does_not_end_is_left_behind(self) -> None:
        """A thread cannot be stopped: the process ends around it."""
        left, statuses = threading.Event(), list[int]()

        def leave(status: int) -> None:
            statuses.append(status)
            left.set()

        async def work() -> None:
            computation = asyncio.create_task(asyncio.to_thread(left.wait))
            os.kill(os.getpid(), signal.SIGTERM)
            try:
                await asyncio.shield(computation)
            finally:
                await computation

        end = Stopping(Drain(), stop_seconds=SHORT, leave=leave)
        asyncio.run(end.run(work()))
        end.done()
        assert statuses == [0]

    def test_an_end_without_a_signal_is_none(self) -> None:
        end = Stopping(Drain())

        async def work() -> None:
            await asyncio.sleep(0)

        asyncio.run(end.run(work()))
        end.done()
        assert (end.told, end.cut) == ("", ())


@pytest.mark.processes
def test_a_terminal_that_goes_away_stops_a_miner_with_status_0(run: RunDirectory) -> None:
    """The command itself; it waits for a leader that is not there, its submission in its bucket."""
    argv = [sys.executable, "-P", "-m", "muster", "miner", "--run", str(run.path), "--name", "miner-0"]
    log, journal = run.path / "log", run.journal("miner-0")
    with log.open("wb") as stream, subprocess.Popen(argv, stdout=stream, stderr=stream) as miner:
        try:
            until = time.monotonic() + DEADLINE
            while not (journal.exists() and b'"submitted"' in journal.read_bytes()):
                assert miner.poll() is None and time.monotonic() < until, log.read_text()
                time.sleep(SHORT)
            miner.send_signal(signal.SIGHUP)
            assert miner.wait(STOP_SECONDS) == 0, log.read_text()
        finally:
            miner.kill()
    last = read_journal(journal).noted[-1].event
    assert isinstance(last, Stopped)
    assert (last.signal, last.cut) == ("SIGHUP", ())
    text = log.read_text()
    assert "told to stop by SIGHUP; this takes 25 s at most." in text
    assert "s after SIGHUP" in text.splitlines()[-1]
    assert stopping.DRAIN_SECONDS < STOP_SECONDS
