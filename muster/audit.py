"""Audit: replay a whole run with no trust in anybody, and name the first object that is not what it must be.

Signatures, digests, chain of records, blocks and beacons, selection, weights, roots and checkpoints are all redone
from genesis (or from a pinned checkpoint); nothing a participant concluded is taken over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from muster.node import follow
from muster.node.checkpoint import make_checkpoint
from muster.node.data import TextReader
from muster.node.follow import Fetched
from muster.node.replica import Replica, genesis_root
from muster.protocol import ledger, paths, wire
from muster.protocol.chain.base import Chain
from muster.protocol.errors import AuditError, DataError, LedgerError, StorageError, UsageError, WireError
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import Tip
from muster.protocol.lineage import Lineage
from muster.protocol.scores import decode_scores, max_scores_bytes, used
from muster.protocol.session import MAX_SEAL_BYTES
from muster.protocol.storage import Buckets, Store
from muster.protocol.wire import Kind, Record
from muster.rundir import RunDirectory
from muster.runs import fetch_text, open_run

Progress = Callable[[str], None]


@dataclass(slots=True)
class AuditReport:
    """What a successful audit established; roots are after each round, hexadecimal."""

    run_id: str
    first_round: int
    rounds: int = 0
    accepted: int = 0
    checkpoints: int = 0
    closed: bool = False
    state_roots: list[str] = field(default_factory=list)

    @property
    def state_root(self) -> str:
        """The last root."""
        return self.state_roots[-1] if self.state_roots else ""

    def to_json_object(self) -> dict[str, object]:
        """What `muster audit --json` prints."""
        return {
            "run_id": self.run_id,
            "first_round": self.first_round,
            "rounds": self.rounds,
            "accepted": self.accepted,
            "checkpoints": self.checkpoints,
            "closed": self.closed,
            "state_root": self.state_root,
            "state_roots": self.state_roots,
        }


class Auditor:
    """Replays one run over its store and chain."""

    def __init__(self, run: RunDirectory, chain: Chain, buckets: Buckets, progress: Progress) -> None:
        self._run = run
        self._chain = chain
        self._buckets = buckets
        self._progress = progress
        self._lineage = Lineage()

    async def audit(self, first_round: int | None) -> AuditReport:
        """Replay everything from genesis, or from the checkpoint before the record of `first_round`.

        Raises:
            AuditError: the first object that is not what it must be, with its name and round.
            UsageError: there is no checkpoint to start from.
        """
        await self._check_text()
        tip, replica = await self._start(first_round)
        report = AuditReport(tip.run_id.hex(), tip.round)
        while not tip.closed and await self._anchored(tip):
            tip = await self._round(tip, replica, report)
        report.closed = tip.closed
        if not report.rounds and not report.closed:
            raise AuditError("the run has no records yet, so there is nothing to audit")
        return report

    async def _check_text(self) -> None:
        """The text is the one the spec pins, and the genesis root is that of the seed."""
        spec = self._run.history.genesis
        try:
            await asyncio.to_thread(TextReader.open, self._run.data, spec.data.manifest)
        except DataError as error:
            raise AuditError(f"the training text: {error}") from error
        root = await asyncio.to_thread(genesis_root, spec.model, spec.genesis.seed)
        if root.hex() != spec.genesis.root:
            raise AuditError("spec.json: the genesis root is not that of its seed")

    async def _start(self, first_round: int | None) -> tuple[Tip, Replica]:
        tip = await follow.genesis(self._run.history, self._chain)
        spec = self._run.history.genesis
        if not first_round:
            return tip, await asyncio.to_thread(Replica.genesis, spec, tip.run_id)
        store = await self._leader_store(tip)
        while True:
            async with _naming(paths.record(tip.run_id, tip.round), tip.round):
                record, digest = await follow.fetch_record(store, tip.run_id, tip.round, len(tip.layout.shapes))
                if tip.round == first_round:
                    break
                tip = ledger.advance(tip, record, digest)
            if tip.closed:
                raise UsageError(f"the run closed before round {first_round}")
        if record.checkpoint == ledger.NO_CHECKPOINT:
            raise UsageError(f"the record of round {first_round} pins no checkpoint; an audit cannot start there")
        async with _naming(paths.checkpoint(tip.run_id, tip.round, paths.MANIFEST), tip.round):
            return tip, await follow.load_checkpoint(store, tip, record)

    async def _leader_store(self, tip: Tip) -> Store:
        leader = hotkey_of(tip.leader(0))
        peer = (await self._chain.snapshot()).by_hotkey().get(leader)
        if peer is None or peer.location is None:
            raise AuditError(f"the leader {leader} has committed no bucket")
        return self._buckets.bucket(peer.location)

    async def _anchored(self, tip: Tip) -> bytes | None:
        """The digest the leader anchored for the open round, None where the run ends here.

        Where the chain shows only a later anchor, the records between it and this round prove this one.
        """
        leader = hotkey_of(tip.leader(0))
        shown = [seen.anchor for seen in await self._chain.anchors(tip.round) if seen.hotkey == leader]
        if not shown:
            return None
        at = next((anchor for anchor in shown if anchor.round == tip.round), shown[-1])
        at = self._lineage.trace(at, tip.round)
        store = await self._leader_store(tip)
        while at.round > tip.round:
            async with _naming(paths.record(tip.run_id, at.round), at.round):
                read = await follow.fetch_record(store, tip.run_id, at.round, len(tip.layout.shapes))
                self._lineage.take(at, *read)
            at = self._lineage.trace(at, tip.round)
        return at.digest

    async def _round(self, tip: Tip, replica: Replica, report: AuditReport) -> Tip:
        store = await self._leader_store(tip)
        fetched = await self._fetch(store, tip)
        record_name = paths.record(tip.run_id, tip.round)
        async with _naming(record_name, tip.round):
            if fetched.digest != await self._anchored(tip):
                raise LedgerError("it is not the record anchored on chain")
            await follow.check_beacons(self._chain, tip, fetched)
            applied = await asyncio.to_thread(follow.judge, fetched, tip, replica)
        await self._check_heads(store, tip, fetched.record)
        await self._check_scores(tip, fetched.record)
        await self._check_published_scores(tip, fetched.digest)
        if fetched.record.checkpoint != ledger.NO_CHECKPOINT:
            await self._check_checkpoint(store, tip, fetched.record, replica)
            report.checkpoints += 1
        await asyncio.to_thread(replica.apply, applied, tip.spec)
        if fetched.record.kind is not Kind.CLOSE:
            report.rounds += 1
            report.accepted += len(fetched.record.accepted)
            report.state_roots.append(replica.root().hex())
            self._progress(
                f"round {tip.round}: {len(fetched.record.accepted)} accepted, root {replica.root().hex()[:16]}"
            )
        return applied.tip

    async def _fetch(self, store: Store, tip: Tip) -> Fetched:
        """Record, seal and bundle, each blamed by its own name."""
        round_, run_id = tip.round, tip.run_id
        async with _naming(paths.record(run_id, round_), round_):
            record, digest = await follow.fetch_record(store, run_id, round_, len(tip.layout.shapes))
            ledger.check_link(tip, record, None)
            size = ledger.check_bundle_size(record, run_id)
        async with _naming(paths.seal(run_id, round_), round_):
            data = await store.get(paths.seal(run_id, round_), max_bytes=MAX_SEAL_BYTES)
            seal, seal_digest = wire.decode_seal(data, run_id)
            ledger.check_seal(tip, record, seal, seal_digest)
        bundle = b""
        if size:
            async with _naming(paths.bundle(run_id, round_), round_):
                bundle = await store.get(paths.bundle(run_id, round_), max_bytes=size)
                ledger.check_bundle(record, bundle)
        return Fetched(record, digest, seal, seal_digest, bundle)

    async def _check_heads(self, store: Store, tip: Tip, record: Record) -> None:
        name = paths.heads(tip.run_id, tip.round)
        async with _naming(name, tip.round):
            data = await store.get(name, max_bytes=wire.MAX_BODY_BYTES)
            if data != wire.counted(entry.public + entry.head for entry in record.entries):
                raise LedgerError("it does not hold the heads of the record")

    async def _check_scores(self, tip: Tip, record: Record) -> None:
        """The scores a record used are the ones their validators signed."""
        peers = (await self._chain.snapshot()).by_hotkey()
        for taken in record.scores:
            hotkey, name = hotkey_of(taken.validator), paths.scores(tip.run_id, taken.round)
            async with _naming(name, taken.round):
                location = peers[hotkey].location if hotkey in peers else None
                if location is None:
                    raise LedgerError(f"the validator {hotkey} has committed no bucket")
                store = self._buckets.bucket(location)
                data = await store.get(name, max_bytes=max_scores_bytes(tip.spec.data.slots))
                body, digest = decode_scores(data, tip.run_id, hotkey, taken.round)
                # Who was registered then is not known now; nobody remembered may have been left out.
                known = tip.remembered | {row.public for row in taken.rows}
                if used(body, digest, hotkey, taken.stake, known) != taken:
                    raise LedgerError(f"the record of round {tip.round} used other scores than these")

    async def _check_published_scores(self, tip: Tip, digest: bytes) -> None:
        """What validators published of this round, used or not, is theirs and of this very record."""
        peers, name = (await self._chain.snapshot()).by_hotkey(), paths.scores(tip.run_id, tip.round)
        for hotkey in tip.spec.genesis.leaders:
            location = peers[hotkey].location if hotkey in peers else None
            if location is None:
                continue
            store = self._buckets.bucket(location)
            async with _naming(name, tip.round):
                if await store.head(name) is None:
                    continue
                data = await store.get(name, max_bytes=max_scores_bytes(tip.spec.data.slots))
                body, _ = decode_scores(data, tip.run_id, hotkey, tip.round)
                if body.record != digest.hex():
                    raise LedgerError("it judges another record than the one anchored on chain")

    async def _check_checkpoint(self, store: Store, tip: Tip, record: Record, replica: Replica) -> None:
        """Remake the checkpoint and compare every byte."""
        made = await asyncio.to_thread(
            make_checkpoint,
            replica.theta,
            tip.layout,
            tip.run_id,
            tip.round,
            replica.outer_step,
            replica.root(),
        )
        for name, data in {paths.MANIFEST: made.manifest, **made.shards}.items():
            key = paths.checkpoint(tip.run_id, tip.round, name)
            async with _naming(key, tip.round):
                if await store.get(key, max_bytes=len(data)) != data:
                    raise LedgerError("its bytes are not those of θ at this round")
        async with _naming(paths.record(tip.run_id, tip.round), tip.round):
            if made.digest != record.checkpoint:
                raise LedgerError("it pins another checkpoint than that of its θ")


@asynccontextmanager
async def _naming(name: str, round_: int) -> AsyncIterator[None]:
    """Give whatever is wrong inside the name of the object and the round."""
    try:
        yield
    except AuditError:
        raise
    except (StorageError, LedgerError, WireError) as error:
        raise AuditError(f"round {round_}: {name}: {error}") from error


async def audit_run(
    run: str, first_round: int | None, progress: Progress, chain: str | None = None, allow: str = ""
) -> AuditReport:
    """Audit a run by its folder or URL; `chain` and `allow` are the settings."""
    directory = await open_run(run, allow=allow)
    await fetch_text(directory, allow)
    client, buckets = directory.chain(chain), directory.buckets(allow=allow)
    try:
        return await Auditor(directory, client, buckets, progress).audit(first_round)
    finally:
        await client.close()
        await buckets.close()
