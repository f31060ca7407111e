"""Processes that a warmed parent forks: each is what its command line says, and its supervisor's child."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.protocol.errors import RunFailed
from muster.testnet.parentage import SUPERVISOR_VARIABLE, die_with_parent
from muster.testnet.spawning import Process
from muster.testnet.supervise import ChildEvent, ChildSpec, RestartPolicy, Supervisor
from muster.testnet.warm import STARTING, Forked, WarmParent, warmed

TELL = """
import json, os, sys
print(json.dumps({
    "argv": sys.argv[1:], "orig_argv": sys.orig_argv, "name": __name__, "file": __file__, "env": dict(os.environ),
    "ppid": os.getppid(), "session": os.getsid(0) == os.getpid(), "torch": "torch" in sys.modules,
    "stdin": sys.stdin.read(), "shown": open("/proc/self/cmdline").read().rstrip(chr(0)).split(chr(0)),
    "open": sorted(int(name) for name in os.listdir("/proc/self/fd")),
}))
print("to stderr", file=sys.stderr)
"""
WAIT = "import signal; print('ready', flush=True); signal.pause()"
END = "import sys; sys.exit(int(sys.argv[1]))"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("said")
    for name, text in (("tell", TELL), ("wait", WAIT), ("end", END)):
        (folder / f"said_{name}.py").write_text(text)
    return folder


def path_with(folder: Path) -> str:
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


@pytest.fixture(scope="module")
def warm(folder: Path) -> Iterator[WarmParent]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path_with(folder))
        patch.setenv("MUSTER_S3_ADMIN_SECRET_KEY", "hush")
        with warmed() as parent:
            yield parent


def argv(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", *words)


async def begun(warm: WarmParent, log: Path, *words: str, **env: str) -> Process:
    with log.open("wb") as file:
        return await warm.spawn(argv(*words), {**STARTING, "PATH": os.environ["PATH"], **env}, file)


async def test_a_forked_process_is_what_its_command_line_says(warm: WarmParent, tmp_path: Path, folder: Path) -> None:
    process = await begun(warm, tmp_path / "log", "said_tell", "--name", "miner 0", SAID="so")
    assert isinstance(process, Forked)
    assert await process.wait() == process.returncode == 0
    first, second = (tmp_path / "log").read_text().splitlines()
    assert sorted((first[:1], second[:1])) == ["t", "{"]
    said = json.loads(min(first, second, key=lambda line: line[0] != "{"))
    assert said["argv"] == ["--name", "miner 0"]
    assert said["orig_argv"] == said["shown"] == list(argv("said_tell", "--name", "miner 0"))
    assert (said["name"], said["file"]) == ("__main__", str(folder / "said_tell.py"))
    assert said["env"] == {**STARTING, "PATH": os.environ["PATH"], "SAID": "so"}
    assert said["ppid"] == os.getpid()
    assert said["session"]
    assert said["torch"]
    assert said["stdin"] == ""
    assert said["open"] == [0, 1, 2, 3], "3 is the listing's own"


async def test_nothing_of_the_parents_settings_is_in_its_memory(warm: WarmParent, tmp_path: Path) -> None:
    process = await begun(warm, tmp_path / "log", "said_wait")
    assert b"hush" not in await asyncio.to_thread(Path(f"/proc/{process.pid}/environ").read_bytes)
    os.kill(process.pid, signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL


async def test_an_exit_status_comes_through(warm: WarmParent, tmp_path: Path) -> None:
    assert await (await begun(warm, tmp_path / "log", "said_end", "7")).wait() == 7


async def test_another_program_or_surrounding_is_run_as_it_is(warm: WarmParent, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        other = await warm.spawn(("/bin/sh", "-c", "exit 3"), {**STARTING}, file)
        assert (await other.wait(), isinstance(other, Forked)) == (3, False)
        threads = await warm.spawn(argv("this"), {"OMP_NUM_THREADS": "2"}, file)
        assert (await threads.wait(), isinstance(threads, Forked)) == (0, False)


async def test_a_supervisor_restarts_and_stops_what_is_forked(warm: WarmParent, tmp_path: Path) -> None:
    events: list[ChildEvent] = []
    log = tmp_path / "log"
    spec = ChildSpec("crasher", argv("said_end", "1"), STARTING, log, restart=True)
    once = RestartPolicy(first_delay=0.0, max_restarts=1)
    with pytest.raises(RunFailed, match="crasher kept crashing"):
        async with Supervisor(events.append, policy=once, spawn=warm.spawn, signals=()) as supervisor:
            supervisor.start(ChildSpec("stays", argv("said_wait"), STARTING, tmp_path / "other", restart=True))
            supervisor.start(spec)
            await supervisor.wait()
    told = [(event.name, event.kind) for event in events]
    assert [kind for name, kind in told if name == "crasher"] == ["started", "crashed", "started", "crashed"]
    assert [kind for name, kind in told if name == "stays"] == ["started", "stopped"]


async def test_what_was_forked_outlives_the_warmed_parent_which_is_then_not_needed(
    tmp_path: Path, folder: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path_with(folder))
        with warmed() as warm:
            first = await begun(warm, tmp_path / "log", "said_wait")
            warm._line.shutdown(0)  # what a parent that is gone answers
            second = await begun(warm, tmp_path / "other", "this")
            assert (await second.wait(), isinstance(second, Forked)) == (0, False)
    assert first.returncode is None
    os.kill(first.pid, signal.SIGTERM)
    assert await first.wait() == -signal.SIGTERM


def test_a_process_whose_parent_is_another_than_it_was_told_does_not_begin() -> None:
    pid = os.fork()
    if pid == 0:
        try:
            die_with_parent(os.getpid())
        except RunFailed:
            os._exit(17)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 17
    assert SUPERVISOR_VARIABLE not in os.environ
