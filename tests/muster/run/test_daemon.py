"""A daemon from its start to its end: whose role it takes, what it writes through, and how it stops or fails."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from doctor_setups import diagnose, lay_out
from hotkey_process import line, other_process

from muster.doctor.finding import Status
from muster.node.ledger.session import Session
from muster.node.lock import hotkey_folder, read_holder, role_lock
from muster.node.telemetry.events import Computes, Event, Finished
from muster.node.telemetry.journal import read_journal
from muster.protocol import paths
from muster.protocol.errors import ConfigError, HotkeyInUse, LedgerError
from muster.protocol.identity import Identity
from muster.protocol.types import Role
from muster.run.backends import ledger_name
from muster.run.daemon import label, run_daemon
from muster.run.ending import run_command
from muster.run.file import BITTENSOR, RunFile
from muster.run.folder import RunDirectory
from muster.run.settings import NodeConfig
from muster.testnet.supervise import PERSON_MUST_ACT


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run in folders."""
    return lay_out(tmp_path / "run")


@pytest.fixture
def folder(run: RunDirectory) -> Path:
    """Where the locks of miner-0's hotkey are."""
    return hotkey_folder(os.environ, Identity.from_file(run.key("miner-0")).hotkey)


@pytest.fixture
def taken(run: RunDirectory, folder: Path) -> Iterator[str]:
    """Another process is miner-0's miner; says which."""
    with other_process("lock", role_lock(folder, run.ledger(), run.history.run_id, "miner"), "first") as process:
        assert line(process) == "held"
        yield f"process {process.pid} on host, called first"


def start(run: Path, **settings: Any) -> None:
    """Start a miner in this process."""
    run_daemon(Role.MINER, NodeConfig(**({"run": str(run), "name": "miner-0"} | settings)))


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file of a folder but the chain's, which others write too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if not path.name.startswith("chain.sqlite")}


