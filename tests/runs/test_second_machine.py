"""A stranger with an empty home, the run's URL and the keys of a bucket joins a run that is under way elsewhere.

The stranger is another user of this machine who may read nothing of the first one's folder. What the two share is what
two machines would share: the S3 server, and the chain, which here is an SQLite file that both may write.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import pytest
from run_builders import PATIENT, template, write_template
from s3_server import RadosGateway

from muster.node.telemetry.events import Applied, Event, Started
from muster.node.telemetry.journal import read_journal
from muster.protocol.identity import Identity
from muster.protocol.storage import Credentials
from muster.protocol.storage.admin import Provisioner

pytestmark = [pytest.mark.processes, pytest.mark.timeout(6000)]

NOBODY = 65534
"""The user and group that own nothing; to run something as them one must be root."""
ROUNDS = 1000
"""More than are played: the run is under way when the stranger comes, and goes on without him."""
SETTINGS = 10
"""As many as a person is asked to look through."""
COMMAND_SECONDS = 900.0
PATIENCE_SECONDS = 2400.0
"""For what comes true after some rounds, on a machine that has other things to do."""
LOOK_SECONDS = 0.2

ROOT = Path(__file__).parents[2]
PROGRAM = "import sys; from muster.cli import main; sys.argv[0] = 'muster'; main()"


@dataclass
class Machine:
    """A home of its own, a user, and nothing in the environment but what is given; ends what it started."""

    home: Path
    user: int | None
    variables: Mapping[str, str]
    _started: list[tuple[subprocess.Popen[bytes], Path]] = field(default_factory=list)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a line in a shell to its end."""
        return subprocess.run(
            ["sh", "-c", command], cwd=self.home, env=self.variables, user=self.user, group=self.user,
            extra_groups=None if self.user is None else [], capture_output=True, text=True, check=False,
            timeout=COMMAND_SECONDS,
        )  # fmt: skip

    def do(self, command: str) -> str:
        """Run a line that must succeed; what it printed on stdout."""
        done = self.run(command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Start a line in a session of its own and let it run."""
        out = self.home.with_name(f"{self.home.name}-{len(self._started)}.out")
        with out.open("wb") as file:
            process = subprocess.Popen(
                ["sh", "-c", command], cwd=self.home, env=self.variables, user=self.user, group=self.user,
                extra_groups=None if self.user is None else [], stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        self._started.append((process, out))
        return process

    def said(self) -> str:
        """What everything started here has printed."""
        return "\n".join(f"{out.name}:\n{out.read_text(errors='replace')[-3000:]}" for _, out in self._started)

    def alive(self) -> bool:
        """Whether everything started here still runs."""
        return all(process.poll() is None for process, _ in self._started)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, _ in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def install(folder: Path, user: int | None) -> dict[str, str]:
    """What makes `muster` a command for a user: his PATH, and a Python that he may read.

    Where this process's Python lies in a home that is closed to others, hard links to its files make another one.
    """
    python, variables = sys.executable, {}
    if user is not None and Machine(Path("/"), user, {"PATH": "/usr/bin:/bin"}).run(f"{python} -c ''").returncode:
        python, library = str(folder / "bin" / "python"), Path(sysconfig.get_path("stdlib"))
        shutil.copytree(
            library, folder / "lib" / library.name, copy_function=link,
            ignore=shutil.ignore_patterns("site-packages", "test"),
        )  # fmt: skip
        (folder / "bin").mkdir()
        link(os.path.realpath(sys.executable), python)
        for shared in Path(sysconfig.get_config_var("LIBDIR")).glob("libpython*"):
            link(str(shared), str(folder / "lib" / shared.name))
        variables = {
            "LD_LIBRARY_PATH": str(folder / "lib"),
            "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}",
        }
    command = folder / "path" / "muster"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec {python} -c "{PROGRAM}" "$@"\n')
    command.chmod(0o755)
    return {"PATH": f"{command.parent}:/usr/bin:/bin", "OMP_NUM_THREADS": "1", "THP_MEM_ALLOC_ENABLE": "1", **variables}


def link(source: str, target: str) -> None:
    """A second name for a file, or a copy of it on another file system."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)


def until(true: Callable[[], bool], *machines: Machine) -> None:
    """Wait until something is so, while everything that was started is alive."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not true():
        said = "\n".join(machine.said() for machine in machines)
        assert all(machine.alive() for machine in machines), said
        assert time.monotonic() < end, said
        time.sleep(LOOK_SECONDS)


E = TypeVar("E", bound=Event)


def of(kind: type[E], journal: Path) -> list[E]:
    """All events of a kind that a participant has noted."""
    return [noted.event for noted in read_journal(journal).noted if isinstance(noted.event, kind)]


def accepts(hotkey: str, journal: Path) -> bool:
    """Whether a participant has applied a record that accepts this one."""
    return any(hotkey in event.accepted for event in of(Applied, journal))


def write_keys(folder: Path, keys: Credentials, user: int | None) -> dict[str, str]:
    """The two files of a bucket's owner, and the variables that name them."""
    folder.mkdir(mode=0o700)
    files = {"MUSTER_S3_ACCESS_KEY_FILE": keys.access, "MUSTER_S3_SECRET_KEY_FILE": keys.secret}
    for name, text in files.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text)
    if user is not None:
        for path in (folder, *folder.iterdir()):
            os.chown(path, user, user)
    return {name: str(folder / name) for name in files}


