"""A run from wherever it is published: a folder, or a URL from which a verified copy is made on this machine.

Nothing that a URL serves is believed: the spec must have the run id as its digest, the run id must be the one after
`#` where there is one, and the text must be what the spec pins.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from blake3 import blake3

from muster.node.data.build import MANIFEST, MAX_MANIFEST_BYTES, SHARDS, Manifest, Shard
from muster.node.hello import VERSION
from muster.protocol.errors import (
    ConfigError,
    DataError,
    ObjectMissing,
    ObjectTooLarge,
    ProtocolMismatch,
    StorageError,
)
from muster.protocol.spec import HEX32, RunSpec
from muster.protocol.storage import Store, is_network_location, parse_location
from muster.run.backends import open_location
from muster.run.file import DATA_FOLDER, MAX_RUN_FILE_BYTES, RUN_FILE, SPEC_FILE, RunFile
from muster.run.folder import RunDirectory, Source

log = logging.getLogger(__name__)

MAX_SPEC_BYTES = 4 * 2**20
"""Cap of a spec; its only lists are hotkeys of 50 bytes, and no subnet has 65,536 of them."""

SMALL_DEADLINE = 60.0
"""Seconds for run.toml, the spec and the data manifest each."""
SLOWEST_RATE = 250_000
"""Bytes a second below which fetching the text counts as failed: no round can be taken part in over such a link."""

COPY = "run"
"""The folder with the copy of a fetched run, in the folder of what belongs to it."""
_FETCHED = "fetched.json"
"""Size and time of each shard when its digest was last found right, so that a restart need not read it all."""
_LOCK_WAIT = 0.5
"""Seconds between two tries for the lock of a copy that another process is making."""


@dataclass(frozen=True, slots=True)
class RunUrl:
    """A RUN on the network: where it is, and the run id it must have (None: whatever is found)."""

    location: str
    pin: str | None

    @classmethod
    def parse(cls, text: str) -> RunUrl:
        """Split `LOCATION[#RUN_ID]`.

        Raises:
            ConfigError: not a location, or what follows # is not a run id.
        """
        location, _, pin = text.partition("#")
        if pin and not re.fullmatch(HEX32, pin):
            raise ConfigError("what follows # in a run's URL is its run id, 64 hexadecimal digits in lower case")
        try:
            return cls(str(parse_location(location)), pin or None)
        except StorageError as error:
            raise ConfigError(f"the run's URL is not valid: {error}") from error

    @property
    def shown(self) -> str:
        """The location without what reads it, for messages."""
        return parse_location(self.location).shown


def is_url(run: str) -> bool:
    """Whether a RUN is on the network rather than a folder."""
    return is_network_location(run)


async def open_run(run: str, home: Path | None = None, allow: str = "") -> RunDirectory:
    """Open a run by its folder, or by the URL of the prefix that holds its run.toml.

    `home` is where the copy of a fetched run goes (None: `COPY` in `default_home`); `allow` is the setting.

    Raises:
        ConfigError: no such run, its parts do not belong together, or this release does not understand its spec.
        StorageError: it could not be fetched and there is no copy of it here.
    """
    if not is_url(run):
        return await asyncio.to_thread(RunDirectory.open, run)
    url = RunUrl.parse(run)
    try:
        file, spec = await _fetch(url, allow)
    except StorageError as error:
        copy = await asyncio.to_thread(_existing, url, home)
        if copy is None:
            raise
        log.warning("%s is not to be had; going on with the copy in %s: %s", url.shown, copy.path, error)
        return copy
    path = home or default_home(file.run_id, os.environ) / COPY
    copied = await asyncio.to_thread(_write_copy, path, file, spec)
    return replace(copied, source=Source(url.location, file.data))


def default_home(run_id: str, environment: Mapping[str, str]) -> Path:
    """Where this machine keeps what belongs to a run if nobody says: below the user's data folder, by run id."""
    base = environment.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "muster" / run_id[:16]


async def fetch_text(run: RunDirectory, allow: str = "") -> Path:
    """The folder with the run's text, fetched first where this machine does not have it yet.

    Raises:
        DataError: what the publisher has is not the text that the spec pins.
        StorageError: it cannot be fetched or written.
    """
    source = run.source
    if source is None:
        return run.data
    await asyncio.to_thread(run.data.mkdir, parents=True, exist_ok=True)
    async with _lock(run.path), open_location(source.location, allow) as store:
        manifest = await _manifest(store, source, run)
        stamps = await asyncio.to_thread(_read_stamps, run.data)
        for split, name in SHARDS.items():
            shard: Shard = getattr(manifest, split)
            if not await asyncio.to_thread(_is_here, run.data / name, shard, stamps.get(name)):
                await _fetch_shard(store, f"{source.data}/{name}", run.data / name, shard)
            await asyncio.to_thread(_write_stamp, run.data, name)
    return run.data


