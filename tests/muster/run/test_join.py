"""Joining needs the URL of a run and nothing else: the rest is found, made, or said in a sentence."""

from __future__ import annotations

import asyncio
import json
import shlex
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from run_folders import ROSTER, make_spec, served

from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.sqlite import SqliteChain
from muster.protocol.errors import ConfigError, IdentityError, UsageError
from muster.protocol.identity import Identity
from muster.run.fetch import COPY
from muster.run.file import RunFile
from muster.run.join import JoinRequest, join_run
from muster.run.publish import publish_run
from muster.run.settings import NodeConfig, load_config

LOCATION = "s3://READ:PUBLIC@s3.example/bucket"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose buckets are on the network and whose chain is a file, published in a folder."""
    base = tmp_path_factory.mktemp("join")
    chain = base / "chain.sqlite"
    stakes = {ROSTER.operators[0].hotkey: 1000}
    SqliteChain.create(chain, ChainGenesis(seed=0, stakes=stakes), block_seconds=1.0)
    file = RunFile(run_id="0" * 64, store="network", chain=f"sqlite:{chain}")
    return Path(asyncio.run(publish_run(make_spec(base), str(base / "out"), file, {})))


@pytest.fixture
def request_(place: Path, tmp_path: Path) -> Iterator[JoinRequest]:
    """What a stranger asks for who knows only the URL and has a folder."""
    chain = RunFile.from_bytes((place / "run.toml").read_bytes(), "").chain
    with served(place) as url:
        yield JoinRequest(url, tmp_path / "me", chain=chain)


def settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> NodeConfig:
    monkeypatch.setenv("MUSTER_CONFIG", str(folder / "muster.toml"))
    return load_config({}, {"MUSTER_CONFIG": str(folder / "muster.toml")})


async def test_from_nothing_to_a_command(request_: JoinRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    said = await join_run(request_, {})
    folder = request_.folder
    assert folder is not None
    key = folder / "hotkey.key"
    identity = Identity.from_file(key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert (folder / COPY / "spec.json").exists()
    config = settings(folder, monkeypatch)
    run_id = RunFile.from_bytes((folder / COPY / "run.toml").read_bytes(), "").run_id
    assert config.run == f"{request_.run}#{run_id}"
    assert (config.key_file, config.state, config.chain) == (key, folder, request_.chain)
    assert config.location is None
    for words in (identity.hotkey, run_id, "not registered", "muster bucket create", "MUSTER_S3_SECRET_KEY_FILE"):
        assert words in said
    assert said.endswith(f"MUSTER_CONFIG={folder}/muster.toml muster miner")
    assert key.read_text().strip() not in said


async def test_every_setting_has_its_reason_and_there_are_few(request_: JoinRequest) -> None:
    await join_run(replace(request_, location=LOCATION, allow="127.0.0.1:9000"), {})
    assert request_.folder is not None
    lines = (request_.folder / "muster.toml").read_text().splitlines()
    named = [i for i, line in enumerate(lines) if line and not line.startswith("#")]
    assert len(named) <= 10
    assert all(lines[i - 1].startswith("# ") for i in named)
    given = {lines[i].partition("=")[0].strip() for i in named}
    assert not [name for name, field in NodeConfig.model_fields.items() if field.is_required() and name not in given]


async def test_joining_again_keeps_key_and_settings(request_: JoinRequest) -> None:
    folder = request_.folder
    assert folder is not None
    await join_run(request_, {})
    (folder / "muster.toml").write_text("mine = true\n")
    key = (folder / "hotkey.key").read_text()
    said = await join_run(replace(request_, location=LOCATION), {})
    assert "is left as it is" in said
    assert (folder / "muster.toml").read_text() == "mine = true\n"
    assert (folder / "hotkey.key").read_text() == key


async def test_an_operator_is_told_both_commands(request_: JoinRequest, tmp_path: Path) -> None:
    (tmp_path / "seed").write_text(ROSTER.operators[0].seed.hex())
    said = await join_run(replace(request_, key_file=tmp_path / "seed", location=LOCATION), {})
    assert [shlex.split(line)[-1] for line in said.splitlines()[-2:]] == ["aggregator", "validator"]
    assert "muster bucket create" not in said
    assert request_.folder is not None
    assert not (request_.folder / "hotkey.key").exists()


async def test_a_registered_hotkey_is_told_its_uid(request_: JoinRequest, tmp_path: Path) -> None:
    member = ROSTER.miners[0]
    assert request_.chain is not None
    chain = SqliteChain(Path(request_.chain.removeprefix("sqlite:")))
    uid = await chain.register(member.identity)
    await chain.close()
    (tmp_path / "seed").write_text(member.seed.hex())
    said = await join_run(replace(request_, key_file=tmp_path / "seed"), {})
    assert f"registered with uid {uid}" in said


async def test_a_wallet_is_found_where_bittensor_keeps_it(
    request_: JoinRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    member = ROSTER.miners[1]
    hotkeys = tmp_path / ".bittensor" / "wallets" / "mine" / "hotkeys"
    hotkeys.mkdir(parents=True)
    document = {
        "accountId": "0x" + member.identity.public.hex(),
        "publicKey": "0x" + member.identity.public.hex(),
        "secretSeed": "0x" + member.seed.hex(),
        "ss58Address": member.hotkey,
    }
    (hotkeys / "first").write_text(json.dumps(document))
    said = await join_run(replace(request_, wallet="mine/first"), {})
    assert member.hotkey in said
    with pytest.raises(IdentityError, match="second"):
        await join_run(replace(request_, wallet="mine/second"), {})


@pytest.mark.parametrize("wallet", ["mine", "mine/", "/first", "mine/../first", "../mine"])
async def test_a_wallet_has_two_names(request_: JoinRequest, wallet: str) -> None:
    with pytest.raises(UsageError, match="NAME/HOTKEY"):
        await join_run(replace(request_, wallet=wallet), {})


async def test_one_hotkey_at_a_time(request_: JoinRequest) -> None:
    with pytest.raises(UsageError, match="one of them"):
        await join_run(replace(request_, wallet="a/b", key_file=Path("k")), {})


async def test_a_chain_that_cannot_be_asked_does_not_hinder_joining(request_: JoinRequest) -> None:
    said = await join_run(replace(request_, chain="sqlite:/none"), {})
    assert "could not be found out" in said
    said = await join_run(replace(request_, chain=None), {})
    assert "could not be found out" in said


async def test_another_run_at_the_url_makes_nothing(request_: JoinRequest) -> None:
    with pytest.raises(ConfigError, match="not the run"):
        await join_run(replace(request_, run=f"{request_.run}#{'1' * 64}"), {})
    assert request_.folder is not None
    assert not request_.folder.exists()


async def test_a_local_run_is_joined_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await publish_run(make_spec(tmp_path), str(tmp_path / "run"), None, {})
    said = await join_run(JoinRequest(run, tmp_path / "me"), {})
    assert "starting registers it" in said
    config = settings(tmp_path / "me", monkeypatch)
    assert (config.run, config.location) == (run, None)