def test_another_name_state_or_working_directory_is_no_way_round(
    run: RunDirectory, taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(run.path)
    link = tmp_path / "link"
    link.symlink_to(run.path)
    monkeypatch.chdir(tmp_path)
    renamed = {"name": "somebody", "key_file": run.key("miner-0"), "state": tmp_path / "state"}
    for where, settings in ((run.path, {}), (Path("link"), renamed), (link, {"chain": "sqlite:link/chain.sqlite"})):
        with pytest.raises(HotkeyInUse, match=taken) as caught:
            start(where, **settings)
        assert len(str(caught.value)) < 400
    assert contents(run.path) == before
    assert not (tmp_path / "state").exists()


def test_no_restart_cures_it() -> None:
    assert HotkeyInUse.exit_status in PERSON_MUST_ACT


def test_a_daemon_writes_through_its_hotkeys_queue(run: RunDirectory, folder: Path) -> None:
    """It has registered and committed before it finds a memory that is none, and leaves the role to the next."""
    memory = run.state("miner-0") / "memory.safetensors"
    memory.parent.mkdir(parents=True)
    memory.write_bytes(b"not tensors")
    for _ in range(2):
        with pytest.raises(ConfigError, match="memory"):
            start(run.path, service="off")
        written = read_holder(folder / f"{run.ledger()}-writes.lock")
        assert written.endswith(f"miner-0, process {os.getpid()}")


def test_each_local_chain_is_a_ledger_and_each_real_one(run: RunDirectory, tmp_path: Path) -> None:
    copy = RunDirectory.open(str(shutil.copytree(run.path, tmp_path / "copy")))
    assert copy.history.run_id == run.history.run_id
    assert copy.ledger() != run.ledger() == copy.ledger(f"sqlite:{run.path}/chain.sqlite")
    files = [RunFile(run_id="0" * 64, chain=BITTENSOR, netuid=n, endpoints=("wss://x",)) for n in (1, 2)]
    assert {ledger_name(file, None, override) for file in files for override in (None, "wss://y")} == {BITTENSOR}
    with pytest.raises(ConfigError, match="on its publisher's machine"):
        ledger_name(run.file, None)


def told(run: RunDirectory, role: Role, name: str) -> list[Event]:
    """What a daemon has written to its journal."""
    return [noted.event for noted in read_journal(run.journal(label(role, name))).noted]


class TestEnds:
    """How a daemon ends."""

    def test_one_after_the_other_they_see_a_run_to_its_end(self, run: RunDirectory) -> None:
        """A leader that closes the run at once, and whoever comes later: all end by themselves, on one root."""
        roles = ((Role.AGGREGATOR, "operator-0"), (Role.VALIDATOR, "operator-0"), (Role.MINER, "miner-0"))
        for role, name in roles:
            config = NodeConfig(run=str(run.path), name=name, service="127.0.0.1:0")
            run_daemon(role, config, rounds=0 if role is Role.AGGREGATOR else None)
            events = [event.name for event in told(run, role, name)]
            assert [e for e in events if e in ("started", "service", "joined", "finished")] == [
                "started", "service", "joined", "finished"
            ]  # fmt: skip
            assert (run.path / "buckets" / name / paths.hello(run.history.run_id)).exists()
        ends = [told(run, role, name)[-1] for role, name in roles]
        assert len(set(ends)) == 1
        assert isinstance(ends[0], Finished)

    def test_what_it_cannot_go_on_from_is_one_line_and_a_status(
        self, run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """However many task groups it passes on its way out."""

        async def fails(self: Session) -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(asyncio.Event().wait())
                raise LedgerError("this leader has a fault")

        monkeypatch.setattr(Session, "run", fails)
        config = NodeConfig(run=str(run.path), name="operator-0", service="127.0.0.1:0")
        with pytest.raises(SystemExit) as ended:
            run_command(lambda: run_daemon(Role.AGGREGATOR, config))
        assert ended.value.code == LedgerError.exit_status
        assert capsys.readouterr().err.splitlines()[-1] == "error[ledger]: this leader has a fault"

    def test_a_port_that_is_taken_is_said_before_anything_is_joined(self, run: RunDirectory) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(ConfigError, match="the port is in use"):
                start(run.path, service=f"127.0.0.1:{taken.getsockname()[1]}")
        assert [event.name for event in told(run, Role.MINER, "miner-0")] == ["started", "computes"]


class TestDoctor:
    """What the doctor says of it."""

    def test_it_tells_of_a_daemon_that_runs(self, run: RunDirectory, taken: str) -> None:
        finding = diagnose(run.path, environment=os.environ)["key"]
        assert finding.status is Status.WARN
        assert taken in finding.text
        assert "stop it" in finding.fix

    def test_it_takes_no_lock(self, run: RunDirectory, folder: Path) -> None:
        assert diagnose(run.path, environment=os.environ)["key"].status is Status.OK
        assert not folder.exists() or not list(folder.glob(f"{run.ledger()}*"))

    def test_another_role_of_the_hotkey_is_free(self, run: RunDirectory, taken: str) -> None:
        finding = diagnose(run.path, role=Role.VALIDATOR, environment=os.environ)["key"]
        assert finding.status is Status.OK, taken


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_wished_and_cannot_be_used_ends_it_in_a_sentence(run: RunDirectory) -> None:
    with pytest.raises(ConfigError, match=r"device is cuda, but torch .*, or set device to cpu"):
        start(run.path, device="cuda")


@pytest.mark.parametrize(
    ("role", "told"),
    [
        (Role.MINER, [Computes("cpu", "bf16 products on the CPU, as set")]),
        (Role.VALIDATOR, [Computes("cpu", "fp32 products on the CPU, as set")]),
        (Role.AGGREGATOR, []),
    ],
)
def test_log_and_journal_tell_how_it_computes(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, role: Role, told: list[Event]
) -> None:
    """A miner as it is set; a validator by fp32, which its published losses are of; an aggregator has nothing to do."""

    async def at_once(_self: Session) -> None:
        return

    monkeypatch.setattr(Session, "run", at_once)
    name = "miner-0" if role is Role.MINER else "operator-0"
    run_daemon(role, NodeConfig(run=str(run.path), name=name, device="cpu", precision="bf16", service="off"))
    noted = read_journal(run.journal(label(role, name))).noted
    assert [one.event for one in noted if isinstance(one.event, Computes)] == told
