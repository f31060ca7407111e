"""Publishing copies a spec and its text to where others read them, and never puts one run in another's place."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from run_folders import ROSTER, make_spec
from s3_server import RadosGateway

from muster.node.data.dataset import TextReader
from muster.protocol.errors import ConfigError, DataError, StorageError, UsageError
from muster.run.credentials import load_credentials
from muster.run.fetch import fetch_text, open_run
from muster.run.file import BITTENSOR, RunFile
from muster.run.publish import publish_run, run_file

ENDPOINTS = ("wss://chain.example",)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is ready to be published; not to be changed."""
    return make_spec(tmp_path_factory.mktemp("spec"))


@pytest.fixture(scope="module")
def subnet_spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for subnet 3."""
    return make_spec(tmp_path_factory.mktemp("subnet"), netuid=3)


@pytest.fixture(scope="module")
def other_spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one."""
    return make_spec(tmp_path_factory.mktemp("other"), seed=1, netuid=3)


def environment(pair: tuple[str, str]) -> dict[str, str]:
    return {"MUSTER_S3_ACCESS_KEY": pair[0], "MUSTER_S3_SECRET_KEY": pair[1]}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_a_run_published_in_a_folder_can_be_lived_in(spec: Path, tmp_path: Path) -> None:
    place = await publish_run(spec, str(tmp_path / "run"), None, {})
    run = await open_run(place)
    text = TextReader.open(await fetch_text(run), run.history.genesis.data.manifest)
    assert text.manifest.digest == run.history.genesis.data.manifest
    chain = run.chain()
    uid = await chain.register(ROSTER.operators[0].identity)
    peer = (await chain.snapshot()).peers[uid]
    assert peer.stake > 0
    await chain.close()


async def test_publishing_again_changes_nothing(spec: Path, other_spec: Path, tmp_path: Path) -> None:
    place = Path(await publish_run(spec, str(tmp_path / "run"), None, {}))
    before = contents(place)
    await publish_run(spec, str(place), None, {})
    with pytest.raises(ConfigError, match="another run already"):
        await publish_run(make_spec(tmp_path, seed=1), str(place), None, {})
    assert contents(place) == before


@pytest.mark.parametrize(("made_for", "netuid"), [(None, 3), (3, None), (3, 4)])
async def test_a_spec_is_published_on_its_own_chain_only(
    tmp_path: Path, made_for: int | None, netuid: int | None
) -> None:
    file = run_file(str(tmp_path / "run"), None, netuid, ENDPOINTS)
    with pytest.raises(ConfigError, match=r"the spec is for .*; publish it there, or make one for this chain"):
        await publish_run(make_spec(tmp_path, netuid=made_for), str(tmp_path / "run"), file, {})
    assert not (tmp_path / "run").exists()


async def test_a_run_on_the_network(
    s3_server: RadosGateway, subnet_spec: Path, other_spec: Path, tmp_path: Path
) -> None:
    pair = s3_server.user("publisher")
    s3_server.client("publisher").create_bucket(Bucket="published")
    place = f"s3://{pair[0]}:{pair[1]}@{urlsplit(s3_server.endpoint).netloc}/published/run"
    file = run_file(place, None, 3, ENDPOINTS)
    url = await publish_run(subnet_spec, place, file, environment(pair))
    assert url == f"{place}#{(await open_run(url, tmp_path / 'home')).file.run_id}"
    run = await open_run(url, tmp_path / "home")
    assert (run.file.store, run.file.chain, run.file.netuid, run.file.endpoints) == ("network", BITTENSOR, 3, ENDPOINTS)
    TextReader.open(await fetch_text(run), run.history.genesis.data.manifest)
    with pytest.raises(ConfigError, match="another run already") as refused:
        await publish_run(other_spec, place, file, environment(pair))
    assert pair[1] not in str(refused.value)


