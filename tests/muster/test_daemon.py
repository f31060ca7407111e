"""A daemon whose hotkey's role is taken says by whom and touches nothing; one that starts writes through the queue."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from doctor_setups import diagnose, lay_out
from hotkey_process import line, other_process

from muster.config import NodeConfig
from muster.daemon import Role, run_daemon
from muster.doctor.finding import Status
from muster.node.lock import hotkey_folder, read_holder, role_lock
from muster.parts import ledger_name
from muster.protocol.errors import ConfigError, HotkeyInUse
from muster.protocol.identity import Identity
from muster.rundir import RunDirectory
from muster.runfile import BITTENSOR, RunFile
from muster.supervise import PERSON_MUST_ACT


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
