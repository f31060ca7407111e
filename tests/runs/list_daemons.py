"""Real processes of a run that several operators lead: started one by one, watched block by block, killed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from run_builders import MAX_BYTES, Stage, lay_out, template, write_text
from s3_server import RadosGateway

from muster.node.telemetry.events import Applied, Event, Joined
from muster.node.telemetry.journal import read_journal
from muster.protocol import wire
from muster.protocol.chain.base import AnchorSeen
from muster.protocol.faults import CRASH_STATUS
from muster.protocol.identity import hotkey_of
from muster.protocol.spec.layout import layout_of
from muster.protocol.storage import Credentials, S3Location, Store, admin, parse_location
from muster.protocol.storage.admin.bucket import BucketAdmin
from muster.protocol.storage.directory import DirectoryStore
from muster.protocol.storage.s3 import S3Store
from muster.protocol.wire import Record
from muster.run.credentials import ADMIN_ACCESS_KEY, ADMIN_SECRET_KEY
from muster.testnet.parentage import SUPERVISOR_VARIABLE
from muster.testnet.provision import SQLITE, Provision, provision
from muster.testnet.roster import Roster

SEED = 8
CLOCK = {
    "min_blocks": 4, "deadline": 40, "reveal": 12, "grace": 8, "seal_age": 15, "evaluate": 16, "anchor": 6,
    "term": 1000, "turn": 40, "touch": 280, "checkpoint_every": 100,
}  # fmt: skip
"""In blocks of 0.25 s."""

PATIENCE_SECONDS = 1200.0

KILLED = frozenset({None, -signal.SIGKILL, CRASH_STATUS})
"""How a daemon is while a test goes on: alive, or ended by the test."""


class Place:
    """Where everybody's bucket is: folders of the run."""

    def __init__(self, run: Path) -> None:
        self._buckets = run / "buckets"

    def bucket(self, name: str) -> Store:
        """Somebody's, in its owner's hands."""
        return DirectoryStore(self._buckets / name, fsync=False)

    def lose(self, name: str) -> None:
        """Somebody's is gone, with all that was in it."""
        shutil.rmtree(self._buckets / name)

    def give_back(self, name: str) -> None:
        """It is there again, and empty."""


class PlaceOnS3(Place):
    """Buckets of a real S3 server."""

    def __init__(self, server: RadosGateway, provided: Provision) -> None:
        self._endpoint = server.endpoint
        self._keys = Credentials(server.access, server.secret)
        self._provided = provided

    def _at(self, name: str) -> S3Location:
        location = parse_location(self._provided.locations[name])
        assert isinstance(location, S3Location)
        return location

    def bucket(self, name: str) -> Store:
        return S3Store(self._at(name), self._provided.writers[name])

    def lose(self, name: str) -> None:
        BucketAdmin(self._at(name), self._keys).remove()

    def give_back(self, name: str) -> None:
        run = self._at(name).bucket.removesuffix(f"-{name}")
        admin.Provisioner(self._endpoint, self._keys, run).provision(name)


