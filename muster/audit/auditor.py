"""The replay itself, round by round: what is right is applied, what is wrong is noted, and it goes on where it can.

Signatures, digests, chain of records, blocks and beacons, selection, weights, roots and checkpoints are all redone
from genesis (or from a pinned checkpoint); nothing a participant concluded is taken over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from muster.audit.evidence import Evidence, Found, genesis
from muster.audit.report import AuditReport, Fault, FaultClass, FaultLog
from muster.audit.scores import ScoreFiles
from muster.audit.standing import Standing
from muster.node.checkpoint import make_checkpoint
from muster.node.data import TextReader
from muster.node.replica import Replica, genesis_root
from muster.protocol import ledger, paths
from muster.protocol.chain.base import Chain
from muster.protocol.errors import AuditError, DataError, LedgerError, UsageError
from muster.protocol.ledger import Applied, Tip
from muster.protocol.storage import Buckets
from muster.protocol.wire import Kind, Record
from muster.rundir import RunDirectory
from muster.runfile import SPEC_FILE
from muster.runs import fetch_text, open_run

Progress = Callable[[str], None]


class Auditor:
    """Replays one run over its store and chain, once."""

    def __init__(self, run: RunDirectory, chain: Chain, buckets: Buckets, progress: Progress) -> None:
        self._run = run
        self._chain = chain
        self._buckets = buckets
        self._progress = progress
        self._run_id = run.history.run_id
        self._report = AuditReport(self._run_id.hex(), 0)
        self._faults = FaultLog(self._report, progress)

    async def audit(self, first_round: int | None) -> AuditReport:
        """Replay everything from genesis, or from the checkpoint before the record of `first_round`.

        Raises:
            AuditError: there is nothing to audit: no record, or no bucket of the leader.
            UsageError: there is no checkpoint to start from.
            ChainError: the chain cannot be read.
        """
        await self._check_text()
        tip = await genesis(self._run.history, self._chain)
        self._evidence = Evidence(tip, self._chain, self._buckets)
        slots = self._run.history.genesis.data.slots
        self._scores = ScoreFiles(self._run_id, slots, self._evidence, self._buckets, self._faults)
        await self._evidence.look(first_round or 0)
        start = await self._start(tip, first_round)
        if start is not None:
            self._standing = start
            await self._follow()
        return self._report

    async def _check_text(self) -> None:
        """The text is the one the spec pins, and the genesis root is that of the seed."""
        spec = self._run.history.genesis
        try:
            await asyncio.to_thread(TextReader.open, self._run.data, spec.data.manifest)
        except DataError as error:
            self._faults.add(Fault(FaultClass.LEDGER, None, "the training text", str(error)))
        with self._faults.noting(SPEC_FILE, None):
            if (await asyncio.to_thread(genesis_root, spec.model, spec.genesis.seed)).hex() != spec.genesis.root:
                raise LedgerError("the genesis root is not that of its seed")

    async def _start(self, tip: Tip, first_round: int | None) -> Standing | None:
        """Where the replay begins; None where what leads there is not to be had."""
        if not first_round:
            return Standing(tip, await asyncio.to_thread(Replica.genesis, self._run.history.genesis, tip.run_id))
        self._report.first_round = first_round
        if first_round > self._evidence.last:
            raise UsageError(f"no record of round {first_round} is anchored; an audit cannot start there")
        while tip.round < first_round:
            record = await self._record(tip.round)
            if record is None:
                return None
            with self._faults.noting(paths.record(tip.run_id, tip.round), tip.round):
                tip = ledger.advance(tip, *record)
                if tip.closed:
                    raise UsageError(f"the run closed before round {first_round}")
                continue
            return None
        record = await self._record(tip.round)
        if record is None:
            return None
        if record[0].checkpoint == ledger.NO_CHECKPOINT:
            raise UsageError(f"the record of round {first_round} pins no checkpoint; an audit cannot start there")
        replica = await self._load(tip, record[0])
        return None if replica is None else Standing(tip, replica)

    async def _follow(self) -> None:
        """Every round that is anchored, then what lies beyond."""
        round_ = self._report.first_round
        while not self._report.closed:
            if round_ > self._evidence.last:
                # First the bucket, then the chain: of a run that goes on, what was stored may be anchored by now.
                beyond = await self._evidence.beyond(round_)
                await self._evidence.look(round_)
                if round_ > self._evidence.last:
                    self._tell_beyond(round_, beyond)
                    break
            there = await self._round(round_)
            round_ = round_ + 1 if there else self._evidence.after(round_)
        if self._report.closed:
            self._tell_beyond(round_, await self._evidence.beyond(round_))
        if round_ == self._report.first_round and not self._report.faults:
            raise AuditError("the run has no records yet, so there is nothing to audit")

    def _tell_unproven(self, round_: int) -> None:
        """Of a row of records that are judged by their rules alone, the first is named."""
        before = round_ == self._report.first_round or self._evidence.proven(round_ - 1)
        if before and not self._evidence.proven(round_):
            what = "no anchor leads back to it or to those that follow it, up to one that is not to be had"
            self._faults.add(Fault(FaultClass.UNANCHORED, round_, paths.record(self._run_id, round_), what))

    def _tell_beyond(self, round_: int, count: int) -> None:
        if count:
            more = f", nor the {count - 1} after it" if count > 1 else ""
            what = f"the leader's bucket holds it, but no anchor names it{more}: it is not a part of the run"
            self._faults.add(Fault(FaultClass.UNANCHORED, round_, paths.record(self._run_id, round_), what))

    async def _round(self, round_: int) -> bool:
        """One round; False where its record is not to be had."""
        read = await self._record(round_)
        if read is None:
            self._standing.lose()
            self._pass_by(round_, None)
            return False
        record, digest = read
        self._tell_unproven(round_)
        found = await self._named(record, digest)
        tip = self._standing.tip
        await self._scores.check_used(record, frozenset() if tip is None else tip.remembered)
        await self._scores.check_published(self._run.history.genesis.genesis.leaders, round_, digest)
        standing, tip = self._standing, self._standing.tip
        resumed = False
        if standing.by_the_rules and standing.replica is None and record.checkpoint != ledger.NO_CHECKPOINT:
            assert tip is not None
            standing.replica = await self._load(tip, record)
            resumed = standing.replica is not None
        applied = None if tip is None else await self._judged(found, tip, standing.replica)
        if applied is None or tip is None:
            with self._faults.noting(paths.record(self._run_id, round_), round_):
                standing.pass_by(record, digest)
            self._pass_by(round_, record)
            return True
        if record.checkpoint != ledger.NO_CHECKPOINT and not resumed:
            await self._check_checkpoint(tip, record)
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
        report.state_roots.append(replica.root().hex())
        self._progress(f"round {record.round}: {len(record.accepted)} accepted, root {replica.root().hex()[:16]}")

    def _pass_by(self, round_: int, record: Record | None) -> None:
        """A round that was not."""
        self._report.not_replayed.append(round_)
        self._report.closed = record is not None and record.kind is Kind.CLOSE
        self._progress(f"round {round_}: not replayed")

    async def _record(self, round_: int) -> tuple[Record, bytes] | None:
        with self._faults.noting(paths.record(self._run_id, round_), round_):
            return await self._evidence.record(round_)
        return None

    async def _named(self, record: Record, digest: bytes) -> Found:
        """What a record names, each object blamed by its own name."""
        round_, seal, bundle, size = record.round, None, None, None
        with self._faults.noting(paths.seal(self._run_id, round_), round_):
            seal = await self._evidence.seal(record)
        with self._faults.noting(paths.record(self._run_id, round_), round_):
            size = self._evidence.bundle_size(record, self._standing.tip)
        if size is not None:
            with self._faults.noting(paths.bundle(self._run_id, round_), round_):
                bundle = await self._evidence.bundle(record, size)
        with self._faults.noting(paths.heads(self._run_id, round_), round_):
            await self._evidence.check_heads(record)
        return Found(record, digest, seal, bundle)

    async def _judged(self, found: Found, tip: Tip, replica: Replica | None) -> Applied | None:
        """Apply the rules, without θ those that need none; None where the round cannot be replayed."""
        record, round_ = found.record, found.record.round
        name = paths.record(self._run_id, round_)
        with self._faults.noting(name, round_) as linked:
            ledger.check_link(tip, record, None)
        if found.seal is None or not linked.sound:
            return None
        with self._faults.noting(paths.seal(self._run_id, round_), round_) as sealed:
            ledger.check_seal(tip, record, *found.seal)
        with self._faults.noting(name, round_) as drawn:
            await self._evidence.check_beacons(tip, found)
        whole = found.whole if sealed.sound and drawn.sound and self._standing.by_the_rules else None
        if whole is None or replica is None:
            return None
        with self._faults.noting(name, round_):
            return await asyncio.to_thread(self._evidence.judge, whole, tip, replica)
        return None

    async def _load(self, tip: Tip, record: Record) -> Replica | None:
        """θ from the checkpoint that a record pins."""
        with self._faults.noting(paths.checkpoint(tip.run_id, tip.round, paths.MANIFEST), tip.round):
            return await self._evidence.checkpoint(tip, record)
        return None

    async def _check_checkpoint(self, tip: Tip, record: Record) -> None:
        """Remake the checkpoint and compare every byte."""
        replica = self._standing.replica
        assert replica is not None
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
            with self._faults.noting(key, tip.round):
                if await self._evidence.store.get(key, max_bytes=len(data)) != data:
                    raise LedgerError("its bytes are not those of θ at this round")
        with self._faults.noting(paths.record(tip.run_id, tip.round), tip.round):
            if made.digest != record.checkpoint:
                raise LedgerError("it pins another checkpoint than that of its θ")
        self._report.checkpoints += 1


async def audit_run(
    run: str, first_round: int | None, progress: Progress, chain: str | None = None, allow: str = ""
) -> AuditReport:
    """Audit a run by its folder or URL, changing nothing of it; `chain` and `allow` are the settings.

    Raises:
        MusterError: the run cannot be audited at all. What is wrong with it is in the report.
    """
    directory = await open_run(run, allow=allow)
    await fetch_text(directory, allow)
    client, buckets = directory.chain(chain, read_only=True), directory.buckets(allow=allow)
    try:
        return await Auditor(directory, client, buckets, progress).audit(first_round)
    finally:
        await client.close()
        await buckets.close()
