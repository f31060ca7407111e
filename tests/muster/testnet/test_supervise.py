"""Supervision of real child processes: they report over a socket, whose end of file proves they are gone."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.errors import RunFailed
from muster.testnet.parentage import SUPERVISOR_VARIABLE, supervisor_pid
from muster.testnet.supervise import (
    PERSON_MUST_ACT,
    TAIL_BYTES,
    ChildEvent,
    ChildSpec,
    RestartPolicy,
    Supervisor,
    describe_status,
    last_lines,
)

ROOT = Path(__file__).resolve().parents[3]
DEADLINE = 300.0
AT_ONCE = RestartPolicy(first_delay=0.0)

REPORT = """
import os, signal, socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect(sys.argv[1])
def say(text): line.sendall((text + chr(10)).encode())
"""
WAIT = REPORT + "say(f'ready {os.getpid()}'); signal.pause()"
STUBBORN = REPORT + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + "say(f'ready {os.getpid()}'); signal.pause()"
# Blocked and waited for: between a handler's check and a blocking call a signal could be missed.
ANSWER = REPORT + "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); say('ready')\n"
POLITE = ANSWER + "signal.sigwait([signal.SIGTERM]); say('bye')"
PATIENT = ANSWER + "signal.sigwait([signal.SIGTERM]); say('asked'); line.recv(1); say('bye')"
SLOW = ANSWER + "signal.sigwait([signal.SIGTERM]); say('asked'); signal.pause()"


class Line:
    """The test's end of one child's socket; every read has a deadline."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def answer(self) -> None:
        self._writer.write(b"!")
        await self._writer.drain()

    async def read(self) -> str:
        """The next line, "" at the end of file."""
        return (await asyncio.wait_for(self._reader.readline(), DEADLINE)).decode().strip()

    async def rest(self) -> str:
        """All that comes until the child is gone."""
        return (await asyncio.wait_for(self._reader.read(), DEADLINE)).decode().strip()


