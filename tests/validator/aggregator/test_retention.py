"""What an aggregator's bucket keeps, by how much room there is: never less than two checkpoints and what follows."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from builders import identity
from closed_rounds import good
from s3_server import RadosGateway

from muster.lab.faults import Fault, Script
from muster.lab.faulty import FaultyBuckets
from muster.node.context import Context, in_place
from muster.node.telemetry.events import Ailing, Recovered
from muster.node.telemetry.journal import Journal
from muster.protocol import ledger, paths
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.storage import Buckets, Credentials
from muster.protocol.storage.locations import DirectoryBuckets, MemoryBuckets
from muster.protocol.storage.network import NetworkBuckets
from muster.validator.aggregator.retention import DELETED_AT_ONCE, WHAT, Retention

RUN = bytes(32)
BUNDLE, SHARD, MANIFEST = 100, 300, 10
EVERY = 4
"""Rounds from one checkpoint to the next."""
INTERVAL = EVERY * BUNDLE + SHARD + MANIFEST
"""Bytes of a checkpoint and the bundles up to the next."""


class World:
    """An aggregator's bucket, to which each closed round adds what it names."""

    def __init__(self, limit: int | None, began: int = 0, place: str = "mem:own", at: Buckets | None = None) -> None:
        buckets = at or MemoryBuckets()
        chain = VirtualChain(ChainGenesis(seed=0))
        self.context = Context(identity("leader"), chain, buckets, place, Journal(None), in_place)
        self.retention = Retention(self.context, RUN, began, limit)

    async def close(self, rounds: range, *, final: bool = True, tidy: bool = True) -> None:
        bucket = self.context.bucket
        for round_ in rounds:
            pins = round_ > 0 and round_ % EVERY == 0
            if pins:
                await bucket.put(paths.checkpoint(RUN, round_, "0.safetensors"), bytes(SHARD))
                await bucket.put(paths.checkpoint(RUN, round_, paths.MANIFEST), bytes(MANIFEST))
            await bucket.put(paths.bundle(RUN, round_, bytes([round_ % 256] * 32)), bytes(BUNDLE))
            await bucket.put(paths.record(RUN, round_, bytes([round_ % 256] * 32)), b"record")
            checkpoint = b"c" * 32 if pins else ledger.NO_CHECKPOINT
            if final:
                record = replace(good().record, round=round_, checkpoint=checkpoint, bundle_bytes=BUNDLE)
                self.retention.final(record)
            if tidy:
                await self.retention.tidy()

    async def rounds(self, prefix: str) -> list[int]:
        names = [info.key.removeprefix(prefix) for info in await self.context.bucket.list(prefix, limit=10_000)]
        return sorted({int(name[:8]) for name in names})

    async def bundles(self) -> list[int]:
        return await self.rounds(paths.bundles(RUN))

    async def checkpoints(self) -> list[int]:
        return await self.rounds(paths.checkpoints(RUN))

    @property
    def ailing(self) -> list[str]:
        return [event.problem for event in self.told if isinstance(event, Ailing)]

    @property
    def told(self) -> list[object]:
        return [noted.event for noted in self.context.journal.noted]


def on_s3(server: RadosGateway) -> World:
    name = f"kept-{uuid.uuid4().hex}"
    server.client().create_bucket(Bucket=name)
    place = f"s3://{server.address}/{name}"
    return World(limit=1, place=place, at=NetworkBuckets(place, Credentials(*server.user("admin"))))