@dataclass
class Daemons:
    """The processes of a run, by label.

    `environment` is what a member's are told besides, `before` what their command lines begin with.
    """

    stage: Stage
    place: Place
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    before: Mapping[str, Sequence[str]] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, role: str, name: str, **told: str) -> None:
        """One of a member's; `told` are more variables."""
        run = self.stage.run
        argv = (sys.executable, "-P", "-m", "muster", role, "--run", str(run.path), "--name", name)
        tied = {SUPERVISOR_VARIABLE: str(os.getpid())}  # however the tests end
        environment = {**os.environ, **self.environment.get(name, {}), **tied, **told}
        label = name if role == "miner" else f"{role}-{name}"
        with run.log(label).open("ab") as out:
            self.running[label] = subprocess.Popen(
                (*self.before.get(name, ()), *argv), stdout=out, stderr=out, env=environment, start_new_session=True
            )

    def start_all(self, faults: Mapping[str, str] | None = None) -> None:
        """An aggregator for each operator, and the miners; `faults` by member are scripted ones.

        The first operator leads from the first round on, however long it takes to start: it is started when the miners
        have joined, and the others when it has closed a round.
        """
        first, *others = self.stage.roster.operators
        miners, scripted = self.stage.roster.miners, faults or {}
        for miner in miners:
            self.start("miner", miner.name)
        self.until(lambda: all(self.has_joined(miner.name) for miner in miners))
        for operator in (first, *others):
            told = {"MUSTER_FAULTS": scripted[operator.name]} if operator.name in scripted else {}
            self.start("aggregator", operator.name, **told)
            if operator is first:
                self.until(lambda: bool(self.anchors()))
        self.until(lambda: all(self.has_joined(f"aggregator-{operator.name}") for operator in others))

    def has_joined(self, label: str) -> bool:
        """Whether one takes part."""
        return any(isinstance(event, Joined) for event in self.told(label))

    def told(self, label: str) -> list[Event]:
        """All that one has written."""
        journal = self.stage.run.path / "logs" / f"{label}.jsonl"
        return [noted.event for noted in read_journal(journal).noted] if journal.exists() else []

    def applied(self, label: str) -> dict[int, Applied]:
        """The steps that one has taken, by round; of a round that it has taken back and again the last."""
        return {event.round: event for event in self.told(label) if isinstance(event, Applied)}

    def anchors(self) -> list[AnchorSeen]:
        """All there are."""

        async def look() -> list[AnchorSeen]:
            chain = self.stage.run.chain()
            try:
                return list(await chain.anchors(0))
            finally:
                await chain.close()

        return asyncio.run(look())

    def votes(self, name: str) -> list[int]:
        """The rounds that an operator has anchored, in chain order."""
        hotkey = self.stage.member(name).hotkey
        return [seen.anchor.round for seen in self.anchors() if seen.hotkey == hotkey]

    def records(self, name: str) -> dict[bytes, Record]:
        """The records in somebody's bucket, by digest."""
        run_id, tensors = self.stage.run.history.run_id, len(layout_of(self.stage.spec.model).shapes)

        async def read() -> list[bytes]:
            bucket = self.place.bucket(name)
            listed = await bucket.list(f"{run_id.hex()}/records/")
            keys = [info.key for info in listed if info.key.endswith(".rec")]
            return [await bucket.get(key, max_bytes=MAX_BYTES) for key in keys]

        decoded = [wire.decode_record(data, run_id, tensors) for data in asyncio.run(read())]
        return {digest: record for record, digest in decoded}

    def until(self, true: Callable[[], bool]) -> None:
        """Look at every block whether it has come true.

        Raises:
            TimeoutError: it does not.
        """
        asyncio.run(self._until(true))

    async def _until(self, true: Callable[[], bool]) -> None:
        chain = self.stage.run.chain()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not await asyncio.to_thread(true):
                    ended = {label: process.poll() for label, process in self.running.items()}
                    assert KILLED.issuperset(ended.values()), f"{ended}: one has ended by itself"
                    await chain.next_block((await chain.head()).number)
        finally:
            await chain.close()

    def kill(self, label: str) -> None:
        """As the kernel does where memory is short."""
        os.killpg(self.running[label].pid, signal.SIGKILL)
        self.running[label].wait()

    def name_of(self, public: bytes) -> str:
        """Whose key that is."""
        return self.stage.name_of(hotkey_of(public))


def stage_of(folder: Path, operators: int, miners: int, provided: Provision | None = None, **clock: int) -> Stage:
    """A run laid out for so many; `provided` is where its buckets are, where that is not in folders, `clock` changes
    fields of that."""
    made = template(clock=CLOCK | clock, gauntlet={"score_wait": 0})
    roster = Roster.of(SEED, miners, operators, {})
    parts = None if provided is None else provided.file
    stage = lay_out(folder / "run", write_text(folder / "text"), made, roster, parts)
    if provided is not None:
        provided.write_keys(stage.run.keys)
    return stage


def provided_on(server: RadosGateway, operators: int, miners: int) -> Provision:
    """Buckets for so many on a real server."""
    keys = {ADMIN_ACCESS_KEY: server.access, ADMIN_SECRET_KEY: server.secret}
    return asyncio.run(provision(f"s3://{server.address}", SQLITE, Roster.of(SEED, miners, operators, {}), keys))


def environments(stage: Stage, provided: Provision) -> dict[str, dict[str, str]]:
    """What every member's processes must be told of its bucket."""
    return {member.name: provided.environment(member.name, stage.run.keys) for member in stage.roster.members}


@contextmanager
def daemons_of(folder: Path, operators: int, miners: int, server: RadosGateway | None = None) -> Iterator[Daemons]:
    """A run laid out with buckets in folders, or on a server; nothing of it outlives the block."""
    if server is None:
        stage = stage_of(folder, operators, miners)
        made = Daemons(stage, Place(stage.run.path))
    else:
        provided = provided_on(server, operators, miners)
        stage = stage_of(folder, operators, miners, provided)
        made = Daemons(stage, PlaceOnS3(server, provided), environments(stage, provided))
    with ended(made):
        yield made


@contextmanager
def ended(daemons: Daemons) -> Iterator[None]:
    """No process outlives the block."""
    try:
        yield
    finally:
        for process in daemons.running.values():
            process.kill()
            process.wait()


def moved(provided: Provision, network: str, hosts: Mapping[str, tuple[str, int]]) -> Provision:
    """The same buckets, reached at other hosts and ports of a network that is allowed."""
    places = {name: parse_location(text) for name, text in provided.locations.items()}
    locations = {
        name: str(replace(place, host=hosts[name][0], port=hosts[name][1], tls=False)) for name, place in places.items()
    }
    return replace(provided, locations=locations, file=provided.file.model_copy(update={"allow": (network,)}))
