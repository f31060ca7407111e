"""One participant's set-up as the doctor opens it: each part once, and a plain reason where one is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from muster.doctor.facts import ChainFacts, GpuFacts, KeyFacts, MemberFacts
from muster.doctor.machine import find_gpu, find_key
from muster.doctor.needs import Needs, needs
from muster.doctor.network import Clock, find_member, watch_chain
from muster.node.compute import Compute
from muster.node.data.build import MANIFEST
from muster.node.lock import find_holder, hotkey_folder, role_lock
from muster.node.pointed import open_committed
from muster.protocol.chain.base import Chain, Snapshot
from muster.protocol.chain.commitments import CommitSpace
from muster.protocol.errors import ConfigError, MusterError
from muster.protocol.identity import public_of
from muster.protocol.spec import RunSpec
from muster.protocol.storage import Buckets, Store, is_network_location
from muster.protocol.storage.pointer import check_bootstrap, committed_text
from muster.protocol.types import Role
from muster.run.credentials import load_credentials
from muster.run.daemon import choose_for, label
from muster.run.fetch import COPY, open_run
from muster.run.file import SQLITE
from muster.run.folder import RunDirectory
from muster.run.settings import NodeConfig

T = TypeVar("T")


class Skip(Exception):
    """A check has nothing to look at; the text says why, and where the reason is found."""


class Setup:
    """A context manager; the parts are opened by `open` or when asked for, and closed at its end.

    What asks for a part that is not to be had because of another check's failure gets `Skip`; whoever's own business
    it is gets the `MusterError`.
    """

    def __init__(
        self,
        role: Role,
        config: NodeConfig,
        environment: Mapping[str, str],
        clock: Clock,
        look: Callable[[], GpuFacts] = find_gpu,
    ) -> None:
        """`look` says what there is to compute with."""
        self.role = role
        self._look = look
        self.config = config
        self.clock = clock
        self._environment = environment
        self._exit = AsyncExitStack()

    async def open(self) -> None:
        """Find run and key, and begin to watch the chain."""
        config = self.config
        home = config.state / COPY if config.state else None
        self.run_found = await outcome(open_run(config.run, home, config.allow))
        self.key_found = await outcome(asyncio.to_thread(self._find_key))
        self._watching = asyncio.ensure_future(outcome(self._watch()))

    async def __aenter__(self) -> Self:
        await self._exit.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watching.cancel()
        await asyncio.wait({self._watching})
        await self._exit.aclose()

    @property
    def run(self) -> RunDirectory:
        """The run."""
        if isinstance(self.run_found, MusterError):
            raise Skip("the run could not be opened (see run)")
        return self.run_found

    @property
    def spec(self) -> RunSpec:
        """What the run pins."""
        return self.run.history.genesis

    @property
    def run_id(self) -> bytes:
        """Which run it is."""
        return self.run.history.run_id

    @property
    def state(self) -> Path:
        """The folder for what must survive a restart."""
        return self.config.state or self.run.state(label(self.role, self.config.name))

    @property
    def location(self) -> str:
        """Where the own bucket is.

        Raises:
            ConfigError: it is on the network and the setting is missing.
        """
        if self.config.location is None and self.run.on_network:
            raise ConfigError("the setting location is missing: where this participant's bucket is")
        return self.config.location or f"dir:{self.config.name}"

    @property
    def committed(self) -> str:
        """What is committed of it: that, or where the setting `bootstrap` is given the pointer to it.

        Raises:
            ConfigError, StorageError: a setting is missing or not valid.
        """
        check_bootstrap(self.location, self.config.bootstrap)
        return committed_text(self.location, self.config.bootstrap)

    @cached_property
    def gpu(self) -> GpuFacts:
        """What there is to compute with; asking torch takes a while, and once is enough."""
        return self._look()

    @cached_property
    def compute(self) -> tuple[Compute, str]:
        """How the participant will compute by its settings, and a sentence about it.

        Raises:
            ConfigError: it cannot as they wish.
        """
        return choose_for(self.role, self.config, lambda: self.gpu.machine)

    def needs_of(self, compute: Compute) -> Needs:
        """What the role needs in this run, computing so."""
        data, run = self.spec.data, self.run
        fetched = run.source is None or (run.data / MANIFEST).exists()
        missing = 0 if fetched else (data.windows + data.heldout) * data.window
        local = not (self.config.location and is_network_location(self.config.location)) and not run.on_network
        return needs(self.spec, self.role, compute, local_bucket=local, text_bytes=missing)

    @cached_property
    def own(self) -> Store:
        """The own bucket, opened as its owner does.

        Raises:
            ConfigError, StorageError: the location or the credentials are not valid.
        """
        credentials = load_credentials(self._environment)
        buckets = self.run.buckets(self.location, credentials, self.config.allow)
        return self._closed_at_end(buckets).bucket(self.location)

    @cached_property
    def public(self) -> Store | None:
        """The own bucket as others open it; None for a folder, which has only one door."""
        return self.strangers.bucket(self.location) if self.run.on_network else None

    @cached_property
    def strangers(self) -> Buckets:
        """Everybody's buckets, without any credentials of our own."""
        return self._closed_at_end(self.run.buckets(allow=self.config.allow))

    def committed_store(self, committed: str, hotkey: str) -> Store:
        """The bucket of who has committed this, as anybody comes to it.

        Raises:
            StorageError: it is not a location that can be opened.
        """
        return open_committed(self.strangers, committed, self.run_id, public_of(hotkey))

    async def chain_facts(self) -> ChainFacts:
        """What watching the chain showed.

        Raises:
            ChainError, ConfigError: it cannot be reached or opened.
        """
        return unwrap(await self._watching)

    async def block_seconds(self) -> float | None:
        """How long a block lasts, None while the chain does not answer."""
        found = await self._watching
        return None if isinstance(found, MusterError) else found.block_seconds

    async def snapshot(self) -> Snapshot:
        """Everybody registered now."""
        await self._need_chain()
        return await self._chain.snapshot()

    async def commit_space(self) -> CommitSpace | None:
        """How much a hotkey may commit on the chain."""
        await self._need_chain()
        return await self._chain.commit_space()

    async def member(self) -> MemberFacts:
        """What the chain says of the own hotkey."""
        await self._need_chain()
        if isinstance(self.key_found, MusterError):
            raise Skip("the hotkey could not be read (see key)")
        local = self.run.file.chain.startswith(SQLITE)
        return await find_member(self._chain, self.key_found.hotkey, registers_itself=local)

    async def holder(self, hotkey: str) -> str:
        """Which process of this machine has the hotkey's role; "" where there is none, or run or chain are unknown.

        Raises:
            ConfigError: the folder of locks cannot be used.
        """
        if isinstance(self.run_found, MusterError):
            return ""
        ledger = await outcome(asyncio.to_thread(self.run.ledger, self.config.chain))
        if isinstance(ledger, MusterError):
            return ""
        folder = hotkey_folder(self._environment, hotkey)
        return await asyncio.to_thread(find_holder, role_lock(folder, ledger, self.run_id, self.role.value))

    async def _need_chain(self) -> None:
        _ = self.run
        if isinstance(await self._watching, MusterError):
            raise Skip("the chain does not answer (see chain)")

    async def _watch(self) -> ChainFacts:
        file = self.run.file
        self._chain: Chain = self.run.chain(self.config.chain, read_only=True)
        self._exit.push_async_callback(self._chain.close)
        where = self.config.chain or ", ".join(file.endpoints)
        name = f"the chain {file.chain}" if file.netuid is None else f"subnet {file.netuid} at {where}"
        return await watch_chain(self._chain, name, self.clock)

    def _find_key(self) -> KeyFacts:
        if self.config.key_file is None and isinstance(self.run_found, MusterError):
            raise ConfigError("the run could not be opened (see run), and the hotkey is looked for in its folder")
        return find_key(self.config.key_file or self.run.key(self.config.name))

    def _closed_at_end(self, buckets: Buckets) -> Buckets:
        self._exit.push_async_callback(buckets.close)
        return buckets


async def outcome(work: Awaitable[T]) -> T | MusterError:
    """What comes of a probe: its value, or the error it ends with."""
    try:
        return await work
    except MusterError as error:
        return error


def unwrap(found: T | MusterError) -> T:
    """The value of an outcome; its error is raised."""
    if isinstance(found, MusterError):
        raise found
    return found
