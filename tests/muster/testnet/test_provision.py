"""What a testnet stands on is asked for in plain words, and told to the daemons without a secret in sight."""

from __future__ import annotations

import shlex
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from muster.protocol.errors import ConfigError, UsageError
from muster.protocol.storage import Credentials
from muster.run.credentials import load_credentials
from muster.run.file import NO_RUN, RunFile
from muster.testnet.provision import Provision, forget_administrator, provision
from muster.testnet.roster import Roster

ROSTER = Roster.of(0, 1, 1, {})
PROVISION = Provision(
    RunFile(run_id=NO_RUN, store="network"),
    0,
    {"miner-0": "s3://READ:PUBLIC@127.0.0.1:9000/run-miner-0?tls=off"},
    {"miner-0": Credentials("WRITER", "HUSH")},
)


async def test_a_local_run_needs_nothing() -> None:
    provided = await provision("dir", "sqlite", ROSTER, {})
    assert provided.file == RunFile(run_id=NO_RUN)
    assert provided.locations == {"operator-0": "dir:operator-0", "miner-0": "dir:miner-0"}
    assert provided.environment("miner-0", Path("keys")) == {}


@pytest.mark.parametrize(
    ("store", "chain", "words"),
    [
        ("s3", "sqlite", "--store"),
        ("s3://", "sqlite", "--store"),
        ("s3://?tls=off", "sqlite", "--store"),
        ("s3://host/bucket", "sqlite", "--store"),
        ("s3://KEY:SECRET@host", "sqlite", "--store"),
        ("dir", "postgres", "--chain"),
        ("dir", "http://host", "--chain"),
    ],
)
async def test_words_that_are_not_understood(store: str, chain: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        await provision(store, chain, ROSTER, {})


async def test_buckets_are_made_by_their_administrator() -> None:
    with pytest.raises(ConfigError, match="MUSTER_S3_ADMIN_ACCESS_KEY"):
        await provision("s3://127.0.0.1:1", "sqlite", ROSTER, {})


def test_a_process_is_told_by_files_what_writes(tmp_path: Path) -> None:
    PROVISION.write_keys(tmp_path)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    told = PROVISION.environment("miner-0", tmp_path)
    assert "HUSH" not in str(told)
    assert load_credentials(told) == PROVISION.writers["miner-0"]
    text = (tmp_path / "miner-0.env").read_text()
    assert "HUSH" not in text
    assert dict(line.split("=", 1) for line in shlex.split(text)) == told


def test_a_secret_does_not_show() -> None:
    assert "HUSH" not in repr(replace(PROVISION))


def test_no_child_inherits_the_administrators_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in ("MUSTER_S3_ADMIN_ACCESS_KEY", "MUSTER_S3_ADMIN_SECRET_KEY", "MUSTER_S3_ADMIN_SECRET_KEY_FILE"):
        monkeypatch.setenv(name, "x")
    forget_administrator()
    assert not any(name.startswith("MUSTER_S3_ADMIN") for name in os.environ)