async def test_run_toml_is_the_last_to_appear(s3_server: RadosGateway, subnet_spec: Path) -> None:
    pair = s3_server.user("orderly")
    client = s3_server.client("orderly")
    client.create_bucket(Bucket="orderly")
    place = f"s3://{urlsplit(s3_server.endpoint).netloc}/orderly/run"
    await publish_run(subnet_spec, place, run_file(place, None, 3, ENDPOINTS), environment(pair))
    written = client.list_objects_v2(Bucket="orderly")["Contents"]
    newest = sorted(written, key=lambda found: found["LastModified"])
    keys = [found["Key"].removeprefix("run/") for found in newest]
    assert keys == ["data/train.bin", "data/heldout.bin", "data/manifest.json", "spec.json", "run.toml"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "MUSTER_S3_ACCESS_KEY"),
        ({"MUSTER_S3_ACCESS_KEY": "a"}, "must both be set"),
        ({"MUSTER_S3_ACCESS_KEY": "a", "MUSTER_S3_SECRET_KEY_FILE": "/none"}, "/none"),
        (
            {"MUSTER_S3_ACCESS_KEY": "a", "MUSTER_S3_SECRET_KEY": "hush", "MUSTER_S3_SECRET_KEY_FILE": "/none"},
            "both set",
        ),
    ],
)
async def test_publishing_on_the_network_needs_a_key(subnet_spec: Path, given: dict[str, str], words: str) -> None:
    place = "s3://127.0.0.1:1/bucket"
    with pytest.raises(ConfigError, match=words) as refused:
        await publish_run(subnet_spec, place, run_file(place, None, 3, ENDPOINTS), given)
    assert "hush" not in str(refused.value)


async def test_a_wrong_key_is_refused_without_being_shown(s3_server: RadosGateway, subnet_spec: Path) -> None:
    place = f"s3://{urlsplit(s3_server.endpoint).netloc}/published/run"
    pair = (s3_server.user("publisher")[0], "not-the-secret")
    with pytest.raises(StorageError) as refused:
        await publish_run(subnet_spec, place, run_file(place, None, 3, ENDPOINTS), environment(pair))
    assert "not-the-secret" not in str(refused.value)


def test_keys_may_be_in_files(tmp_path: Path) -> None:
    for name, value in (("access", "KEY"), ("secret", "SECRET\n")):
        (tmp_path / name).write_text(value)
    found = load_credentials(
        {
            "MUSTER_S3_ACCESS_KEY_FILE": str(tmp_path / "access"),
            "MUSTER_S3_SECRET_KEY_FILE": str(tmp_path / "secret"),
        }
    )
    assert found is not None
    assert (found.access, found.secret) == ("KEY", "SECRET")


@pytest.mark.parametrize("part", ["spec.json", "data/train.bin", "data/manifest.json"])
async def test_a_folder_that_is_not_whole_is_not_published(tmp_path: Path, part: str) -> None:
    made = make_spec(tmp_path)
    (made / part).unlink()
    with pytest.raises((ConfigError, DataError), match=Path(part).name):
        await publish_run(made, str(tmp_path / "run"), None, {})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("store", "chain", "netuid", "words"),
    [
        ("s3://host/bucket", None, None, "netuid"),
        ("s3://host/bucket", "bittensor", None, "netuid"),
        ("s3://host/bucket", "sqlite:a", 3, "netuid"),
        ("folder", "postgres", None, "chain"),
    ],
)
def test_flags_that_do_not_go_together(store: str, chain: str | None, netuid: int | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run_file(store, chain, netuid, ENDPOINTS)


def test_what_the_flags_mean() -> None:
    assert run_file("folder", None, None, ENDPOINTS) is None
    local = run_file("folder", "sqlite:/chain", None, ENDPOINTS)
    assert local == RunFile(run_id="0" * 64, chain="sqlite:/chain")
    assert run_file("s3://host/bucket", "sqlite:/chain", None, ENDPOINTS) == RunFile(
        run_id="0" * 64, chain="sqlite:/chain", store="network"
    )
    assert run_file("folder", None, 3, ENDPOINTS) == RunFile(
        run_id="0" * 64, store="network", chain=BITTENSOR, netuid=3, endpoints=ENDPOINTS
    )
