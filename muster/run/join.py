"""Joining a run: from its URL alone to a key, a configuration and the one command that starts taking part."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from muster.protocol.errors import ChainError, ConfigError, StorageError, UsageError
from muster.protocol.identity import SEED_BYTES, Identity
from muster.run.credentials import ACCESS_KEY, SECRET_KEY, load_identity
from muster.run.fetch import COPY, RunUrl, default_home, is_url, open_run
from muster.run.file import BITTENSOR
from muster.run.folder import RunDirectory
from muster.run.settings import CONFIG_VARIABLE

CONFIG_FILE = "muster.toml"
KEY_FILE = "hotkey.key"
_SECRET_MODE = 0o600

WALLETS = Path(".bittensor", "wallets")
"""Where Bittensor's own tools keep wallets, below the user's home."""

_CHAIN_DEADLINE = 60.0
"""Seconds to ask the chain whether the hotkey is registered; joining does not depend on the answer."""


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """What `muster join` was asked for; None is not given.

    `key_file` and `wallet` (NAME/HOTKEY) are two ways to name an existing hotkey. `location`, `chain` and `allow`
    are settings that go into the configuration as they are.
    """

    run: str
    folder: Path | None = None
    name: str = "node"
    key_file: Path | None = None
    wallet: str | None = None
    location: str | None = None
    chain: str | None = None
    allow: str | None = None


async def join_run(request: JoinRequest, environment: Mapping[str, str]) -> str:
    """Fetch and verify the run, make or find the hotkey, write a configuration; returns what a person does next.

    Raises:
        ConfigError: no such run, or not one this release understands.
        IdentityError: the hotkey that was named cannot be used.
        StorageError: the run cannot be fetched, or the folder cannot be written.
        UsageError: a hotkey is named twice or not as NAME/HOTKEY.
    """
    home = None if request.folder is None else request.folder.absolute() / COPY
    run = await open_run(request.run, home, request.allow or "")
    folder = (request.folder or default_home(run.file.run_id, environment)).absolute()
    place = await asyncio.to_thread(_settle, request, run, folder)
    identity, config = place.identity, folder / CONFIG_FILE
    return "\n".join(
        [
            f"run {run.file.run_id} ({run.history.genesis.name})",
            f"hotkey {identity.hotkey}, {'made new' if place.made else 'read'} in {place.key}",
            *(["keep a copy of that file: nobody can make it again"] if place.made else []),
            await _registration(run, identity, request.chain),
            f"{config} was there and is left as it is" if place.kept else f"{config} holds the settings",
            *_secrets(run, request.location, place.kept),
            "start with:",
            *(f"  {CONFIG_VARIABLE}={config} muster {role}" for role in roles(run, identity)),
        ]
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """What joining found or made: the hotkey and where it is, whether it is new, whether settings were there."""

    identity: Identity
    key: Path
    made: bool
    kept: bool


def _settle(request: JoinRequest, run: RunDirectory, folder: Path) -> _Place:
    """Make the folder, the hotkey and the settings, each unless it is there."""
    named = _named_key(request)
    key = (named or folder / KEY_FILE).absolute()
    config = folder / CONFIG_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = named is None and not key.exists()
        if made:
            _make_key(key)
        identity = load_identity(key)
        kept = config.exists()
        if not kept:
            config.write_text(config_text(request, run, key, folder))
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror}") from error
    return _Place(identity, key, made, kept)


def roles(run: RunDirectory, identity: Identity) -> tuple[str, ...]:
    """The daemons that a hotkey is for: the spec names the operators, everybody else mines."""
    return ("aggregator", "validator") if identity.hotkey in run.history.genesis.genesis.leaders else ("miner",)


def config_text(request: JoinRequest, run: RunDirectory, key: Path, folder: Path) -> str:
    """The configuration as TOML: each setting below the reason for it."""
    where = str(run.path)
    if is_url(request.run):
        where = f"{RunUrl.parse(request.run).location}#{run.file.run_id}"
    lines = [f"# Settings of one participant; {CONFIG_VARIABLE} names this file. Secrets do not belong here."]

    def setting(reason: str, name: str, value: str | None, example: str = "") -> None:
        lines.extend(["", f"# {reason}"])
        text = tomli_w.dumps({name: example if value is None else value}).strip()
        lines.append(text if value is not None else f"# {text}")

    setting("Where the run is; what follows # is checked, so nobody can put another run in its place.", "run", where)
    setting("What this participant is called in journals and logs.", "name", request.name)
    setting("The hotkey. Whoever has this file is you: keep it at mode 0600.", "key_file", str(key))
    if run.on_network:
        setting(
            "Your bucket and the public key that reads it, as `muster bucket create` prints it; it stands on chain.",
            "location",
            request.location,
            "s3://READ_KEY:READ_SECRET@HOST/BUCKET",
        )
    elif request.location is not None:
        setting("The bucket to write, as it stands on chain.", "location", request.location)
    setting("What must survive a restart, and the copy of the run.", "state", str(folder))
    if request.chain is not None:
        setting("Your own way to the chain, in place of what the run names.", "chain", request.chain)
    if request.allow is not None:
        setting("Private addresses that may be connected to.", "allow", request.allow)
    return "\n".join(lines) + "\n"


def _named_key(request: JoinRequest) -> Path | None:
    if request.wallet is None:
        return request.key_file
    if request.key_file is not None:
        raise UsageError("--key-file and --wallet both name a hotkey; give one of them")
    name, slash, hotkey = request.wallet.partition("/")
    if not (name and slash and hotkey) or "/" in hotkey or ".." in (name, hotkey):
        raise UsageError("--wallet is NAME/HOTKEY, as in `btcli wallet list`")
    return Path.home() / WALLETS / name / "hotkeys" / hotkey


def _make_key(path: Path) -> None:
    """A new seed in a file only its owner can read from the first byte on."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _SECRET_MODE)
    with os.fdopen(file, "w") as text:
        text.write(os.urandom(SEED_BYTES).hex() + "\n")


async def _registration(run: RunDirectory, identity: Identity, override: str | None) -> str:
    """A sentence on whether the hotkey is registered, and how to register it."""
    try:
        chain = run.chain(override, read_only=True)
        try:
            async with asyncio.timeout(_CHAIN_DEADLINE):
                peer = (await chain.snapshot()).by_hotkey().get(identity.hotkey)
        finally:
            await chain.close()
    except (ChainError, ConfigError, TimeoutError) as error:
        return f"whether it is registered could not be found out: {error or 'the chain did not answer in time'}"
    if peer is not None:
        return f"it is registered with uid {peer.uid}"
    if run.file.chain != BITTENSOR:
        return "it is not registered; starting registers it, a local chain asks for nothing"
    return (
        f"it is not registered on subnet {run.file.netuid}; register it, for example with "
        f"`btcli subnets register --netuid {run.file.netuid}`, before you start"
    )


def _secrets(run: RunDirectory, location: str | None, kept: bool) -> list[str]:
    """What is still missing to write the own bucket."""
    if not run.on_network:
        return []
    missing = (
        [] if location or kept else [f"make a bucket with `muster bucket create` and set location in {CONFIG_FILE}"]
    )
    return [
        *missing,
        f"export {ACCESS_KEY}_FILE and {SECRET_KEY}_FILE: files with the key that writes your bucket and its secret",
    ]
