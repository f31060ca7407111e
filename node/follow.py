"""Following the ledger: fetch what an anchor promises, check it against rules, chain and θ, and hand it on to apply.

Live rounds, catch-up after a restart and joining a year late are this one path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from muster.node.checkpoint import MAX_MANIFEST_BYTES, read_manifest, read_shards
from muster.node.replica import Replica
from muster.protocol import ledger, paths, wire
from muster.protocol.admission import admit
from muster.protocol.chain.base import Chain
from muster.protocol.errors import LedgerError, ObjectMissing, WireError
from muster.protocol.history import SpecHistory
from muster.protocol.ledger import Applied, Tip
from muster.protocol.session import MAX_SEAL_BYTES
from muster.protocol.storage import Store
from muster.protocol.wire import Beacon, Record, Seal

BULK_DEADLINE = 600.0
"""Seconds a bundle or a checkpoint shard may take: 2.8 GB (a 72B submission) at 40 Mbit/s."""

MAX_BUNDLE_BYTES = 2**37
"""Cap of a mirrored bundle whose record has been verified: 20 submissions of 2.8 GB (72B) fit."""

ASSIGN, POSSESS, EVALUATE = "assign", "possess", "evaluate"
"""The purposes beacons are drawn for."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A record and everything it names, signatures and digests checked, rules not yet."""

    record: Record
    digest: bytes
    seal: Seal
    seal_digest: bytes
    bundle: bytes


async def draw(chain: Chain, purpose: str, round_: int, block: int) -> Beacon:
    """A beacon as records carry it: the block it comes from and its value."""
    return Beacon(await chain.block(block), await chain.beacon(purpose, round_, block))


async def genesis(history: SpecHistory, chain: Chain) -> Tip:
    """The tip every run begins with."""
    block = history.genesis.genesis.block
    return ledger.genesis_tip(history, await draw(chain, ASSIGN, 0, block), await draw(chain, POSSESS, 0, block))


async def fetch_record(store: Store, run_id: bytes, round_: int, tensors: int) -> tuple[Record, bytes]:
    """A record and its digest.

    Raises:
        ObjectMissing: it is not there.
        WireError: it is not readable.
    """
    data = await store.get(paths.record(run_id, round_), max_bytes=wire.MAX_BODY_BYTES)
    return wire.decode_record(data, run_id, tensors)


async def fetch(store: Store, tip: Tip) -> Fetched:
    """The open round's record, seal and bundle out of its leader's bucket.

    Raises:
        StorageError: something is missing or cannot be read.
        WireError, LedgerError: something is not what it must be.
    """
    record, digest = await fetch_record(store, tip.run_id, tip.round, len(tip.layout.shapes))
    seal_data = await store.get(paths.seal(tip.run_id, tip.round), max_bytes=MAX_SEAL_BYTES)
    seal, seal_digest = wire.decode_seal(seal_data, tip.run_id)
    size = ledger.check_bundle_size(record, tip.run_id)
    bundle = b""
    if size:
        key = paths.bundle(tip.run_id, tip.round)
        bundle = await store.get(key, max_bytes=size, deadline=BULK_DEADLINE)
    return Fetched(record, digest, seal, seal_digest, bundle)


def judge(fetched: Fetched, tip: Tip, replica: Replica) -> Applied:
    """Check a fetched record against the rules and this replica's θ.

    Raises:
        LedgerError: the first rule it breaks.
    """
    beacon = tip.opening.possess.value
    return ledger.verify(
        tip,
        fetched.record,
        fetched.digest,
        (fetched.seal, fetched.seal_digest),
        replica.root(),
        partial(admit, tip.facts(lambda public: replica.possession(beacon, public, tip.round))),
        ledger.open_bundle(tip, fetched.record, fetched.bundle),
    )


async def check_beacons(chain: Chain, tip: Tip, fetched: Fetched) -> None:
    """Every block and beacon of a record is the chain's own.

    Raises:
        LedgerError: one is not.
    """
    record, seal = fetched.record, fetched.seal
    if (await chain.block(seal.block.number)) != seal.block:
        raise LedgerError("the seal names a block the chain does not have")
    claims = [(EVALUATE, tip.round, record.evaluate)]
    if record.opening:
        claims.append((ASSIGN, tip.round + 1, record.opening.assign))
        claims.append((POSSESS, tip.round + 1, record.opening.possess))
    for purpose, round_, beacon in claims:
        if await draw(chain, purpose, round_, beacon.block.number) != beacon:
            raise LedgerError(f"the {purpose} beacon of round {round_} is not the chain's")


async def catch_up(store: Store, start: Tip) -> tuple[Tip, Replica | None]:
    """The newest checkpoint that the ledger pins, as (tip, replica); `(start, None)` where there is none.

    Records before it are only checked as a chain; their authority is the anchored record that follows the
    checkpoint and that the session verifies in full.

    Raises:
        LedgerError: a record does not continue the ledger, or a pinned checkpoint is not what it must be.
    """
    tip, newest = start, None
    while not tip.closed:
        try:
            record, digest = await fetch_record(store, tip.run_id, tip.round, len(tip.layout.shapes))
        except ObjectMissing:
            break
        except WireError as error:
            raise LedgerError(f"the record of round {tip.round} is not readable: {error}") from error
        if record.checkpoint != ledger.NO_CHECKPOINT:
            newest = (tip, record)
        tip = ledger.advance(tip, record, digest)
    if newest is None:
        return start, None
    at, record = newest
    return at, await load_checkpoint(store, at, record)


async def load_checkpoint(store: Store, tip: Tip, record: Record) -> Replica:
    """θ before a record that pins a checkpoint.

    Raises:
        LedgerError: the checkpoint is not the pinned one, or its θ does not have the record's root.
        StorageError: it cannot be read.
    """

    def key(name: str) -> str:
        return paths.checkpoint(tip.run_id, tip.round, name)

    data = await store.get(key(paths.MANIFEST), max_bytes=MAX_MANIFEST_BYTES)
    manifest = read_manifest(data, record.checkpoint, tip.run_id, tip.layout)
    shards: Mapping[str, bytes] = {
        shard.name: await store.get(key(shard.name), max_bytes=shard.bytes, deadline=BULK_DEADLINE)
        for shard in manifest.shards
    }
    theta = read_shards(manifest, lambda shard: shards[shard.name], tip.layout)
    replica = Replica(tip.spec.model, tip.run_id, theta, tip.outer_step)
    if replica.root() != record.root:
        raise LedgerError(f"the checkpoint of round {tip.round} does not have the recorded state root")
    return replica
