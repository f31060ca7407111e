"""What a run is on disk: where its spec, text, chain, buckets, keys, states and logs are, from one run.toml."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from muster.node.data.build import build_corpus
from muster.protocol.chain.base import Chain
from muster.protocol.errors import ConfigError, StorageError
from muster.protocol.spec import RunSpec, Template
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage import AllowList, Buckets, Credentials, Store
from muster.protocol.types import Origin
from muster.run.backends import (
    create_local_chain,
    ledger_name,
    open_buckets,
    open_chain,
    open_folder,
    open_location,
)
from muster.run.file import BITTENSOR, NETWORK, NO_RUN, RUN_FILE, RunFile
from muster.testnet.roster import Roster

_SECRET_MODE = 0o600
_SECRET_FOLDER_MODE = 0o700


@dataclass(frozen=True, slots=True)
class Source:
    """A prefix on the network that holds a run: its location, and the key prefix of its text there."""

    location: str
    data: str


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """A run as this machine sees it: a folder with run.toml and what local participants keep.

    `source` is where the folder was copied from, None for a run that lives here; the text of a copied run may still
    have to be fetched (`muster.run.fetch.fetch_text`).
    """

    path: Path
    file: RunFile
    history: SpecHistory
    source: Source | None = None

    @classmethod
    def open(cls, run: str) -> RunDirectory:
        """Open a run by the folder that holds its run.toml.

        Raises:
            ConfigError: no such run, or its files do not belong together.
        """
        path = Path(run).absolute()
        try:
            file = RunFile.from_bytes((path / RUN_FILE).read_bytes(), str(path / RUN_FILE))
            spec = RunSpec.from_bytes((path / file.spec).read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigError(f"no run at {run}: {error.filename} does not exist") from error
        except OSError as error:
            raise ConfigError(f"the run at {run} cannot be read: {error.strerror}") from error
        history = SpecHistory.of(spec)
        if history.run_id.hex() != file.run_id:
            raise ConfigError(f"{path / file.spec} is the spec of another run than {path / RUN_FILE} names")
        file.check_chain(spec.genesis.chain)
        return cls(path, file, history)

    @property
    def data(self) -> Path:
        """The text's shards and manifest."""
        return self.path / self.file.data

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    @property
    def on_network(self) -> bool:
        """Whether everybody's bucket is where he committed it, rather than a folder."""
        return self.file.store == NETWORK

    def chain(self, override: str | None = None, *, read_only: bool = False) -> Chain:
        """A client of the run's chain; `override` is the setting `chain`, `read_only` for one who only looks.

        Raises:
            ConfigError: the chain is a file of another machine, or the override is for another kind of chain.
        """
        return open_chain(self.file, self._base, override, read_only=read_only)

    def ledger(self, override: str | None = None) -> str:
        """What this machine's processes call that chain; raises as `chain` does."""
        return ledger_name(self.file, self._base, override)

    def buckets(self, own: str | None = None, credentials: Credentials | None = None, allow: str = "") -> Buckets:
        """Everybody's buckets; `own` is the location to open with the write `credentials`, `allow` the setting.

        Who names no `own` only reads: no folder of the run is changed or made.

        Raises:
            ConfigError: the buckets are folders on another machine, or `allow` is not valid.
        """
        allowed = [allow, *(self.file.allow if self.source is None else ())]
        return open_buckets(self.file, self._base, own, credentials, AllowList.parse(",".join(allowed)))

    @asynccontextmanager
    async def published(self, allow: str = "", credentials: Credentials | None = None) -> AsyncIterator[Store]:
        """The place that RUN names: the folder, or the prefix it was fetched from; `credentials` are for writing there.

        Raises:
            ConfigError: `allow` is not valid.
        """
        if self.source is None:
            yield open_folder(self.path)
            return
        async with open_location(self.source.location, allow, credentials) as store:
            yield store

    @property
    def _base(self) -> Path | None:
        return self.path if self.source is None else None

    @property
    def keys(self) -> Path:
        """The folder of local participants' secrets."""
        return self.path / "keys"

    def key(self, name: str) -> Path:
        """Where a local participant's hotkey is, and the owner's."""
        return self.keys / f"{name}.key"

    def state(self, name: str) -> Path:
        """What a local participant keeps for itself."""
        return self.path / "state" / name

    def journal(self, name: str) -> Path:
        """A local participant's events."""
        return self.path / "logs" / f"{name}.jsonl"

    def log(self, name: str) -> Path:
        """What a local participant's process printed."""
        return self.path / "logs" / f"{name}.log"


def check_empty(path: Path) -> None:
    """Raise StorageError if there is something in a folder (or in its place) that a new run must not mix with."""
    try:
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:
        raise StorageError(f"cannot lay out a run in {path}: {error.strerror}") from error
    if taken:
        raise StorageError(f"{path} is not empty; name another directory or remove it")


def create(
    path: Path,
    template: Template,
    roster: Roster,
    files: list[Path] | None,
    block_seconds: float,
    parts: RunFile | None = None,
    block: int = 0,
    origin: Origin | None = None,
) -> RunDirectory:
    """Lay out a new run: text, spec, keys, and the parts that are local.

    `parts` is the run file without its run id (None: everything is local). Round 0 opens at `block` of the chain
    `origin`, None for the local one.

    Raises:
        StorageError: the folder cannot be written or holds something already.
        DataError, UsageError: the text or the roster does not fit the template.
    """
    roster.check_fits(template)  # before anything is written
    try:
        path.mkdir(parents=True, exist_ok=True)
        check_empty(path)
        file = parts or RunFile(run_id=NO_RUN)
        (path / "keys").mkdir(mode=_SECRET_FOLDER_MODE)
        for folder in ("logs", "state", *([] if file.store == NETWORK else ["buckets"])):
            (path / folder).mkdir()
        manifest = build_corpus(files, path / "data", template.data.window)
        spec = roster.spec(template, manifest, block, origin)
        (path / "spec.json").write_bytes(spec.canonical())
        for member in (roster.owner, *roster.members):
            key = path / "keys" / f"{member.name}.key"
            key.touch(mode=_SECRET_MODE)
            key.write_text(member.seed.hex() + "\n")
        if file.chain != BITTENSOR:
            genesis = roster.chain_genesis(spec.data.slots)
            create_local_chain(path / "chain.sqlite", genesis, block_seconds)
        (path / RUN_FILE).write_bytes(file.model_copy(update={"run_id": spec.run_id().hex()}).to_bytes())
    except OSError as error:
        raise StorageError(f"cannot lay out a run in {path}: {error.strerror}") from error
    return RunDirectory.open(str(path))
