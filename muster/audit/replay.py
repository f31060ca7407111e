"""The replay of a run's rounds: what is right is applied, what is wrong is noted, and it goes on where it can.

Signatures, digests, chain of records, blocks and beacons, selection, weights, roots and checkpoints are all redone;
nothing a participant concluded is taken over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from blake3 import blake3

from muster.audit.beside import Beside
from muster.audit.evidence import Evidence, Found
from muster.audit.kept import Kept
from muster.audit.losses import Losses
from muster.audit.report import AuditReport, Fault, FaultClass, FaultLog
from muster.audit.scores import ScoreFiles
from muster.audit.standing import Standing
from muster.audit.weights import ShownWeights
from muster.node.replica import Replica
from muster.node.replica.checkpoint import Shard
from muster.protocol import ledger, paths
from muster.protocol.errors import LedgerError, ObjectMissing, StorageError
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import Applied, Tip
from muster.protocol.wire import Kind, Record
from muster.protocol.wire.manifest import ShardInfo, manifest_digest

Progress = Callable[[str], None]


class Replay:
    """Goes through the rounds of one run, from where `standing` is, and fills a report."""

    def __init__(
        self,
        standing: Standing,
        evidence: Evidence,
        scores: ScoreFiles,
        weights: ShownWeights,
        losses: Losses | None,
        report: AuditReport,
        faults: FaultLog,
        progress: Progress,
    ) -> None:
        self._standing = standing
        self._evidence = evidence
        self._beside = Beside(evidence, faults)
        self._kept = Kept(evidence, faults)
        self._scores = scores
        self._weights = weights
        self._losses = losses
        self._report = report
        self._faults = faults
        self._progress = progress
        self._run_id = evidence.run_id

    async def run(self) -> None:
        """Every round that is anchored, then what lies beyond."""
        async with self._evidence.ahead():
            await self._rounds()

    async def _rounds(self) -> None:
        round_ = self._report.first_round
        while not self._report.closed:
            tip = self._standing.tip
            if tip is not None and await self._evidence.follow(tip):
                await self._weights.look()
            if tip is not None and round_ > self._evidence.last:
                await self._evidence.decide(tip)
            if round_ > self._evidence.last:
                # First the bucket, then the chain: of a run that goes on, what was stored may be anchored by now.
                beyond = await self._evidence.beyond(round_)
                await self._evidence.look(round_)
                if round_ > self._evidence.last:
                    self._tell_beyond(round_, beyond)
                    break
            there = await self._round(round_)
            round_ = round_ + 1 if there else self._evidence.proven_by.after(round_)
        if self._report.closed:
            self._tell_beyond(round_, await self._evidence.beyond(round_))
        self._kept.tell()

    def _tell_unproven(self, round_: int) -> None:
        """Of a row of records that are judged by their rules alone, the first is named."""
        before = round_ == self._report.first_round or self._evidence.proven(round_ - 1)
        if before and not self._evidence.proven(round_):
            what = "no anchor leads back to it or to those that follow it, up to one that is not to be had"
            self._faults.add(Fault(FaultClass.UNANCHORED, round_, self._evidence.record_key(round_), what))

    def _tell_beyond(self, round_: int, names: list[str]) -> None:
        if names:
            more = f", nor the {len(names) - 1} after it" if len(names) > 1 else ""
            what = (
                f"an aggregator's bucket holds it, but no anchor that counts names it{more}: it is no part of the run"
            )
            self._faults.add(Fault(FaultClass.UNANCHORED, round_, names[0], what))

    async def _round(self, round_: int) -> bool:
        """One round; False where its record is not to be had."""
        if self._standing.tip is not None:
            self._evidence.go_on(round_, self._standing.tip)
        read = await find_record(self._evidence, self._faults, round_)
        if read is None:
            self._standing.lose()
            self._pass_by(round_, None)
            return False
        record, digest = read
        self._tell_unproven(round_)
        tip = self._standing.tip
        found = await self._named(record, digest)
        seal = None if found.seal is None else found.seal[0]
        await self._beside.tell(self._evidence.tip, record, digest, seal)
        await self._scores.check_used(record, digest, frozenset() if tip is None else tip.remembered)
        standing = self._standing
        spec = tip.spec if tip is not None and standing.by_the_rules else None
        await self._scores.check_published(record, digest, spec, seal)
        if record.kind is not Kind.CLOSE:  # which nobody scores
            self._weights.take(self._scores.newest, round_)
        resumed = False
        if standing.by_the_rules and standing.replica is None and record.checkpoint != ledger.NO_CHECKPOINT:
            assert tip is not None
            theta = await self._theta(tip, record)
            if theta is not None:
                tip, standing.replica = theta
            resumed = theta is not None
        applied = None if tip is None else await self._judged(found, tip, standing.replica)
        if applied is None or tip is None:
            with self._faults.noting(paths.record(self._run_id, round_, digest), round_):
                standing.pass_by(record, digest)
            self._pass_by(round_, record)
            return True
        if record.checkpoint != ledger.NO_CHECKPOINT and not resumed:
            await self._check_checkpoint(tip, record, digest)
        if self._losses is not None and found.seal is not None and standing.replica is not None:
            await self._losses.check(tip, applied, found.seal[0], standing.replica)
        await asyncio.to_thread(standing.apply, applied, tip)
        self._take_down(record)
        return True

    def _take_down(self, record: Record) -> None:
        """A round that was replayed."""
        report, replica = self._report, self._standing.replica
        assert replica is not None
        if record.kind is Kind.CLOSE:
            report.closed = True
            return
        report.rounds += 1
        report.accepted += len(record.accepted)
        report.late += len(record.late)
        report.state_roots.append(replica.root().hex())
        late = f", {len(record.late)} of them late" if record.late else ""
        self._progress(f"round {record.round}: {len(record.accepted)} accepted{late}, root {replica.root().hex()[:16]}")

    def _pass_by(self, round_: int, record: Record | None) -> None:
        """A round that was not."""
        self._report.not_replayed.append(round_)
        self._report.closed = record is not None and record.kind is Kind.CLOSE
        self._progress(f"round {round_}: not replayed")

    async def _named(self, record: Record, digest: bytes) -> Found:
        """What a record names, each object blamed by its own name."""
        round_, seal, bundle, size = record.round, None, None, None
        with self._faults.noting(paths.seal(self._run_id, round_, record.seal), round_):
            seal = await self._evidence.seal(record, digest)
        with self._faults.noting(paths.record(self._run_id, round_, digest), round_):
            size = self._evidence.bundle_size(record, self._standing.tip)
        if size is not None:
            bundle = await self._bundle(record, digest, size)
        await self._check_heads(record, record.leader if seal is None else seal[0].leader)
        return Found(record, digest, seal, bundle, await self._evidence.updates(digest))

    async def _bundle(self, record: Record, digest: bytes, size: int) -> bytes | None:
        """A record's bundle; None where it is not to be had, and a fault where it has to be."""
        with self._faults.noting(paths.bundle(self._run_id, record.round, digest), record.round):
            try:
                return await self._evidence.bundle(record, digest, size)
            except ObjectMissing:
                if not await self._kept.may_lack_bundle(record.round):
                    raise
        return None

    async def _theta(self, tip: Tip, record: Record) -> tuple[Tip, Replica] | None:
        """Tip and θ by the checkpoint that a record pins; None where there is none, a fault where one has to be."""
        with self._faults.noting(paths.checkpoint(tip.run_id, tip.round, paths.MANIFEST), tip.round):
            try:
                return await self._evidence.checkpoint(tip, record)
            except ObjectMissing:
                if not await self._kept.may_lack_checkpoint(record.round):
                    raise
        return None

    async def _check_heads(self, record: Record, sealed_by: bytes) -> None:
        """What lies beside the seal; of one of several aggregators it may be gone with its bucket: no fault."""
        name = paths.heads(self._run_id, record.round, ledger.kept_under(record.parent, record.turn))
        with self._faults.noting(name, record.round):
            try:
                await self._evidence.check_heads(record, sealed_by)
            except StorageError as error:
                if len(self._evidence.validators) == 1:
                    raise
                said = f"what it kept beside its seal, {name}, is not to be had and was not compared: {error}"
                self._faults.remark(record.round, hotkey_of(sealed_by), said)

    async def _judged(self, found: Found, tip: Tip, replica: Replica | None) -> Applied | None:
        """Apply the rules, without θ those that need none; None where the round cannot be replayed."""
        record, round_ = found.record, found.record.round
        name = paths.record(self._run_id, round_, found.digest)
        with self._faults.noting(name, round_) as linked:
            ledger.check_link(tip, record, None)
        if found.seal is None or not linked.sound:
            return None
        with self._faults.noting(paths.seal(self._run_id, round_, record.seal), round_) as sealed:
            ledger.check_seal(tip, record, *found.seal)
        with self._faults.noting(name, round_) as drawn:
            await self._evidence.check_beacons(tip, found)
        whole = found.whole if sealed.sound and drawn.sound and self._standing.by_the_rules else None
        if whole is None or replica is None:
            return None
        with self._faults.noting(name, round_):
            return await asyncio.to_thread(self._evidence.judge, whole, tip, replica)
        return None

    async def _check_checkpoint(self, tip: Tip, record: Record, digest: bytes) -> None:
        """Remake the checkpoint, a shard at a time, and compare every byte by its digest."""
        replica = self._standing.replica
        assert replica is not None

        def remade(shard: Shard) -> ShardInfo:
            return shard.info(replica.shard(shard))

        shards = [await asyncio.to_thread(remade, shard) for shard in replica.shards()]
        manifest = await asyncio.to_thread(replica.manifest, tip.round, ledger.tip_info(tip), shards)
        key, there = paths.checkpoint(tip.run_id, tip.round, paths.MANIFEST), True
        with self._faults.noting(key, tip.round):
            try:
                await self._evidence.check_same(key, len(manifest), lambda data: data == manifest)
            except ObjectMissing:
                there = not await self._kept.may_lack_checkpoint(tip.round)
                if there:
                    raise
        for shard in shards if there else ():
            await self._check_shard(tip, shard)
        with self._faults.noting(paths.record(tip.run_id, tip.round, digest), tip.round):
            if manifest_digest(manifest) != record.checkpoint:
                raise LedgerError("it pins another checkpoint than that of its θ")
        self._report.checkpoints += 1

    async def _check_shard(self, tip: Tip, shard: ShardInfo) -> None:
        """Compare one shard; its bytes are gone when this returns."""
        key = paths.checkpoint(tip.run_id, tip.round, shard.name)
        with self._faults.noting(key, tip.round):
            await self._evidence.check_same(key, shard.bytes, lambda data: blake3(data).hexdigest() == shard.blake3)


async def find_record(evidence: Evidence, faults: FaultLog, round_: int) -> tuple[Record, bytes] | None:
    """The anchored record of a round and its digest; None, and a fault, where it is not to be had."""
    with faults.noting(evidence.record_key(round_), round_):
        return await evidence.record(round_)
    return None


async def find_theta(evidence: Evidence, faults: FaultLog, tip: Tip, record: Record) -> tuple[Tip, Replica] | None:
    """Tip and θ by the checkpoint that a record pins; None, and a fault, where it is not to be had."""
    with faults.noting(paths.checkpoint(tip.run_id, tip.round, paths.MANIFEST), tip.round):
        return await evidence.checkpoint(tip, record)
    return None