class Exchange:
    """Where children call in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls: asyncio.Queue[Line] = asyncio.Queue()
        self.writers: list[asyncio.StreamWriter] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.calls.put_nowait(Line(reader, writer))

    async def next_call(self) -> Line:
        return await asyncio.wait_for(self.calls.get(), DEADLINE)


@pytest_asyncio.fixture
async def exchange(tmp_path: Path) -> AsyncIterator[Exchange]:
    exchange = Exchange(tmp_path / "x")
    server = await asyncio.start_unix_server(exchange.accept, exchange.path)
    yield exchange
    server.close()
    for writer in exchange.writers:
        writer.close()


@pytest.fixture
def events() -> list[ChildEvent]:
    return []


def python(code: str, log: Path, *arguments: object, name: str = "child", restart: bool = True) -> ChildSpec:
    argv = (sys.executable, "-S", "-c", code, *map(str, arguments))
    return ChildSpec(name, argv, {}, log, restart)


def kinds(events: list[ChildEvent]) -> list[str]:
    return [event.kind for event in events]


@given(first=st.floats(0.0, 10.0), cap=st.floats(0.0, 10.0), crash=st.integers(1, 5000))
def test_backoff_grows_up_to_its_cap(first: float, cap: float, crash: int) -> None:
    policy = RestartPolicy(first_delay=first, max_delay=cap, window=1e9)
    assert policy.backoff(1) == min(first, cap)
    assert policy.backoff(crash) <= policy.backoff(crash + 1) <= cap


def test_restarts_double_their_delay_and_then_end() -> None:
    policy = RestartPolicy(first_delay=1.0, max_delay=4.0, max_restarts=4, window=60.0)
    times = [0.0, 1.0, 2.0, 3.0, 4.0]
    assert [policy.decide(times[: n + 1], times[n]) for n in range(5)] == [1.0, 2.0, 4.0, 4.0, None]


def test_crashes_before_the_window_are_forgotten() -> None:
    policy = RestartPolicy(first_delay=1.0, max_restarts=1, window=10.0)
    assert policy.decide([0.0, 5.0], 5.0) is None
    assert policy.decide([0.0, 10.0], 10.0) == 1.0


def test_delays_must_fit_the_window() -> None:
    with pytest.raises(ValueError, match="window"):
        RestartPolicy(first_delay=8.0, max_restarts=2, window=16.0)


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "exit status 0"), (5, "exit status 5"), (-9, "killed by SIGKILL"), (-40, "killed by signal 40")],
)
def test_statuses_in_words(status: int, words: str) -> None:
    assert describe_status(status) == words


def test_person_must_act_statuses_are_those_of_the_error_tree() -> None:
    assert sorted(PERSON_MUST_ACT) == [2, 3, 7, 9]


@pytest.mark.parametrize(
    ("environ", "pid"),
    [({}, None), ({SUPERVISOR_VARIABLE: "12"}, 12), ({SUPERVISOR_VARIABLE: "-1"}, None)],
)
def test_supervisor_pid_comes_from_the_environment(environ: dict[str, str], pid: int | None) -> None:
    assert supervisor_pid(environ) == pid


def test_log_tail_is_short_recent_and_harmless(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"old\n" + b"\x1b[31mred\n\n" + b"\xff bad\n" + b"last\n")
    assert last_lines(log, start=4) == ["?[31mred", "\ufffd bad", "last"]
    assert last_lines(log, count=1) == ["last"]
    assert last_lines(log, start=10_000) == []
    assert last_lines(tmp_path / "none") == []
    log.write_bytes(b"first\n" + b"x" * (2 * TAIL_BYTES) + b"\nlast\n")
    assert "first" not in last_lines(log)
    assert all(len(line) <= 400 for line in last_lines(log))


async def test_a_child_that_finishes_is_not_restarted(tmp_path: Path, events: list[ChildEvent]) -> None:
    log = tmp_path / "logs" / "child.log"
    async with asyncio.timeout(DEADLINE), Supervisor(events.append) as supervisor:
        supervisor.start(python("print('out'); import sys; print('err', file=sys.stderr)", log))
        await supervisor.wait()
        (row,) = supervisor.processes()
    assert kinds(events) == ["started", "finished"]
    assert (row.name, row.alive, row.restarts) == ("child", False, 0)
    assert sorted(log.read_text().split()) == ["err", "out"]


async def test_a_crashed_child_is_restarted(tmp_path: Path, exchange: Exchange, events: list[ChildEvent]) -> None:
    async with asyncio.timeout(DEADLINE), Supervisor(events.append, policy=AT_ONCE) as supervisor:
        supervisor.start(python(WAIT, tmp_path / "log", exchange.path))
        first = (await (await exchange.next_call()).read()).split()[1]
        os.kill(int(first), signal.SIGKILL)
        second = (await (await exchange.next_call()).read()).split()[1]
        (row,) = supervisor.processes()
    assert row.pid == int(second) != int(first)
    assert (row.alive, row.restarts) == (True, 1)
    assert kinds(events) == ["started", "crashed", "started", "stopped"]
    assert events[1].status == -signal.SIGKILL
    assert events[1].text == "child crashed (killed by SIGKILL), restart 1 in 0 s"


async def test_a_child_that_keeps_crashing_ends_the_run(
    tmp_path: Path, exchange: Exchange, events: list[ChildEvent]
) -> None:
    policy = RestartPolicy(first_delay=0.0, max_restarts=2)
    with pytest.raises(RunFailed, match=r"(?s)bad kept crashing \(exit status 1; 2 restarts.*\nboom 7$"):
        async with asyncio.timeout(DEADLINE), Supervisor(events.append, policy=policy) as supervisor:
            supervisor.start(python(WAIT, tmp_path / "good.log", exchange.path, name="good"))
            good = await exchange.next_call()
            assert (await good.read()).startswith("ready")
            code = "import sys; print('boom', 7); sys.exit(1)"
            supervisor.start(python(code, tmp_path / "bad.log", name="bad"))
            await supervisor.wait()
    assert kinds([event for event in events if event.name == "bad"]) == ["started", "crashed"] * 3
    assert await good.rest() == ""


async def test_a_restart_cannot_cure_a_configuration(tmp_path: Path, events: list[ChildEvent]) -> None:
    code = "import sys; print('noise'); print('unknown key colour'); sys.exit(3)"
    with pytest.raises(RunFailed, match=r"^child cannot go on \(exit status 3\): unknown key colour$"):
        async with asyncio.timeout(DEADLINE), Supervisor(events.append) as supervisor:
            supervisor.start(python(code, tmp_path / "log", restart=False))
            await supervisor.wait()
    assert kinds(events) == ["started", "crashed"]


async def test_a_child_that_is_not_to_be_restarted_stays_down(tmp_path: Path, events: list[ChildEvent]) -> None:
    async with asyncio.timeout(DEADLINE), Supervisor(events.append) as supervisor:
        supervisor.start(python("raise SystemExit(1)", tmp_path / "log", restart=False))
        await supervisor.wait()
    assert [event.text for event in events][1:] == ["child crashed (exit status 1) and stays down"]


async def test_leaving_the_block_asks_children_to_stop(
    tmp_path: Path, exchange: Exchange, events: list[ChildEvent]
) -> None:
    async with asyncio.timeout(DEADLINE), Supervisor(events.append) as supervisor:
        for name in ("a", "b"):
            supervisor.start(python(POLITE, tmp_path / name, exchange.path, name=name))
        lines = [await exchange.next_call() for _ in range(2)]
        assert [await line.read() for line in lines] == ["ready", "ready"]
    assert [await line.rest() for line in lines] == ["bye", "bye"]
    assert sorted(event.text for event in events if event.kind == "stopped") == [
        "a stopped (exit status 0)",
        "b stopped (exit status 0)",
    ]


async def test_who_does_not_stop_is_killed_with_its_own_children(
    tmp_path: Path, exchange: Exchange, events: list[ChildEvent]
) -> None:
    parent = "import subprocess\nsubprocess.Popen([sys.executable, '-S', '-c', sys.argv[2], sys.argv[1]])\n"
    code = STUBBORN.replace("line =", parent + "line =")
    async with asyncio.timeout(DEADLINE), Supervisor(events.append, grace=0.0) as supervisor:
        supervisor.start(python(code, tmp_path / "log", exchange.path, STUBBORN))
        lines = [await exchange.next_call() for _ in range(2)]
        assert all([(await line.read()).startswith("ready") for line in lines])
    assert [await line.rest() for line in lines] == ["", ""]
    assert events[-1].text == "child stopped (killed by SIGKILL, not within 0 s of being asked)"


async def test_an_error_of_the_block_stays_what_it_was(tmp_path: Path, exchange: Exchange) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with asyncio.timeout(DEADLINE), Supervisor(lambda event: None) as supervisor:
            supervisor.start(python(WAIT, tmp_path / "log", exchange.path))
            line = await exchange.next_call()
            assert (await line.read()).startswith("ready")
            raise KeyError("mine")
    assert await line.rest() == ""


async def test_cancelling_the_block_stops_children(tmp_path: Path, exchange: Exchange) -> None:
    async def block() -> None:
        async with Supervisor(lambda event: None) as supervisor:
            supervisor.start(python(WAIT, tmp_path / "log", exchange.path))
            await supervisor.wait()

    task = asyncio.create_task(block())
    line = await exchange.next_call()
    assert (await line.read()).startswith("ready")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await line.rest() == ""


async def test_names_are_unique(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'child'"):
        async with Supervisor(lambda event: None) as supervisor:
            supervisor.start(python("", tmp_path / "log"))
            supervisor.start(python("", tmp_path / "log"))


async def test_a_program_that_does_not_exist_fails_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="cannot start child"):
        async with asyncio.timeout(DEADLINE), Supervisor(lambda event: None) as supervisor:
            supervisor.start(ChildSpec("child", (str(tmp_path / "none"),), {}, tmp_path / "log", True))
            await supervisor.wait()


SUPERVISE = """
import asyncio, sys
from pathlib import Path
from muster.testnet.supervise import *
async def main(code, *arguments):
    async with Supervisor(lambda event: None) as supervisor:
        argv = (sys.executable, '-c', code, *arguments)
        supervisor.start(ChildSpec('child', argv, {}, Path(sys.argv[3]), False))
        await supervisor.wait()
