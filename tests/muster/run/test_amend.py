"""Where an amendment is put: at the run's own place on the network, by who may write there, or nowhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from run_folders import ROSTER, make_spec
from s3_server import RadosGateway

from muster.protocol import paths, wire
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.errors import ConfigError, IdentityError, LedgerError, UsageError
from muster.run.amend import SPARE_ROUNDS, AmendRequest, amend_run
from muster.run.backends import create_local_chain
from muster.run.fetch import open_run
from muster.run.publish import publish_run, run_file

(OWNER,) = ROSTER.operators
"""Who owns the run of `make_spec`, and is its only validator."""


@pytest.fixture
def hotkey(tmp_path: Path) -> Path:
    """The owner's, in a file."""
    path = tmp_path / "hotkey"
    path.write_text(OWNER.seed.hex())
    return path


async def test_it_is_put_where_a_run_on_the_network_is_published(
    s3_server: RadosGateway, tmp_path: Path, hotkey: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    pair = s3_server.user("amender")
    s3_server.client("amender").create_bucket(Bucket="amended")
    host = urlsplit(s3_server.endpoint).netloc
    place = f"s3://{pair[0]}:{pair[1]}@{host}/amended/run"
    chain = f"sqlite:{tmp_path / 'chain.sqlite'}"
    create_local_chain(tmp_path / "chain.sqlite", ChainGenesis(seed=0), 0.05)
    environment = {"MUSTER_S3_ACCESS_KEY": pair[0], "MUSTER_S3_SECRET_KEY": pair[1]}
    url = await publish_run(make_spec(tmp_path), place, run_file(place, chain, None, ()), environment)
    request = AmendRequest(url, "sparse.k=32", key_file=hotkey, chain=chain)
    with pytest.raises(ConfigError, match="MUSTER_S3_ACCESS_KEY and MUSTER_S3_SECRET_KEY are not set"):
        await amend_run(request, {})
    amended = await amend_run(request, environment)
    assert pair[1] not in amended.where
    assert f"{host}/amended/run" in amended.where
    run = await open_run(url)
    run_id = run.history.run_id
    async with run.published() as store:
        data = await store.get(paths.amendment(run_id, 1), max_bytes=wire.MAX_AMENDMENT_BYTES)
    read = wire.decode_amendment(data, run_id)
    assert (read.path, read.value, read.signer) == ("sparse.k", "32", OWNER.identity.public)
    assert read.round == run.history.genesis.clock.amend_delay + SPARE_ROUNDS
    assert (await amend_run(replace(request, out=tmp_path / "second"), {})).amendment.number == 2
    copy = replace(request, run=str(run.path))
    with pytest.raises(UsageError, match="is a copy that leaders do not look at"):
        await amend_run(copy, environment)


async def test_a_run_that_is_alone_in_its_folder_has_its_owners_word_only(tmp_path: Path, hotkey: Path) -> None:
    """One validator is no majority, and here it is the owner: as the owner it needs nobody."""
    place = await publish_run(make_spec(tmp_path), str(tmp_path / "run"), None, {})
    with pytest.raises(UsageError, match="name the hotkey that signs with --key-file"):
        await amend_run(AmendRequest(place, "sparse.k=32"), {})
    amended = await amend_run(AmendRequest(place, "sparse.k=32", key_file=hotkey), {})
    assert (amended.signed, amended.enough) == ("signed by the owner", True)
    assert (tmp_path / "run" / paths.amendment((await open_run(place)).history.run_id, 1)).exists()


async def test_a_rescue_is_the_owners_and_names_a_list_from_the_next_round_on(tmp_path: Path, hotkey: Path) -> None:
    place = await publish_run(make_spec(tmp_path), str(tmp_path / "run"), None, {})
    helper = ROSTER.miners[0]
    request = AmendRequest(place, f'genesis.leaders=["{helper.hotkey}"]', key_file=hotkey, rescue=True)
    run_id = (await open_run(place)).history.run_id
    with pytest.raises(UsageError, match="--round does not go with --rescue"):
        await amend_run(replace(request, round=3), {})
    with pytest.raises(LedgerError, match=r"is an amendment of genesis\.leaders"):
        await amend_run(replace(request, change="sparse.k=32"), {})
    stranger = tmp_path / "stranger"
    stranger.write_text(helper.seed.hex())
    with pytest.raises(IdentityError, match="amends nothing"):
        await amend_run(replace(request, key_file=stranger), {})
    assert not (tmp_path / "run" / paths.amendment(run_id, 1)).exists()
    amended = await amend_run(request, {})
    assert (amended.amendment.number, amended.amendment.round, amended.enough) == (1, 1, True)
    assert f"{helper.hotkey} may close round 0" in amended.signed
    assert "where whom it names looks" in amended.where
    assert (tmp_path / "run" / paths.amendment(run_id, 1)).exists()