@dataclass(frozen=True)
class Published:
    """A run under way: where it runs, its URL, the chain's file, and a folder in which others may live."""

    first: Machine
    folder: Path
    url: str
    chain: Path
    base: Path
    buckets: Provisioner


@pytest.fixture
def published(s3_server: RadosGateway, tmp_path: Path) -> Iterator[Published]:
    """An aggregator, a validator and a miner on the first machine, their run published, its first record applied."""
    made = template(
        inner={"steps": 3, "total": 3 * ROUNDS},
        # A round lasts ten seconds at least: the stranger's work is in before it is sealed.
        clock={"min_blocks": 40, "deadline": 480, "reveal": 120, "grace": 120, "min_submissions": 1, **PATIENT},
        gauntlet={"score_wait": 120},
    )
    admin, secret = s3_server.user("admin")
    buckets = Provisioner(s3_server.endpoint, Credentials(admin, secret), f"second-{os.getpid()}")
    base = Path(tempfile.mkdtemp(prefix="second-machine-"))
    base.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, base)
        folder, home = tmp_path / "run", tmp_path / "home"
        home.mkdir()
        plain = {"HOME": str(home), **install(base / "first", None)}
        preset = write_template(made, tmp_path / "miniature.toml")
        admins = {"MUSTER_S3_ADMIN_ACCESS_KEY": admin, "MUSTER_S3_ADMIN_SECRET_KEY": secret}
        Machine(home, None, plain | admins).do(
            f"muster testnet --preset {preset} --miners 1 --dir {folder} --store s3://{s3_server.address} --prepare"
        )
        chain = share_chain(folder / "chain.sqlite", base / "chain")
        place = buckets.provision("runs")
        keys = write_keys(tmp_path / "publisher", place.write, None)
        publish = f"muster run publish {folder} --store {shlex.quote(f'{place.location}/first')} --chain sqlite:{chain}"
        url = Machine(home, None, plain | keys).do(publish).strip()
        first = stack.enter_context(Machine(home, None, plain | {"MUSTER_CHAIN": f"sqlite:{chain}"}))
        for role, name in (("aggregator", "operator-0"), ("validator", "operator-0"), ("miner", "miner-0")):
            secrets = f"set -a; . {folder}/keys/{name}.env"
            first.start(f"{secrets}; exec muster {role} --run {folder} --name {name}")
        journal = folder / "logs" / "miner-0.jsonl"
        until(lambda: bool(of(Applied, journal)), first)
        yield Published(first, folder, url, chain, base, buckets)


def share_chain(made: Path, folder: Path) -> Path:
    """Put the chain's file where every user of this machine may write it, as anybody may write to a real chain."""
    assert not made.with_name(f"{made.name}-wal").exists()
    folder.mkdir()
    folder.chmod(0o777)
    chain = folder / made.name
    shutil.move(made, chain)
    chain.chmod(0o666)
    return chain


@pytest.fixture
def second(published: Published, tmp_path: Path) -> Iterator[tuple[Machine, str, Credentials]]:
    """The stranger's machine, the location of his bucket, and the keys that write it."""
    user = NOBODY if os.geteuid() == 0 else None
    home = published.base / "stranger"
    home.mkdir(mode=0o700)
    if user is not None:
        os.chown(home, user, user)
    bucket = published.buckets.provision("stranger")
    keys = write_keys(published.base / "keys", bucket.write, user)
    with Machine(home, user, {"HOME": str(home), **install(published.base / "second", user), **keys}) as machine:
        if user is not None:
            assert machine.run(f"cat {published.folder}/run.toml || cat {tmp_path}/*").returncode
        assert not any(home.iterdir())
        yield machine, bucket.location, bucket.write


def test_a_stranger_joins_and_is_accepted(
    published: Published, second: tuple[Machine, str, Credentials], s3_server: RadosGateway
) -> None:
    machine, location, writer = second
    joined = machine.do(
        f"muster join {shlex.quote(published.url)} --location {shlex.quote(location)} "
        f"--chain sqlite:{published.chain} --allow {s3_server.address}"
    )
    command = joined.splitlines()[-1].strip()
    found = re.fullmatch(r"MUSTER_CONFIG=(\S+) muster miner", command)
    assert found, joined
    config = Path(found[1])
    assert machine.home in config.parents
    assert len(tomllib.loads(config.read_text())) <= SETTINGS
    key = config.parent / "hotkey.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.stat().st_uid == (os.geteuid() if machine.user is None else machine.user)
    hotkey = Identity.from_file(key).hotkey
    assert hotkey in joined

    process = machine.start(command)
    journal = published.folder / "logs" / "validator-operator-0.jsonl"
    until(lambda: accepts(hotkey, journal), machine, published.first)
    (own,) = (config.parent / "run" / "logs").glob("*.jsonl")
    until(lambda: accepts(hotkey, own), machine, published.first)
    assert own.stat().st_uid == key.stat().st_uid
    (pid,) = (event.pid for event in of(Started, own))
    os.kill(pid, signal.SIGTERM)  # not the shell above it, which would not wait
    assert process.wait(COMMAND_SECONDS) == 0, machine.said()

    roots = [{event.round: event.root for event in of(Applied, path)} for path in (journal, own)]
    shared = roots[0].keys() & roots[1].keys()
    assert shared
    assert all(roots[0][round_] == roots[1][round_] for round_ in shared)
    for path in (path for path in machine.home.rglob("*") if path.is_file()):
        assert writer.secret.encode() not in path.read_bytes(), path
    assert key.read_text().strip() not in joined + machine.said()
