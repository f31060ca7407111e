"""A forged run, followed by a session; and each part of following it, alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from daemons.forged_run import SEED, ForgedRun
from muster.node.context import Context
from muster.node.ledger.objects import MAX_SEAL_BYTES
from muster.node.ledger.participant import Follower, possession
from muster.node.ledger.reader import genesis_tip
from muster.node.ledger.session import Session
from muster.node.replica import Replica
from muster.node.telemetry.journal import Journal
from muster.protocol import ledger, wire
from muster.protocol.identity import Identity
from muster.protocol.ledger import Tip
from muster.protocol.ledger.round import Duty
from muster.protocol.rules.admission import admit
from muster.protocol.storage import Buckets, Credentials, S3Location
from muster.protocol.storage.locations import DirectoryBuckets
from muster.protocol.storage.network import NetworkBuckets

AT_ONCE = 4
"""Rounds whose objects are asked for at a time where nothing else goes on."""


@dataclass(frozen=True)
class Place:
    """Where a leader's bucket lies, and how buckets there are opened, each time anew."""

    location: str
    open: Callable[[], Buckets]

    @classmethod
    def folder(cls, base: Path) -> Place:
        """A bucket in a folder of this machine."""
        base.mkdir()
        return cls("dir:leader", lambda: DirectoryBuckets(base, fsync=False))


def s3_place(server: Any) -> Place:
    """A bucket of an S3 server of the tests."""
    server.client().create_bucket(Bucket="catch-up")
    parts = urlsplit(server.endpoint)
    location = str(S3Location(parts.hostname or "", parts.port or 80, "catch-up", "", "us-east-1", False, False))
    return Place(location, lambda: NetworkBuckets(location, Credentials(server.access, server.secret)))


class Watcher(Follower):
    """Who does nothing but follow."""

    def duty(self) -> Duty:
        """It follows."""
        return Duty.FOLLOW


class Following:
    """One forged run; each measurement begins anew and gives seconds of the wall."""

    def __init__(self, run: ForgedRun) -> None:
        self.run = run
        self.sizes = [{key: len(data) for key, data in written.objects.items()} for written in run.rounds]

    async def put(self, place: Place) -> None:
        """The run's objects, to where they are followed from."""
        buckets = place.open()
        await self.run.put(buckets.bucket(place.location), place.location)
        await buckets.close()

    async def follow(self, place: Place) -> float:
        """A session from genesis to the run's end."""
        buckets = place.open()
        await self.run.stands_at(place.location)
        chain, me = self.run.chain, Identity.derive(SEED, "watcher")
        context = Context(me, chain, buckets, place.location, Journal(None))
        tip = await genesis_tip(self.run.history, chain)
        watcher = Watcher(context, tip, self._genesis(tip))
        began = time.perf_counter()
        await Session(watcher, chain, context.directory).run()
        took = time.perf_counter() - began
        await buckets.close()
        assert watcher.replica.root() == self.run.root, "it does not hold the θ that the run ends with"
        return took

    async def download(self, place: Place) -> float:
        """Every object that a session reads, some rounds at a time."""
        buckets = place.open()
        store, free = buckets.bucket(place.location), asyncio.Semaphore(AT_ONCE)

        async def one(objects: dict[str, int]) -> None:
            async with free:
                for key, size in objects.items():
                    await store.get(key, max_bytes=max(size, MAX_SEAL_BYTES))

        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for objects in self.sizes:
                tasks.create_task(one(objects))
        took = time.perf_counter() - began
        await buckets.close()
        return took

    def decode(self) -> float:
        """Every bundle, from bytes to updates, in this thread."""
        tip, took = self._start(), 0.0
        for written in self.run.rounds:
            record, bundle = self._record(tip, written.objects)
            began = time.perf_counter()
            accepted = [wire.decode_head(entry.head, tip.run_id) for entry in record.accepted]
            ledger.open_bundle(tip, record, bundle)(accepted)
            took += time.perf_counter() - began
        return took

    def apply(self) -> float:
        """What remains of judging once updates are decoded, the steps and the roots, in this thread."""
        tip, took = self._start(), 0.0
        replica = self._genesis(tip)
        for written in self.run.rounds:
            record, bundle = self._record(tip, written.objects)
            seal = next(data for key, data in written.objects.items() if key.endswith(".seal"))
            accepted = [wire.decode_head(entry.head, tip.run_id) for entry in record.accepted]
            updates = ledger.open_bundle(tip, record, bundle)(accepted)
            began = time.perf_counter()
            facts = tip.facts(possession(tip, replica))
            applied = ledger.verify(
                tip,
                record,
                written.digest,
                wire.decode_seal(seal, tip.run_id),
                replica.root(),
                lambda owner, head, facts=facts: admit(facts, owner, head),
                lambda _accepted, updates=updates: updates,
                replica.held,
            )
            replica.step(applied, tip.spec)
            replica.root()
            took += time.perf_counter() - began
            tip = applied.tip
        assert replica.root() == self.run.root, "it does not hold the θ that the run ends with"
        return took

    def _start(self) -> Tip:
        return asyncio.run(genesis_tip(self.run.history, self.run.chain))

    def _genesis(self, tip: Tip) -> Replica:
        return Replica.genesis(tip.history.genesis, tip.run_id)

    def _record(self, tip: Tip, objects: dict[str, bytes]) -> tuple[wire.Record, bytes]:
        data = next(data for key, data in objects.items() if key.endswith(".rec"))
        bundle = next((data for key, data in objects.items() if key.endswith(".bin")), b"")
        return wire.decode_record(data, tip.run_id, len(tip.layout.shapes))[0], bundle
