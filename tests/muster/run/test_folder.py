"""A RUN is a folder or a URL, and what a URL serves is believed only where a digest says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from files_left_alone import picture
from run_folders import ROSTER, make_spec, served

from muster.node.data.dataset import TextReader
from muster.protocol.errors import ChainError, ConfigError, DataError, NotPermitted, ProtocolMismatch, StorageError
from muster.protocol.storage.network import NetworkBuckets
from muster.run.fetch import RunUrl, default_home, fetch_text, open_run
from muster.run.file import MAX_RUN_FILE_BYTES, RunFile
from muster.run.publish import publish_run

ELSEWHERE = RunFile(run_id="0" * 64, store="network", chain="bittensor", netuid=3, endpoints=("wss://chain.example",))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the network, in a folder that a web server can serve."""
    import asyncio

    base = tmp_path_factory.mktemp("published")
    return Path(asyncio.run(publish_run(make_spec(base, netuid=3), str(base / "out"), ELSEWHERE, {})))


@pytest.fixture
def site(published: Path, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A copy of it that a test may spoil, and its web address."""
    folder = Path(shutil.copytree(published, tmp_path / "site"))
    with served(folder) as url:
        yield folder, url


def run_id(folder: Path) -> str:
    return RunFile.from_bytes((folder / "run.toml").read_bytes(), "run.toml").run_id


async def test_a_run_is_fetched_and_verified(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = site
    home = tmp_path / "home"
    run = await open_run(f"{url}#{run_id(folder)}", home)
    assert (home / "spec.json").read_bytes() == (folder / "spec.json").read_bytes()
    assert (run.path, run.file.chain, run.file.netuid) == (home, "bittensor", 3)
    assert isinstance(run.buckets(), NetworkBuckets)
    assert not run.data.exists()
    text = TextReader.open(await fetch_text(run), run.history.genesis.data.manifest)
    assert text.manifest.windows == run.history.genesis.data.windows


async def test_a_prefix_of_a_site_is_a_run_too(published: Path, tmp_path: Path) -> None:
    with served(published.parent) as url:
        run = await open_run(f"{url}/{published.name}", tmp_path / "home")
        assert (await fetch_text(run) / "train.bin").exists()


@pytest.mark.parametrize("name", ["train.bin", "manifest.json"])
async def test_a_restart_fetches_only_what_is_not_right(site: tuple[Path, str], tmp_path: Path, name: str) -> None:
    folder, url = site
    data = await fetch_text(await open_run(url, tmp_path / "home"))
    right = (data / name).read_bytes()
    for gone in (folder / "data").iterdir():
        gone.rename(gone.with_suffix(".away"))
    await fetch_text(await open_run(url, tmp_path / "home"))
    (data / name).write_bytes(b"x" + right[1:])
    with pytest.raises(StorageError):
        await fetch_text(await open_run(url, tmp_path / "home"))
    for back in (folder / "data").iterdir():
        back.rename(back.with_suffix(".json" if back.stem == "manifest" else ".bin"))
    await fetch_text(await open_run(url, tmp_path / "home"))
    assert (data / name).read_bytes() == right


async def test_a_lost_note_of_what_was_fetched_costs_a_digest_and_no_fetching(
    site: tuple[Path, str], tmp_path: Path
) -> None:
    folder, url = site
    data = await fetch_text(await open_run(url, tmp_path / "home"))
    (data / "fetched.json").write_text("not JSON")
    shutil.rmtree(folder / "data")
    await fetch_text(await open_run(url, tmp_path / "home"))


@pytest.mark.parametrize("part", ["train.bin", "heldout.bin", "manifest.json"])
@pytest.mark.parametrize("spoil", [lambda data: b"x" + data[1:], lambda data: data[:-1]])
async def test_text_that_the_spec_does_not_pin(
    site: tuple[Path, str], tmp_path: Path, part: str, spoil: Callable[[bytes], bytes]
) -> None:
    folder, url = site
    path = folder / "data" / part
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match="tell the publisher"):
        await fetch_text(await open_run(url, tmp_path / "home"))
    assert not (tmp_path / "home" / "data" / part).exists()


async def test_text_that_is_longer_than_the_manifest_says(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = site
    with (folder / "data" / "train.bin").open("ab") as file:
        file.write(b"more")
    with pytest.raises(StorageError, match=r"train\.bin"):
        await fetch_text(await open_run(url, tmp_path / "home"))


def other_run(folder: Path) -> None:
    text = (folder / "run.toml").read_text()
    (folder / "run.toml").write_text(text.replace(run_id(folder), "0" * 64))


def other_spec(folder: Path) -> None:
    spec = folder / "spec.json"
    spec.write_bytes(spec.read_bytes().replace(b'"grace":', b'"grace":1'))


def newer_spec(folder: Path) -> None:
    spec = folder / "spec.json"
    spec.write_bytes(spec.read_bytes().replace(b'"codec":1', b'"codec":9'))


def padded(folder: Path) -> None:
    with (folder / "run.toml").open("ab") as file:
        file.write(b"#" * MAX_RUN_FILE_BYTES)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "run.toml").unlink(), r"no run at http.*run\.toml does not exist"),
        (lambda folder: (folder / "spec.json").unlink(), r"no run at http.*spec\.json does not exist"),
        (lambda folder: (folder / "run.toml").write_text("run_id ="), "not valid TOML"),
        (padded, "larger than any such file"),
        (other_run, "holds run 0000.* not the run"),
        (other_spec, "is the spec of another run"),
        (newer_spec, "not a spec that this release .* understands"),
    ],
)
async def test_a_site_that_does_not_hold_the_run(
    site: tuple[Path, str], tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    folder, url = site
    pin = run_id(folder)
    spoil(folder)
    with pytest.raises(ConfigError, match=words):
        await open_run(f"{url}#{pin}", tmp_path / "home")
    assert not (tmp_path / "home").exists()


async def test_the_publisher_names_no_path_of_this_machine(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = site
    secret = tmp_path / "secret.json"
    (folder / "spec.json").rename(secret)
    text = (folder / "run.toml").read_text()
    for path in ("../secret.json", str(secret)):
        (folder / "run.toml").write_text(text.replace('"spec.json"', f'"{path}"'))
        with pytest.raises(StorageError, match="not a legal object key"):
            await open_run(url, tmp_path / "home")


async def test_a_publisher_cannot_open_his_readers_network(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = site
    with (folder / "run.toml").open("a") as file:
        file.write('allow = ["10.0.0.0/8"]\n')
    run = await open_run(url, tmp_path / "home")
    assert run.file.allow == ()
    with pytest.raises(StorageError, match="allow"):
        run.buckets().bucket("http://10.0.0.1:80/bucket")
    run.buckets(allow="10.0.0.0/8").bucket("http://10.0.0.1:80/bucket")


async def test_a_run_whose_site_is_down_goes_on_from_the_copy(
    site: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = site
    pin = run_id(folder)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    fetched = await open_run(f"{url}#{pin}")
    assert fetched.path == default_home(pin, {"XDG_DATA_HOME": str(tmp_path / "share")}) / "run"
    down = "http://127.0.0.1:1"
    assert (await open_run(f"{down}#{pin}")).history.run_id.hex() == pin
    with pytest.raises(StorageError):
        await open_run(f"{down}#{'1' * 64}", fetched.path)
    with pytest.raises(StorageError):
        await open_run(down)


async def test_a_copy_is_not_overwritten_by_another_run(site: tuple[Path, str], tmp_path: Path) -> None:
    _, url = site
    other = await publish_run(make_spec(tmp_path / "other", seed=1, netuid=3), str(tmp_path / "site2"), ELSEWHERE, {})
    await open_run(url, tmp_path / "home")
    with served(Path(other)) as another, pytest.raises(ConfigError, match="holds another run"):
        await open_run(another, tmp_path / "home")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://host/a#123", "64 hexadecimal"),
        ("https://", "not valid"),
        ("s3://host/B", "not valid"),
        ("https://host/../a", "not valid"),
    ],
)
def test_a_url_that_is_not_one(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RunUrl.parse(text)


def test_a_url_is_shown_without_what_reads_it() -> None:
    url = RunUrl.parse("s3://READER:VERYSECRET@s3.example/bucket/run#" + "a" * 64)
    assert "VERYSECRET" in url.location
    assert "VERYSECRET" not in url.shown
    assert url.pin == "a" * 64


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('store = "s3"', "store"),
        ('chain = "postgres"', "chain"),
        ('chain = "bittensor"', "netuid and endpoints"),
        ("netuid = 3", "netuid and endpoints"),
        ('chain = "bittensor"\nnetuid = 70000\nendpoints = ["wss://a"]', "netuid"),
        ("allow = 3", "allow"),
    ],
)
def test_a_run_file_that_does_not_hang_together(lines: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RunFile.from_bytes(f'format = 2\nrun_id = "{"0" * 64}"\n{lines}\n'.encode(), "run.toml")


@pytest.mark.parametrize(("line", "found"), [("", "1"), ("format = 1", "1"), ("format = 3", "3")])
def test_a_run_of_another_format_is_refused_in_one_sentence(line: str, found: str) -> None:
    with pytest.raises(ConfigError, match=rf"^run\.toml is of a run of format {found}; this release reads format 2$"):
        RunFile.from_bytes(f'{line}\nrun_id = "{"0" * 64}"\n'.encode(), "run.toml")


@pytest.mark.parametrize("file", [ELSEWHERE, RunFile(run_id="1" * 64), RunFile(run_id="1" * 64, allow=("a:1", "b"))])
def test_a_run_file_round_trips(file: RunFile) -> None:
    assert RunFile.from_bytes(file.to_bytes(), "run.toml") == file


async def test_a_local_chain_and_folders_stay_on_their_machine(tmp_path: Path) -> None:
    folder = await publish_run(make_spec(tmp_path), str(tmp_path / "out"), None, {})
    with served(Path(folder)) as url:
        run = await open_run(url, tmp_path / "home")
    with pytest.raises(ConfigError, match="setting chain"):
        run.chain()
    with pytest.raises(ConfigError, match="folders on its publisher's machine"):
        run.buckets()
    chain = run.chain(f"sqlite:{folder}/chain.sqlite")
    assert await chain.register(ROSTER.miners[0].identity) == 0
    await chain.close()


async def test_who_names_no_bucket_of_his_own_only_reads(tmp_path: Path) -> None:
    run = await open_run(await publish_run(make_spec(tmp_path), str(tmp_path / "out"), None, {}))
    before = picture(run.path)
    for chain in (run.chain(read_only=True), run.chain(f"sqlite:{run.path}/chain.sqlite", read_only=True)):
        assert (await chain.snapshot()).peers == ()
        with pytest.raises(NotPermitted):
            await chain.register(ROSTER.miners[0].identity)
        await chain.close()
    with pytest.raises(StorageError, match="opened for reading"):
        await run.buckets().bucket("dir:miner-0").put("a", b"x")
    assert picture(run.path) == before
    await run.buckets("dir:miner-0").bucket("dir:miner-0").put("a", b"x")
    assert "buckets/miner-0/a" in picture(run.path)


async def test_a_run_of_an_earlier_protocol_is_refused_in_one_sentence(site: tuple[Path, str], tmp_path: Path) -> None:
    """From a folder and from a URL, whatever else has changed since."""
    folder, url = site
    document = json.loads((folder / "spec.json").read_bytes())
    del document["protocol"], document["genesis"]["chain"]
    (folder / "spec.json").write_text(json.dumps(document))
    for run in (str(folder), url):
        with pytest.raises(ProtocolMismatch, match="with the release of Muster that it was made with") as refused:
            await open_run(run, tmp_path / "home")
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "home").exists()


async def test_a_run_file_that_leads_to_another_subnet_than_the_specs(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = site
    file = RunFile.from_bytes((folder / "run.toml").read_bytes(), "")
    (folder / "run.toml").write_bytes(file.model_copy(update={"netuid": 4}).to_bytes())
    for run in (str(folder), url):
        with pytest.raises(ConfigError, match="leads to subnet 4 of Bittensor, but its spec is for subnet 3"):
            await open_run(run, tmp_path / "home")


async def test_a_chain_setting_of_another_kind(tmp_path: Path) -> None:
    run = await open_run(await publish_run(make_spec(tmp_path), str(tmp_path / "out"), None, {}))
    with pytest.raises(ConfigError, match="does not go with"):
        run.chain("wss://chain.example")
    with pytest.raises(ChainError, match=r"none\.sqlite"):
        await run.chain(f"sqlite:{tmp_path}/none.sqlite").head()
