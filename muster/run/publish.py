"""Publishing a run: its spec and text where anybody can read them, and last of all the run.toml that makes it a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import ValidationError

from muster.node.data.build import MANIFEST, SHARDS
from muster.node.data.dataset import TextReader
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.errors import ConfigError, ObjectMissing, UsageError
from muster.protocol.spec import ChainSpec, RunSpec, first_problem
from muster.protocol.storage import Store
from muster.run.backends import create_local_chain, open_folder, open_location
from muster.run.credentials import ACCESS_KEY, SECRET_KEY, load_credentials
from muster.run.fetch import MAX_SPEC_BYTES, SLOWEST_RATE, SMALL_DEADLINE, RunUrl, is_url
from muster.run.file import (
    BITTENSOR,
    DATA_FOLDER,
    MAX_RUN_FILE_BYTES,
    NETWORK,
    NO_RUN,
    RUN_FILE,
    SPEC_FILE,
    SQLITE,
    RunFile,
)
from muster.testnet.roster import OPERATOR_STAKE

LOCAL_BLOCK_SECONDS = 0.25
"""One block of a local chain, as the testnet has it."""


def run_file(store: str, chain: str | None, netuid: int | None, endpoints: tuple[str, ...]) -> RunFile | None:
    """What `--chain` and `--netuid` ask for, for `publish_run`; None is a local run.

    Raises:
        UsageError: they do not go together, or not with where the run is published.
    """
    if chain is None and netuid is None and not is_url(store):
        return None
    if chain is None and netuid is None:
        raise UsageError("a run on the network needs a chain that others can reach: name its subnet with --netuid")
    buckets = NETWORK if is_url(store) or chain in (None, BITTENSOR) else RunFile.model_fields["store"].default
    on_bittensor = chain in (None, BITTENSOR)
    try:
        return RunFile(
            run_id=NO_RUN,
            store=buckets,
            chain=chain or BITTENSOR,
            netuid=netuid,
            endpoints=endpoints if on_bittensor else (),
        )
    except ValidationError as error:
        raise UsageError(f"--chain {chain}: {first_problem(error)}") from error


async def publish_run(spec_folder: Path, store: str, file: RunFile | None, environment: Mapping[str, str]) -> str:
    """Copy a folder made by `muster spec new` to a folder or an `s3://` prefix; returns what RUN is from now on.

    `file` says which store and chain the run lives on; its run id is filled in. None is a local run: buckets in
    folders and a chain file beside them, which is made if it is not there, with stake for the spec's leaders.

    Raises:
        ConfigError, DataError: the folder does not hold a spec and its text, or another run is at `store` already.
        StorageError: something cannot be read or written.
    """
    data, spec = await asyncio.to_thread(_read_spec, spec_folder / SPEC_FILE)
    text = spec_folder / DATA_FOLDER
    await asyncio.to_thread(TextReader.open, text, spec.data.manifest)
    made = (file or RunFile(run_id=NO_RUN)).model_copy(update={"run_id": spec.run_id().hex()})
    _check_chain(made, spec.genesis.chain)
    async with _open(store, environment) as target:
        await _check_free(target, store, made.run_id)
        for shard in SHARDS.values():
            await _upload(target, text / shard)
        await _upload(target, text / MANIFEST)
        await target.put(SPEC_FILE, data, deadline=SMALL_DEADLINE)
        if file is None:
            await asyncio.to_thread(_make_chain, Path(store) / made.chain.removeprefix(SQLITE), spec)
        await target.put(RUN_FILE, made.to_bytes(), deadline=SMALL_DEADLINE)
    return _published(store, made.run_id)


def _check_chain(made: RunFile, chain: ChainSpec) -> None:
    """A run id is of one chain, so a spec that was made for another one cannot be published on this one."""
    try:
        made.check_chain(chain)
    except ConfigError as error:
        raise ConfigError(
            f"the spec is for {chain}; publish it there, or make one for this chain with `muster spec new` "
            "(--netuid, --chain)"
        ) from error


def _published(store: str, run_id: str) -> str:
    return f"{RunUrl.parse(store).location}#{run_id}" if is_url(store) else str(Path(store).absolute())


def _read_spec(path: Path) -> tuple[bytes, RunSpec]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; `muster spec new` makes a spec") from error
    if len(data) > MAX_SPEC_BYTES:
        raise ConfigError(f"{path} is larger than any spec that is accepted ({MAX_SPEC_BYTES} bytes)")
    return data, RunSpec.from_bytes(data)


@asynccontextmanager
async def _open(store: str, environment: Mapping[str, str]) -> AsyncIterator[Store]:
    if not is_url(store):
        yield open_folder(Path(store))
        return
    credentials = load_credentials(environment)
    if credentials is None:
        raise ConfigError(f"{ACCESS_KEY} and {SECRET_KEY} are not set: publishing needs a key that may write there")
    async with open_location(RunUrl.parse(store).location, credentials=credentials) as target:
        yield target


async def _check_free(target: Store, store: str, run_id: str) -> None:
    """Nothing may be there, or this very run."""
    try:
        found = await target.get(RUN_FILE, max_bytes=MAX_RUN_FILE_BYTES, deadline=SMALL_DEADLINE)
    except ObjectMissing:
        return
    where = RunUrl.parse(store).shown if is_url(store) else store
    there = RunFile.from_bytes(found, f"the {RUN_FILE} at {where}").run_id
    if there != run_id:
        raise ConfigError(f"{where} holds another run already ({there}); publish this one under another prefix")


async def _upload(target: Store, source: Path) -> None:
    size = (await asyncio.to_thread(source.stat)).st_size
    deadline = SMALL_DEADLINE + size / SLOWEST_RATE
    await target.upload(f"{DATA_FOLDER}/{source.name}", source, deadline=deadline)


def _make_chain(path: Path, spec: RunSpec) -> None:
    if path.exists():
        return
    genesis = ChainGenesis(
        seed=spec.genesis.seed,
        stakes=dict.fromkeys(spec.genesis.leaders, OPERATOR_STAKE),
        slots=spec.data.slots,
        weights_rate_limit=1,
    )
    create_local_chain(path, genesis, LOCAL_BLOCK_SECONDS)