asyncio.run(main(sys.argv[1], sys.argv[2]))
"""
TIED = """
import os
from muster.testnet.parentage import die_with_parent, supervisor_pid
die_with_parent(supervisor_pid(os.environ))
"""


async def supervisor_process(code: str, exchange: Exchange, log: Path, *under: str) -> asyncio.subprocess.Process:
    arguments = (*under, sys.executable, "-c", SUPERVISE, code, str(exchange.path), str(log))
    return await asyncio.create_subprocess_exec(*arguments, env={**os.environ, "PYTHONPATH": str(ROOT)})


async def test_no_child_survives_a_killed_supervisor(tmp_path: Path, exchange: Exchange) -> None:
    process = await supervisor_process(TIED + STUBBORN, exchange, tmp_path / "log")
    line = await exchange.next_call()
    assert (await line.read()).startswith("ready")
    process.kill()
    assert await line.rest() == ""
    assert await process.wait() == -signal.SIGKILL


async def test_a_child_whose_supervisor_is_gone_does_not_start(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", TIED),
        env={**os.environ, "PYTHONPATH": str(ROOT), SUPERVISOR_VARIABLE: "1"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert b"RunFailed: the supervisor (pid 1) is gone" in stderr.splitlines()[-1]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
async def test_a_signal_stops_all_and_shows_in_the_status(
    number: signal.Signals, status: int, tmp_path: Path, exchange: Exchange
) -> None:
    # The tests themselves may run under nohup.
    process = await supervisor_process(PATIENT, exchange, tmp_path / "log", "env", "--default-signal=HUP")
    line = await exchange.next_call()
    assert await line.read() == "ready"
    process.send_signal(number)
    assert await line.read() == "asked"
    await line.answer()
    assert await line.rest() == "bye"
    assert await asyncio.wait_for(process.wait(), DEADLINE) == status


async def test_under_nohup_a_closed_terminal_stops_nothing(tmp_path: Path, exchange: Exchange) -> None:
    process = await supervisor_process(PATIENT, exchange, tmp_path / "log", "nohup")
    line = await exchange.next_call()
    assert await line.read() == "ready"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert await line.read() == "asked"
    await line.answer()
    assert await asyncio.wait_for(process.wait(), DEADLINE) == 143


async def test_a_second_signal_does_not_wait(tmp_path: Path, exchange: Exchange) -> None:
    process = await supervisor_process(SLOW, exchange, tmp_path / "log")
    line = await exchange.next_call()
    assert await line.read() == "ready"
    process.send_signal(signal.SIGINT)
    assert await line.read() == "asked"
    process.send_signal(signal.SIGINT)
    assert await line.rest() == ""
    assert await asyncio.wait_for(process.wait(), DEADLINE) == 130
