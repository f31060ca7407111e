"""A whole network on this machine: one process per participant, watched until the run closes."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from muster.doctor.machine import find_space
from muster.history.report import write_report
from muster.history.run_history import RunHistory, Setting
from muster.history.status import RunSummary
from muster.history.view import View
from muster.node.compute import Machine, choose
from muster.node.data.build import Manifest
from muster.node.telemetry.journal import read_journal
from muster.node.wished import Device, Wished
from muster.protocol.errors import RunFailed
from muster.protocol.spec import load_template
from muster.protocol.spec.layout import layout_of
from muster.run.folder import RunDirectory, check_empty, create
from muster.run.settings import load_config
from muster.testnet.provision import FOLDERS, SQLITE, Provision, forget_administrator, provision
from muster.testnet.room import Room, check_room
from muster.testnet.roster import HONEST, Roster
from muster.testnet.spawning import Spawn, execute
from muster.testnet.supervise import ChildEvent, ChildSpec, Supervisor
from muster.testnet.warm import STARTING

BLOCK_SECONDS = 0.25
"""One tick of the local chain: short against a round of seconds, long against a store's latency."""

LOOK_SECONDS = 0.5
"""How often the view is brought up to date."""


ADVERSARY_PROGRAM = "muster.lab.adversary"
"""Started with a name, it is a miner that behaves so. By its name alone: what runs a network imports nothing bad."""


@dataclass(frozen=True, slots=True)
class TestnetOptions:
    """What `muster testnet` was asked for."""

    preset: str
    miners: int
    validators: int
    rounds: int
    seed: int
    directory: Path
    adversaries: Mapping[str, int]
    started: float
    store: str = FOLDERS
    chain: str = SQLITE
    device: Device = "auto"


class Testnet:
    """One run: laid out, started, watched, summed up."""

    def __init__(self, options: TestnetOptions, view: View, spawn: Spawn = execute) -> None:
        """`spawn` is how its processes begin."""
        self._options = options
        self._spawn = spawn
        self._view = view
        self._roster = Roster.of(options.seed, options.miners, options.validators, options.adversaries)
        self._offsets: dict[str, int] = {}

    async def prepare(self) -> RunDirectory:
        """Lay the run out and register everybody, so that its daemons can be started from anywhere; starts none.

        Raises:
            MusterError: the run could not be laid out.
        """
        return (await self._lay_out())[0]

    async def _lay_out(self) -> tuple[RunDirectory, Provision]:
        options, template = self._options, load_template(self._options.preset)
        self._roster.check_fits(template)  # this and the next two before buckets are made
        if options.device == "cuda":
            choose(await asyncio.to_thread(Machine.look), Wished(options.device))
        await asyncio.to_thread(check_empty, options.directory)
        provided = await provision(options.store, options.chain, self._roster, os.environ)
        forget_administrator()
        run = await asyncio.to_thread(
            create,
            options.directory,
            template,
            self._roster,
            None,
            BLOCK_SECONDS,
            provided.file,
            provided.block,
            provided.origin,
        )
        await asyncio.to_thread(provided.write_keys, run.keys)
        await self._register(run, provided)
        return run, provided

    async def run(self) -> RunSummary:
        """Run to the closing record; writes the report.

        Raises:
            ConfigError: this machine's memory does not hold it.
            MusterError: the run could not be laid out, or a participant cannot go on.
            RunFailed: the run ended without every honest replica holding the same root.
        """
        await asyncio.to_thread(self._check_room)
        run, provided = await self._lay_out()
        history = RunHistory(await asyncio.to_thread(self._setting, run))
        crashes = RestartNotes(history, self._view)
        async with Supervisor(crashes, spawn=self._spawn) as supervisor:
            for spec in self._children(run, provided):
                supervisor.start(spec)
            finished = asyncio.ensure_future(supervisor.wait())
            while not finished.done():
                await asyncio.wait({finished}, timeout=LOOK_SECONDS)
                await self._look(run, history)
                self._view.update(history.status(time.time(), supervisor.processes(), crashes.newest))
            await finished
            summary = history.summary(time.time(), supervisor.processes())
        await asyncio.to_thread(write_report, summary, run.report)
        self._view.finish(summary)
        if not summary.roots_agree:
            raise RunFailed(f"the replicas do not agree on every state root; see {run.report} and {run.path}/logs")
        return summary

    def _check_room(self) -> None:
        options, template = self._options, load_template(self._options.preset)
        self._roster.check_fits(template)
        machine = Machine.look()
        compute, _ = choose(machine, load_config({"run": "", "name": "", "device": options.device}, {}).wished)
        room = Room.of(find_space(options.directory).memory_bytes, compute, machine.card)
        check_room(template, len(self._roster.miners), options.validators, compute, room)

    async def _register(self, run: RunDirectory, provided: Provision) -> None:
        """Everybody gets a slot in a fixed order, so a repeated run assigns the same text to the same peers."""
        chain = run.chain()
        try:
            for member in self._roster.members:
                await chain.register(member.identity)
                await chain.commit(member.identity, provided.locations[member.name])
        finally:
            await chain.close()

    def _setting(self, run: RunDirectory) -> Setting:
        spec = run.history.genesis
        manifest = Manifest.from_bytes((run.data / "manifest.json").read_bytes())
        return Setting(
            run_id=run.history.run_id.hex(),
            preset=spec.name,
            directory=str(run.path),
            rounds_total=self._options.rounds,
            unigram=manifest.unigram,
            parameters=layout_of(spec.model).parameters,
            roster=self._roster,
            started=self._options.started,
        )

    def _children(self, run: RunDirectory, provided: Provision) -> list[ChildSpec]:
        python = (sys.executable, "-P", "-m")
        env = {**STARTING, "MUSTER_DEVICE": self._options.device}
        children = []
        for operator in self._roster.operators:
            for role, extra in (
                ("aggregator", ("--rounds", str(self._options.rounds), "--keep", "0")),
                ("validator", ()),
            ):
                argv = (*python, "muster", role, "--run", str(run.path), "--name", operator.name, *extra)
                children.append((f"{role}-{operator.name}", operator.name, argv))
        for miner in self._roster.miners:
            honest = miner.behaviour == HONEST
            program = ("muster", "miner") if honest else (ADVERSARY_PROGRAM, miner.behaviour)
            argv = (*python, *program, "--run", str(run.path), "--name", miner.name)
            children.append((miner.name, miner.name, argv))
        return [
            ChildSpec(label, argv, env | provided.environment(name, run.keys), run.log(label), restart=True)
            for label, name, argv in children
        ]

    async def _look(self, run: RunDirectory, history: RunHistory) -> None:
        """Read what the participants have written since the last look."""
        labels = [f"{role}-{o.name}" for o in self._roster.operators for role in ("aggregator", "validator")]
        for label in (*labels, *(miner.name for miner in self._roster.miners)):
            look = await asyncio.to_thread(read_journal, run.journal(label), self._offsets.get(label, 0))
            self._offsets[label] = look.offset
            history.feed(label, look.noted, look.wrong)


class RestartNotes:
    """Tells view and history of processes that crashed and came back."""

    def __init__(self, history: RunHistory, view: View) -> None:
        self._history = history
        self._view = view
        self.newest = ""

    def __call__(self, event: ChildEvent) -> None:
        """Pass on what is worth telling."""
        if event.kind == "crashed":
            self.newest = event.text
            self._history.note(event.text)
            self._view.note(event.text)
