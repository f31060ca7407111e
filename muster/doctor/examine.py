"""The examination: every check in its order, each with the facts it needs, none stopped by what it does not need."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from blake3 import blake3

from muster.doctor import checks, machine, network
from muster.doctor.facts import BucketFacts, LeaderFacts, RunFacts, SoftwareFacts, SpaceFacts, TextFacts
from muster.doctor.finding import Finding
from muster.doctor.fit import Fit, fit_of
from muster.doctor.setup import Setup, Skip, unwrap
from muster.doctor.software import judge_software
from muster.node.compute import CPU, Compute
from muster.node.data.build import MANIFEST, MAX_MANIFEST_BYTES, SHARDS, Manifest
from muster.node.hello import incompatibility, read_hello
from muster.protocol import paths
from muster.protocol.errors import ConfigError, DataError, MusterError, ObjectMissing, StorageError
from muster.protocol.identity import public_of
from muster.protocol.spec.layout import layout_of
from muster.protocol.storage import is_network_location, parse_location
from muster.protocol.types import Role
from muster.run.backends import bucket_folder, open_location
from muster.run.folder import RunDirectory
from muster.run.settings import NodeConfig


@dataclass(frozen=True, slots=True)
class Check:
    """A check by name; `fix` is what to do where its facts cannot be had at all."""

    name: str
    look: Callable[[], Awaitable[Finding]]
    fix: str

    async def conclude(self) -> Finding:
        """The finding, whatever happens on the way to it."""
        try:
            return await self.look()
        except Skip as skip:
            return Finding.skipped(self.name, str(skip))
        except MusterError as error:
            return Finding.fail(self.name, str(error), self.fix, error.exit_status)


async def examine(setup: Setup, software: SoftwareFacts, tell: Callable[[Finding], None]) -> list[Finding]:
    """Do every check, tell each finding as soon as it is known, and return all of them in order.

    Nothing is registered, committed or trained for the run, and its folder is left as it is; probes in an own bucket
    on the network are deleted again.
    """
    findings = []
    async with setup:
        await setup.open()
        for check in Examination(setup, software).checks():
            findings.append(await check.conclude())
            tell(findings[-1])
    return findings


def examine_here(
    role: Role, config: NodeConfig, software: SoftwareFacts, tell: Callable[[Finding], None]
) -> list[Finding]:
    """`examine` for a process that does nothing else, with as many threads as the participant will have."""
    torch.set_num_threads(config.threads)
    return asyncio.run(examine(Setup(role, config, os.environ, network.Clock()), software, tell))


class Examination:
    """The checks of one set-up, which share what they have found."""

    def __init__(self, setup: Setup, software: SoftwareFacts) -> None:
        self._setup = setup
        self._versions = software
        self._tried: BucketFacts | None = None
        self._training: float | None = None

    def checks(self) -> tuple[Check, ...]:
        """All of them in the order they are told."""
        location = "correct the setting location; muster bucket create makes a bucket and prints its location"
        chain = "start the chain, or name another endpoint with the setting chain"
        return (
            Check("software", self._software, ""),
            Check("gpu", self._gpu, ""),
            Check("compute", self._computes, "correct the settings device and precision"),
            Check("speed", self._speed, ""),
            Check("memory", self._memory, ""),
            Check("disk", self._disk, ""),
            Check("clock", self._clock, "check that the service runs; if it does, " + location),
            Check("bucket", self._bucket, location),
            Check("bandwidth", self._bandwidth, "try again; if it stays so, take a service nearer to this machine"),
            Check("chain", self._chain, chain),
            Check("registration", self._registration, chain),
            Check("location", self._location, location),
            Check("anchors", self._anchors, chain),
            Check("leader", self._leader, "ask the run's operators whether their buckets can be read"),
            Check("run", self._run, "correct the setting run: the RUN_URL as the run's publisher gives it"),
            Check("text", self._text, "get the run's own text again from its publisher"),
            Check("key", self._key, "name the hotkey's file with the setting key_file; muster join makes one"),
        )

    async def _software(self) -> Finding:
        return judge_software(self._versions)

    async def _gpu(self) -> Finding:
        setup = self._setup
        if setup.role is Role.AGGREGATOR:
            raise Skip("an aggregator computes on the CPU")
        facts = await asyncio.to_thread(lambda: setup.gpu)
        return checks.judge_gpu(facts, self._versions, setup.config.device)

    async def _compute(self) -> tuple[Compute, str]:
        """How it will compute.

        Raises:
            Skip: it cannot as the settings wish.
        """
        try:
            return await asyncio.to_thread(lambda: self._setup.compute)
        except ConfigError as error:
            raise Skip("how it would compute is not known (see compute)") from error

    async def _computes(self) -> Finding:
        if self._setup.role is Role.AGGREGATOR:
            raise Skip("an aggregator computes on the CPU")
        _, said = await asyncio.to_thread(lambda: self._setup.compute)
        return Finding.ok("compute", said)

    async def _fit(self) -> tuple[Fit, SpaceFacts]:
        setup = self._setup
        compute, _ = await self._compute()
        space = await asyncio.to_thread(machine.find_space, setup.state)
        return fit_of(setup.spec, setup.role, compute, setup.gpu.machine.card, space.memory_bytes), space

    async def _speed(self) -> Finding:
        setup, role = self._setup, self._setup.role
        if role is not Role.MINER:
            raise Skip(f"a {role.value} does not train")
        (compute, _), (fit, space) = await self._compute(), await self._fit()
        fits = fit.plan.host <= space.memory_available and fit.plan.gpu <= fit.card
        facts = await asyncio.to_thread(machine.measure_step, setup.spec, compute, setup.gpu.machine.card, fits)
        self._training = facts.step_seconds * setup.spec.inner.steps
        return checks.judge_speed(facts, setup.spec, await setup.block_seconds())

    async def _memory(self) -> Finding:
        fit, space = await self._fit()
        return checks.judge_memory(space, fit, self._setup.role)

    async def _disk(self) -> Finding:
        compute, _ = await self._compute()
        space = await asyncio.to_thread(machine.find_space, self._setup.state)
        return checks.judge_disk(space, self._setup.needs_of(compute).plan, self._setup.role)

    async def _clock(self) -> Finding:
        setup = self._setup
        source = setup.run.source
        for location in (setup.location, source.location if source else ""):
            if is_network_location(location):
                facts = await network.http_clock(parse_location(location).endpoint, setup.clock)
                if facts is not None:
                    return checks.judge_clock(facts)
        raise Skip("bucket and run are on this machine or behind servers that tell no time: nothing to compare with")

    async def _bucket(self) -> Finding:
        setup = self._setup
        own, public = setup.own, setup.public
        if public is not None:
            self._tried = await network.try_bucket(setup.location, own, public, network.probe_key(setup.run_id))
        else:
            folder = bucket_folder(own)
            assert folder is not None
            self._tried = await asyncio.to_thread(machine.try_folder, setup.location, folder)
        return checks.judge_bucket(self._tried)

    async def _bandwidth(self) -> Finding:
        setup = self._setup
        if not setup.run.on_network:
            raise Skip("the bucket is a folder on this machine")
        if self._tried is None or self._tried.write or self._tried.read:
            raise Skip("the bucket cannot be written and read (see bucket)")
        needed, key = setup.needs_of(CPU), network.probe_key(setup.run_id)
        size = min(needed.up, network.TRANSFER_BYTES)
        took = await network.time_transfer(setup.own, setup.public or setup.own, key, size, setup.clock)
        return checks.judge_bandwidth(took, needed, setup.spec, await setup.block_seconds(), self._training)

    async def _chain(self) -> Finding:
        facts = await self._setup.chain_facts()
        return checks.judge_chain(facts, self._setup.spec.genesis.chain)

    async def _registration(self) -> Finding:
        setup = self._setup
        member = await setup.member()
        return checks.judge_registration(member, setup.role, setup.spec.genesis.leaders, setup.run.file.netuid)

    async def _location(self) -> Finding:
        setup = self._setup
        member, readable = await setup.member(), ""
        if self._tried is not None and not self._tried.write:
            readable = self._tried.read
        if not readable and member.location == setup.committed and (setup.config.bootstrap or setup.public is not None):
            store = setup.committed_store(member.location, member.hotkey)
            readable = await network.try_reading(store, paths.hello(setup.run_id))
        return checks.judge_location(member, setup.location, readable, setup.config.bootstrap)

    async def _anchors(self) -> Finding:
        setup = self._setup
        if setup.role is not Role.AGGREGATOR:
            raise Skip(f"a {setup.role.value} anchors nothing")
        space = await setup.commit_space()
        if space is None:
            raise Skip("this chain takes any number of commitments")
        return checks.judge_anchors(setup.committed, space, setup.spec.clock)

    async def _leader(self) -> Finding:
        leaders = self._setup.spec.genesis.leaders
        return checks.judge_leaders(await asyncio.gather(*(self._leader_facts(hotkey) for hotkey in leaders)))

    async def _leader_facts(self, hotkey: str) -> LeaderFacts:
        """What is to be seen of one aggregator."""
        setup = self._setup
        peer = (await setup.snapshot()).by_hotkey().get(hotkey)
        if peer is None or peer.location is None:
            return LeaderFacts(hotkey)
        try:
            hello = await read_hello(setup.committed_store(peer.location, hotkey), setup.run_id, public_of(hotkey))
        except ObjectMissing:
            return LeaderFacts(hotkey)
        except StorageError as error:
            return LeaderFacts(hotkey, unreadable=str(error))
        return LeaderFacts(hotkey, hello.software, incompatibility(hello, setup.spec) or "")

    async def _run(self) -> Finding:
        history = unwrap(self._setup.run_found).history
        spec = history.genesis
        parameters = layout_of(spec.model).parameters
        run = checks.shown_location(self._setup.config.run.partition("#")[0])
        return checks.judge_run(RunFacts(run, history.run_id.hex(), spec.name, parameters))

    async def _text(self) -> Finding:
        run, role = self._setup.run, self._setup.role
        if role is Role.AGGREGATOR:
            raise Skip("an aggregator reads no text")
        if run.source is None or await asyncio.to_thread((run.data / MANIFEST).exists):
            return checks.judge_text(await asyncio.to_thread(_find_text, run))
        async with open_location(run.source.location, self._setup.config.allow) as store:
            data = await store.get(f"{run.source.data}/{MANIFEST}", max_bytes=MAX_MANIFEST_BYTES)
        manifest = _manifest(data, run, "the publisher's data manifest")
        return checks.judge_text(
            TextFacts("the run's URL, fetched on start", manifest.train.bytes + manifest.heldout.bytes)
        )

    async def _key(self) -> Finding:
        facts = unwrap(self._setup.key_found)
        return checks.judge_key(replace(facts, holder=await self._setup.holder(facts.hotkey)))


def _find_text(run: RunDirectory) -> TextFacts:
    """The text on this machine: its manifest by digest, its files by size (their digests are checked on start).

    Raises:
        DataError: it is not the run's.
    """
    size = 0
    try:
        manifest = _manifest((run.data / MANIFEST).read_bytes(), run, str(run.data / MANIFEST))
        for split, name in SHARDS.items():
            path: Path = run.data / name
            expected, found = getattr(manifest, split).bytes, path.stat().st_size
            if found != expected:
                raise DataError(f"{path} has {found} bytes, the manifest says {expected}")
            size += found
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
    return TextFacts(str(run.data), size)


def _manifest(data: bytes, run: RunDirectory, where: str) -> Manifest:
    found, pinned = blake3(data).hexdigest(), run.history.genesis.data.manifest
    if found != pinned:
        raise DataError(f"{where} has digest {found}, the run pins {pinned}")
    return Manifest.from_bytes(data)