async def _fetch(url: RunUrl, allow: str) -> tuple[RunFile, bytes]:
    """run.toml and the bytes of the spec, verified against each other and against the pin."""
    async with open_location(url.location, allow) as store:
        file = RunFile.from_bytes(await _part(store, url, RUN_FILE, MAX_RUN_FILE_BYTES), f"{url.shown}/{RUN_FILE}")
        if url.pin not in (None, file.run_id):
            raise ConfigError(f"{url.shown} holds run {file.run_id}, not the run {url.pin} that the URL names")
        spec = await _part(store, url, file.spec, MAX_SPEC_BYTES)
    try:
        read = RunSpec.from_bytes(spec)
    except ProtocolMismatch as error:
        raise ProtocolMismatch(f"{url.shown}: {error}") from error
    except ConfigError as error:
        raise ConfigError(
            f"{url.shown}/{file.spec} is not a spec that this release (muster {VERSION}) understands; look for a "
            f"newer one ({error})"
        ) from error
    if read.run_id().hex() != file.run_id:
        raise ConfigError(f"{url.shown}/{file.spec} is the spec of another run than its {RUN_FILE} names")
    file.check_chain(read.genesis.chain)
    return file, spec


async def _part(store: Store, url: RunUrl, key: str, cap: int) -> bytes:
    try:
        return await store.get(key, max_bytes=cap, deadline=SMALL_DEADLINE)
    except ObjectMissing as error:
        raise ConfigError(f"no run at {url.shown}: {key} does not exist") from error
    except ObjectTooLarge as error:
        raise ConfigError(f"no run at {url.shown}: {key} is larger than any such file ({cap} bytes)") from error


def _existing(url: RunUrl, home: Path | None) -> RunDirectory | None:
    """The copy that an earlier start made, if it is surely of the run that is meant."""
    path = home or (default_home(url.pin, os.environ) / COPY if url.pin else None)
    if path is None or not (path / RUN_FILE).exists():
        return None
    copy = RunDirectory.open(str(path))
    if url.pin not in (None, copy.file.run_id):
        return None
    return replace(copy, source=Source(url.location, DATA_FOLDER))


def _write_copy(path: Path, file: RunFile, spec: bytes) -> RunDirectory:
    """Write run.toml and the spec under their usual names; the publisher chooses no path on this machine."""
    copy = file.model_copy(update={"spec": SPEC_FILE, "data": DATA_FOLDER, "allow": ()})
    try:
        if (path / RUN_FILE).exists():
            there = RunFile.from_bytes((path / RUN_FILE).read_bytes(), str(path / RUN_FILE))
            if there.run_id != file.run_id:
                raise ConfigError(f"{path} holds another run ({there.run_id}); name another folder for this one")
        path.mkdir(parents=True, exist_ok=True)
        _replace(path / SPEC_FILE, spec)
        _replace(path / RUN_FILE, copy.to_bytes())
    except OSError as error:
        raise StorageError(f"cannot write the run's copy in {path}: {error.strerror}") from error
    return RunDirectory.open(str(path))


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


async def _manifest(store: Store, source: Source, run: RunDirectory) -> Manifest:
    expected, path = run.history.genesis.data.manifest, run.data / MANIFEST
    try:
        data = await asyncio.to_thread(path.read_bytes)
    except FileNotFoundError:
        data = b""
    if blake3(data).hexdigest() != expected:
        data = await store.get(f"{source.data}/{MANIFEST}", max_bytes=MAX_MANIFEST_BYTES, deadline=SMALL_DEADLINE)
        if blake3(data).hexdigest() != expected:
            raise DataError("the publisher's data manifest is not the one that the spec pins; tell the publisher")
        await asyncio.to_thread(_replace, path, data)
    return Manifest.from_bytes(data)


async def _fetch_shard(store: Store, key: str, target: Path, shard: Shard) -> None:
    log.info("fetching %s (%d MB)", target.name, shard.bytes // 10**6)
    deadline = SMALL_DEADLINE + shard.bytes / SLOWEST_RATE
    found = await store.download(key, target, max_bytes=shard.bytes, deadline=deadline)
    if found.hex() != shard.blake3:
        await asyncio.to_thread(target.unlink)
        raise DataError(f"the publisher's {key} is not the text that the spec pins; tell the publisher")


def _is_here(path: Path, shard: Shard, stamp: list[int] | None) -> bool:
    """Whether the shard is on disk, by its stamp or, without a fitting one, by its digest."""
    if not path.exists() or path.stat().st_size != shard.bytes:
        return False
    if stamp == _stamp(path):
        return True
    digest = blake3()
    digest.update_mmap(path)
    return digest.hexdigest() == shard.blake3


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _read_stamps(folder: Path) -> dict[str, list[int]]:
    try:
        stamps: dict[str, list[int]] = json.loads((folder / _FETCHED).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return stamps


def _write_stamp(folder: Path, name: str) -> None:
    stamps = _read_stamps(folder) | {name: _stamp(folder / name)}
    _replace(folder / _FETCHED, json.dumps(stamps).encode())


@contextlib.asynccontextmanager
async def _lock(folder: Path) -> AsyncIterator[None]:
    """Hold a copy for one process: an operator's two daemons must not fetch the same text twice."""
    with await asyncio.to_thread((folder / ".lock").open, "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_WAIT)
        yield
