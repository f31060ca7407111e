"""The real parts behind a run.toml: which chain client and which buckets its words stand for.

Nothing else in Muster opens a back end of a chain or of a store (a contract says so), so a new one is chosen here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from blake3 import blake3

from muster.protocol.chain import bittensor
from muster.protocol.chain.base import Chain
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.sqlite import SqliteChain
from muster.protocol.chain.sqlite_reader import SqliteChainReader
from muster.protocol.errors import ConfigError
from muster.protocol.storage import AllowList, Buckets, Credentials, Store, parse_location
from muster.protocol.storage.directory import DirectoryStore
from muster.protocol.storage.locations import DirectoryBuckets
from muster.protocol.storage.network import NetworkBuckets
from muster.protocol.types import Origin
from muster.run.file import BITTENSOR, FOLDERS, NETWORK, SQLITE, RunFile


def open_chain(file: RunFile, base: Path | None, override: str | None = None, *, read_only: bool = False) -> Chain:
    """A client of the run's chain; with `read_only` one that leaves a local chain's file as it is.

    `base` is the folder a `sqlite:` path is relative to, None for a run that was fetched: then only `override` (the
    setting `chain`: `sqlite:FILE`, or endpoints separated by commas) may name a file.

    Raises:
        ConfigError: the run's chain is a file of another machine, or the override is for another kind of chain.
    """
    path = _chain_file(file, base, override)
    if path is None:
        assert file.netuid is not None
        endpoints = tuple(filter(None, (override or "").split(","))) or file.endpoints
        return bittensor.BittensorChain(endpoints, file.netuid)
    return SqliteChainReader(path) if read_only else SqliteChain(path)


def create_local_chain(path: Path, genesis: ChainGenesis, block_seconds: float) -> None:
    """Make the file of a new local chain; its first block is now.

    Raises:
        ChainError: there is a file already, or blocks this short cannot be kept.
    """
    SqliteChain.create(path, genesis, block_seconds=block_seconds)


async def create_subnet(endpoint: str, hotkeys: Sequence[str], stakes: Mapping[str, int]) -> tuple[int, int, Origin]:
    """Make a subnet on a development chain, with all hotkeys registered and staked.

    Its netuid, a block it is in, and what a run's spec says of it.

    Raises:
        ChainError: the chain refused or cannot be reached.
    """
    netuid = await bittensor.set_up_subnet(endpoint, hotkeys, stakes)
    client = bittensor.BittensorChain((endpoint,), netuid)
    try:
        return netuid, (await client.head()).number, await client.origin()
    finally:
        await client.close()


def ledger_name(file: RunFile, base: Path | None, override: str | None = None) -> str:
    """What this machine's processes call the chain that a hotkey writes to; arguments and errors as of `open_chain`.

    A nonce is one for all subnets of a chain, so these have one name. Two local runs of one seed have the same keys
    and the same run id, but each its own file.
    """
    path = _chain_file(file, base, override)
    return BITTENSOR if path is None else f"local-{blake3(str(path.resolve()).encode()).hexdigest()[:16]}"


def _chain_file(file: RunFile, base: Path | None, override: str | None) -> Path | None:
    """The file that the chain is, None where it is none."""
    if override is not None and override.startswith(SQLITE):
        return Path(override.removeprefix(SQLITE))
    if file.chain == BITTENSOR:
        return None
    if override is not None:
        raise ConfigError(f"chain = {override!r} does not go with a run whose chain is {file.chain}")
    if base is None:
        raise ConfigError(
            "the run's chain is a file on its publisher's machine; name yours with the setting chain = 'sqlite:FILE'"
        )
    return base / file.chain.removeprefix(SQLITE)


def open_buckets(
    file: RunFile,
    base: Path | None,
    own: str | None = None,
    credentials: Credentials | None = None,
    allow: AllowList | None = None,
) -> Buckets:
    """Everybody's buckets; `own` opens with the write `credentials`, every other with what its location carries.

    Without an `own` folders are opened for reading only.

    Raises:
        ConfigError: the buckets are folders on another machine.
    """
    if file.store == NETWORK:
        return NetworkBuckets(own, credentials, allow=allow or AllowList())
    if base is None:
        raise ConfigError("the run's buckets are folders on its publisher's machine; it cannot be joined from here")
    return DirectoryBuckets(base / file.store.removeprefix(FOLDERS), read_only=own is None)


def open_folder(path: Path) -> Store:
    """A folder that a person names as a store, for writing."""
    return DirectoryStore(path)


def bucket_folder(store: Store) -> Path | None:
    """Where on this machine a bucket is; None: on the network."""
    return store.root if isinstance(store, DirectoryStore) else None


@asynccontextmanager
async def open_location(location: str, allow: str = "", credentials: Credentials | None = None) -> AsyncIterator[Store]:
    """What is at a location that a person gave, whose host is allowed therefore; `credentials` are for writing.

    Raises:
        ConfigError, StorageError: the setting `allow` or the location is not valid.
    """
    where = parse_location(location)
    allowed = AllowList.parse(allow).with_host(where.connect_host, where.port)
    own = location if credentials is not None else None
    buckets = NetworkBuckets(own, credentials, allow=allowed)
    try:
        yield buckets.bucket(location)
    finally:
        await buckets.close()
