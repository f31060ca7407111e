"""What is provided for a testnet: folders and a file on this machine, or buckets on a server and a subnet on a chain.

Whatever it is, run.toml names it, so the daemons and the audit find it as they find any run.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from muster.protocol.errors import ConfigError, StorageError, UsageError
from muster.protocol.storage import Credentials, S3Location, admin, parse_location
from muster.protocol.types import Origin
from muster.run.backends import create_subnet
from muster.run.credentials import ACCESS_KEY, ADMIN_ACCESS_KEY, ADMIN_SECRET_KEY, SECRET_KEY, load_credentials
from muster.run.file import BITTENSOR, NETWORK, NO_RUN, RunFile
from muster.testnet.roster import Roster

FOLDERS = "dir"
SQLITE = "sqlite"

_S3 = "s3://"
_SOCKETS = ("ws://", "wss://")
_NO_TLS = "?tls=off"
_SECRET_MODE = 0o600
STAKE = 1_000 * 10**9
"""Smallest units that each operator gets staked on a development chain: more than any threshold for validating."""
_TOKEN_BYTES = 4
"""Of the name that a run's buckets begin with: several runs share a server."""


@dataclass(frozen=True, slots=True)
class Provision:
    """A run file without its run id, where everybody's bucket is, and what writes it (nothing for a folder).

    `block` is where on its chain the run's round 0 opens, `origin` which chain that is (None: the local one).
    """

    file: RunFile
    block: int
    locations: Mapping[str, str]
    writers: Mapping[str, Credentials] = field(default_factory=dict)
    origin: Origin | None = None

    def environment(self, name: str, keys: Path) -> dict[str, str]:
        """What a participant's process must be told: its location, and the files in `keys` that write there."""
        if name not in self.writers:
            return {}
        access, secret = _files(keys, name)
        return {
            "MUSTER_LOCATION": self.locations[name],
            f"{ACCESS_KEY}_FILE": str(access),
            f"{SECRET_KEY}_FILE": str(secret),
        }

    def write_keys(self, keys: Path) -> None:
        """Put everybody's write key into the run's folder of keys, which its owner alone may look into.

        NAME.env beside them is the environment in a form that shells and containers read, for who starts the daemons
        himself.

        Raises:
            StorageError: it cannot be written.
        """
        for name, writer in self.writers.items():
            access, secret = _files(keys, name)
            lines = [f"{variable}={shlex.quote(value)}\n" for variable, value in self.environment(name, keys).items()]
            texts = {access: f"{writer.access}\n", secret: f"{writer.secret}\n", keys / f"{name}.env": "".join(lines)}
            for path, text in texts.items():
                try:
                    path.touch(mode=_SECRET_MODE)
                    path.write_text(text)
                except OSError as error:
                    raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _files(keys: Path, name: str) -> tuple[Path, Path]:
    return keys / f"{name}.s3-access", keys / f"{name}.s3-secret"


async def provision(store: str, chain: str, roster: Roster, environment: Mapping[str, str]) -> Provision:
    """Make what a run needs outside its folder.

    Args:
        store: `dir`, or `s3://HOST[:PORT][?tls=off]`: there each hotkey gets a bucket.
        chain: `sqlite`, or `ws://…` of a development chain: there the run gets a subnet with all hotkeys.
        roster: who takes part.
        environment: where the administrator's keys are.

    Raises:
        UsageError: `store` or `chain` is none of these.
        ConfigError: the administrator's keys are not in the environment.
        StorageError, ChainError: the server or the chain refused or cannot be reached.
    """
    if chain != SQLITE and not chain.startswith(_SOCKETS):
        raise UsageError(f"--chain is {SQLITE}, or ws://HOST:PORT of a development chain, not {chain!r}")
    made = await _make_buckets(store, roster, environment)
    if chain == SQLITE:
        return made
    stakes = {operator.hotkey: STAKE for operator in roster.operators}
    netuid, block, origin = await create_subnet(chain, [member.hotkey for member in roster.members], stakes)
    part = {"chain": BITTENSOR, "netuid": netuid, "endpoints": (chain,)}
    return replace(made, file=made.file.model_copy(update=part), block=block, origin=origin)


async def _make_buckets(store: str, roster: Roster, environment: Mapping[str, str]) -> Provision:
    names = [member.name for member in roster.members]
    if store == FOLDERS:
        return Provision(RunFile(run_id=NO_RUN), 0, {name: f"dir:{name}" for name in names})
    endpoint = _endpoint(store)
    keys = load_credentials(environment, ADMIN_ACCESS_KEY, ADMIN_SECRET_KEY)
    if keys is None:
        raise ConfigError(f"{ADMIN_ACCESS_KEY} and {ADMIN_SECRET_KEY} are not set: --store {store} makes buckets")
    provisioner = admin.Provisioner(endpoint, keys, f"muster-{secrets.token_hex(_TOKEN_BYTES)}")
    # A bucket's name has hyphens where an adversary's has underscores.
    made = {name: await asyncio.to_thread(provisioner.provision, name.replace("_", "-")) for name in names}
    place = parse_location(made[names[0]].location)
    assert isinstance(place, S3Location)
    file = RunFile(run_id=NO_RUN, store=NETWORK, allow=(f"{place.host}:{place.port}",))
    locations = {name: provisioned.location for name, provisioned in made.items()}
    return Provision(file, 0, locations, {name: provisioned.write for name, provisioned in made.items()})


def _endpoint(store: str) -> str:
    """The service's address for who makes buckets there."""
    host = store.removeprefix(_S3)
    if host == store or not host.removesuffix(_NO_TLS) or "/" in host or "@" in host:
        raise UsageError(f"--store is {FOLDERS}, or s3://HOST[:PORT] of a server with your own buckets, not {store!r}")
    return f"http://{host.removesuffix(_NO_TLS)}" if host.endswith(_NO_TLS) else host


def forget_administrator() -> None:
    """Take the administrator's keys out of this process's environment, so that no child inherits them."""
    for name in (ADMIN_ACCESS_KEY, ADMIN_SECRET_KEY):
        os.environ.pop(name, None)
        os.environ.pop(f"{name}_FILE", None)
