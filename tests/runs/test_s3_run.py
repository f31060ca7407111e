"""A run whose buckets are on a real S3 server has the roots of the same run in folders, and keeps its secrets."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from forked import Commands
from run_builders import PATIENT, Stage, play, template, write_template
from s3_server import RadosGateway

from muster.node.data.dataset import TextReader
from muster.node.hello import read_hello
from muster.protocol.errors import StorageError
from muster.protocol.storage import parse_location
from muster.run.folder import RunDirectory
from muster.testnet.roster import Roster

pytestmark = pytest.mark.processes

ROUNDS = 4
MANY_ROUNDS = 12
"""As many as the default testnet has."""
SEED = 3
ROSTER = Roster.of(SEED, 2, 1, {})
SECONDS = 900


class Finished(NamedTuple):
    """A run that has ended: its folder, its summary, everything it printed, and the administrator's secret."""

    folder: Path
    summary: Mapping[str, Any]
    printed: str
    secret: str


def plain() -> dict[str, str]:
    """The environment without settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")}


def muster(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "muster", *arguments],
        check=False, capture_output=True, text=True, timeout=SECONDS, env=plain() | variables,
    )  # fmt: skip


def live(s3_server: RadosGateway, base: Path, rounds: int) -> Finished:
    """`muster testnet --store s3://…` from beginning to end."""
    made = template(
        inner={"steps": 3, "total": 12},
        clock={"deadline": 240, "reveal": 120, "grace": 120, **PATIENT},
        gauntlet={"score_wait": 120},
    )
    preset = write_template(made, base / "miniature.toml")
    admin, secret = s3_server.user("admin")
    ended = muster(
        "testnet", "--preset", str(preset), "--miners", "2", "--rounds", str(rounds), "--seed", str(SEED),
        "--dir", str(base / "run"), "--store", f"s3://{urlsplit(s3_server.endpoint).netloc}", "--json",
        MUSTER_S3_ADMIN_ACCESS_KEY=admin, MUSTER_S3_ADMIN_SECRET_KEY=secret,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr + "".join(
        path.read_text() for path in (base / "run" / "logs").glob("*.log")
    )
    return Finished(base / "run", json.loads(ended.stdout.splitlines()[-1]), ended.stdout + ended.stderr, secret)


@pytest.fixture(scope="module")
def finished(s3_server: RadosGateway, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A short run."""
    return live(s3_server, tmp_path_factory.mktemp("s3"), ROUNDS)


def check_roots(finished: Finished, rounds: int) -> None:
    """Everybody took part in every round, and the roots are the simulator's."""
    assert finished.summary["roots_agree"]
    assert finished.summary["rounds"] == rounds
    run = RunDirectory.open(str(finished.folder))
    stage = Stage(run, ROSTER, TextReader.open(run.data, run.history.genesis.data.manifest))
    assert finished.summary["state_roots"] == play(stage, rounds).state_roots
    assert {peer["accepted"] for peer in finished.summary["peers"] if peer["submitted"]} == {rounds}


def test_the_roots_are_those_of_the_run_in_folders(finished: Finished) -> None:
    check_roots(finished, ROUNDS)


@pytest.mark.slow
def test_so_they_are_after_many_rounds(s3_server: RadosGateway, tmp_path: Path) -> None:
    check_roots(live(s3_server, tmp_path, MANY_ROUNDS), MANY_ROUNDS)


def test_the_audit_agrees(finished: Finished, muster_command: Commands) -> None:
    ended = muster_command("audit", str(finished.folder), "--json", environment=plain())
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["state_roots"] == finished.summary["state_roots"]


def test_who_knows_only_the_url_can_audit_too(
    finished: Finished, s3_server: RadosGateway, tmp_path: Path, muster_command: Commands
) -> None:
    access, secret = s3_server.user("publisher")
    s3_server.client("publisher").create_bucket(Bucket="runs")
    host, chain = urlsplit(s3_server.endpoint).netloc, f"sqlite:{finished.folder / 'chain.sqlite'}"
    place = f"s3://{access}:{secret}@{host}/runs/miniature"
    keys = {"MUSTER_S3_ACCESS_KEY": access, "MUSTER_S3_SECRET_KEY": secret}
    words = ("run", "publish", str(finished.folder), "--store", place, "--chain", chain)
    published = muster_command(*words, environment=plain() | keys)
    assert published.returncode == 0, published.stderr
    settings = {"XDG_DATA_HOME": str(tmp_path), "MUSTER_CHAIN": chain, "MUSTER_ALLOW": host}
    ended = muster_command("audit", published.stdout.strip(), "--json", environment=plain() | settings)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["state_roots"] == finished.summary["state_roots"]


def test_the_folder_names_the_real_parts_and_holds_no_bucket(finished: Finished) -> None:
    document = tomllib.loads((finished.folder / "run.toml").read_text())
    assert document["store"] == "network"
    assert not (finished.folder / "buckets").exists()


async def test_everybody_said_hello_and_nobody_writes_anothers_bucket(finished: Finished) -> None:
    run = RunDirectory.open(str(finished.folder))
    chain, buckets = run.chain(), run.buckets()
    peers = (await chain.snapshot()).by_hotkey()
    try:
        for member in ROSTER.members:
            location = peers[member.hotkey].location
            assert location is not None
            hello = await read_hello(buckets.bucket(location), run.history.run_id, member.identity.public)
            assert hello.roles == (("miner",) if member in ROSTER.miners else ("aggregator", "validator"))
            with pytest.raises(StorageError):
                await buckets.bucket(location).put("mine", b"now")
    finally:
        await chain.close()
        await buckets.close()


def test_secrets_are_in_the_keys_folder_and_nowhere_else(finished: Finished) -> None:
    keys = finished.folder / "keys"
    writers = {path.read_text().strip() for path in keys.glob("*.s3-secret")}
    assert len(writers) == len(ROSTER.members)
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()} == {0o600}
    hidden = {finished.secret, *writers}
    assert not any(secret in finished.printed for secret in hidden)
    for path in finished.folder.rglob("*"):
        if path.is_file() and path.suffix not in (".s3-secret", ".bin"):
            data = path.read_bytes()
            assert not any(secret.encode() in data for secret in hidden), path


def test_a_location_reads_and_does_not_show_who_writes(finished: Finished) -> None:
    for path in (finished.folder / "keys").glob("*.env"):
        values = dict(line.split("=", 1) for line in path.read_text().splitlines())
        place = parse_location(values["MUSTER_LOCATION"].strip("'"))
        access = Path(values["MUSTER_S3_ACCESS_KEY_FILE"]).read_text().strip()
        assert access not in str(place)