@pytest.mark.parametrize("where", ["memory", "folder", "s3"])
async def test_without_room_the_newest_two_checkpoints_and_what_follows_stay(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if where == "s3":
        world = on_s3(request.getfixturevalue("s3_server"))
    elif where == "folder":
        world = World(limit=1, place="dir:own", at=DirectoryBuckets(tmp_path, fsync=False))
    else:
        world = World(limit=1)
    await world.close(range(19))
    assert await world.checkpoints() == [12, 16]
    assert await world.bundles() == list(range(12, 19))
    assert await world.rounds(f"{RUN.hex()}/records/") == list(range(19)), "these are for ever"


async def test_genesis_is_the_first_checkpoint() -> None:
    world = World(limit=1)
    await world.close(range(8))
    assert await world.bundles() == list(range(8))
    await world.close(range(8, 9))
    assert await world.bundles() == list(range(4, 9))


async def test_with_room_the_oldest_go_first_and_no_more_than_must() -> None:
    world = World(limit=3 * INTERVAL)
    await world.close(range(17))
    assert await world.checkpoints() == [8, 12, 16]
    kept = await world.bundles()
    assert kept == list(range(kept[0], 17))
    total = len(kept) * BUNDLE + 3 * (SHARD + MANIFEST)
    assert 3 * INTERVAL - BUNDLE - SHARD - MANIFEST < total <= 3 * INTERVAL
    assert world.ailing == []


async def test_without_a_limit_everything_stays() -> None:
    world = World(limit=None)
    await world.close(range(17))
    assert await world.bundles() == list(range(17))


async def test_what_is_not_final_counts_for_nothing_and_stays() -> None:
    world = World(limit=1)
    await world.close(range(11))
    await world.close(range(11, 17), final=False)
    assert await world.checkpoints() == [4, 8, 12, 16]
    assert await world.bundles() == list(range(4, 17))


async def test_a_checkpoint_that_is_not_whole_in_this_bucket_does_not_count() -> None:
    world = World(limit=1)
    await world.close(range(11))
    await world.context.bucket.delete(paths.checkpoint(RUN, 8, paths.MANIFEST))
    await world.close(range(11, 13))
    assert await world.bundles() == list(range(4, 13)), "the newest two whole ones are of rounds 4 and 12"


async def test_who_begins_at_a_checkpoint_counts_it_where_the_bucket_has_it() -> None:
    world = World(limit=1)
    await world.close(range(9), tidy=False)
    world.retention = Retention(world.context, RUN, 8, 1)
    await world.close(range(9, 12))
    assert await world.bundles() == list(range(12)), "which one is before it this life has not seen"
    await world.close(range(12, 13))
    assert await world.bundles() == list(range(8, 13))


async def test_too_little_room_for_two_is_one_sentence_until_there_is_enough() -> None:
    world = World(limit=INTERVAL)
    await world.close(range(12))
    first, second = world.ailing
    assert "from round 0 on" in first
    assert "from round 4 on" in second
    assert "keep_gb" in second
    assert await world.checkpoints() == [4, 8], "no checkpoint is skipped"


async def test_it_is_taken_back() -> None:
    world = World(limit=INTERVAL)
    await world.close(range(8))
    assert world.ailing
    world.retention = Retention(world.context, RUN, 0, 3 * INTERVAL)
    await world.retention.tidy()
    assert world.told[-1] == Recovered(WHAT)


async def test_a_long_arrear_goes_a_part_a_round() -> None:
    world = World(limit=1)
    await world.close(range(90), tidy=False)
    await world.retention.tidy()
    assert len(await world.bundles()) > 90 - DELETED_AT_ONCE
    assert world.ailing == []
    await world.retention.tidy()
    assert await world.bundles() == list(range(84, 90))


@pytest.mark.parametrize("operation", ["store.list", "store.delete"])
async def test_what_fails_is_tried_again(operation: str) -> None:
    world = World(limit=1)
    await world.close(range(12), tidy=False)
    script = Script((Fault("error", operation, "*", count=1),))
    behind, context = world.context.buckets, world.context
    context.buckets = FaultyBuckets(behind, script, lambda: 0, "own")
    await world.retention.tidy()
    assert await world.bundles() == list(range(12))
    await world.retention.tidy()
    assert await world.bundles() == list(range(4, 12))
