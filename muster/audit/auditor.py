"""An audit from its beginning: the text, the spec, and where the replay starts."""

from __future__ import annotations

import asyncio

from muster.audit.evidence import Evidence, genesis
from muster.audit.losses import Losses, Sampling
from muster.audit.replay import Progress, Replay, find_record, find_theta
from muster.audit.report import AuditReport, Fault, FaultClass, FaultLog
from muster.audit.scores import ScoreFiles
from muster.audit.standing import Standing
from muster.audit.weights import ShownWeights
from muster.node.data.dataset import TextReader
from muster.node.replica import Replica, genesis_root
from muster.protocol import ledger, paths
from muster.protocol.chain.base import Chain
from muster.protocol.errors import AuditError, DataError, LedgerError, UsageError
from muster.protocol.ledger import Tip
from muster.protocol.storage import Buckets
from muster.run.fetch import fetch_text, open_run
from muster.run.file import SPEC_FILE
from muster.run.folder import RunDirectory


class Auditor:
    """Replays one run over its store and chain, once."""

    def __init__(self, run: RunDirectory, chain: Chain, buckets: Buckets, progress: Progress) -> None:
        self._run = run
        self._chain = chain
        self._buckets = buckets
        self._progress = progress
        self._report = AuditReport(run.history.run_id.hex(), 0)
        self._faults = FaultLog(self._report, progress)

    async def audit(self, first_round: int | None, sampling: Sampling | None = None) -> AuditReport:
        """Replay everything from genesis, or from the checkpoint before the record of `first_round`.

        With `sampling`, that many of the rows in the validators' files are measured again.

        Raises:
            AuditError: there is nothing to audit: no record, or no bucket of an aggregator.
            UsageError: there is no checkpoint to start from.
            ChainError: the chain cannot be read.
        """
        text = await self._check_text()
        tip = await genesis(self._run.history, self._chain)
        evidence = Evidence(tip, self._chain, self._buckets)
        weights = ShownWeights(evidence, self._faults)
        await weights.look()
        await evidence.look(first_round or 0)
        if first_round:
            self._report.first_round = first_round
            standing = await self._from_checkpoint(evidence, tip, first_round)
        else:
            standing = Standing(tip, await asyncio.to_thread(Replica.genesis, tip.history.genesis, tip.run_id))
        if evidence.last < 0 and evidence.proven_by.problem is not None:
            raise AuditError(f"what the anchors prove cannot be read: {evidence.proven_by.problem}")
        if evidence.last < 0 and not self._report.faults:
            raise AuditError("the run has no records yet, so there is nothing to audit")
        if standing is not None:
            scores = ScoreFiles(evidence, self._report, self._faults)
            losses = None
            if sampling is not None and text is None:
                self._faults.remark(
                    None, None, "no row is measured again: that takes the run's text, which is not here"
                )
            elif sampling is not None and text is not None:
                losses = Losses(evidence, scores, text, self._report, self._faults)
                await losses.draw(sampling, self._report.first_round)
            replay = Replay(standing, evidence, scores, weights, losses, self._report, self._faults, self._progress)
            await replay.run()
            await weights.tell(scores, whole=not first_round)
            if losses is not None:
                losses.tell()
        return self._report

    async def _check_text(self) -> TextReader | None:
        """The text is the one the spec pins, and the genesis root is that of the seed; the text, where it is."""
        spec, text = self._run.history.genesis, None
        try:
            text = await asyncio.to_thread(TextReader.open, self._run.data, spec.data.manifest)
        except DataError as error:
            self._faults.add(Fault(FaultClass.LEDGER, None, "the training text", str(error)))
        with self._faults.noting(SPEC_FILE, None):
            if (await asyncio.to_thread(genesis_root, spec.model, spec.genesis.seed)).hex() != spec.genesis.root:
                raise LedgerError("the genesis root is not that of its seed")
        return text

    async def _from_checkpoint(self, evidence: Evidence, tip: Tip, first_round: int) -> Standing | None:
        """Where a later start stands; None where what leads there is not to be had."""
        if first_round > evidence.last:
            raise UsageError(f"no record of round {first_round} is anchored; an audit cannot start there")
        while tip.round < first_round:
            read = await find_record(evidence, self._faults, tip.round)
            if read is None:
                return None
            with self._faults.noting(paths.record(tip.run_id, tip.round, read[1]), tip.round) as advanced:
                tip = ledger.advance(tip, *read)
            if not advanced.sound:
                return None
            await evidence.follow(tip)
            if tip.closed:
                raise UsageError(f"the run closed before round {first_round}")
        read = await find_record(evidence, self._faults, tip.round)
        if read is None:
            return None
        if read[0].checkpoint == ledger.NO_CHECKPOINT:
            raise UsageError(f"the record of round {first_round} pins no checkpoint; an audit cannot start there")
        found = await find_theta(evidence, self._faults, tip, read[0])
        return None if found is None else Standing(*found)


async def audit_run(
    run: str,
    first_round: int | None,
    progress: Progress,
    chain: str | None = None,
    allow: str = "",
    sampling: Sampling | None = None,
) -> AuditReport:
    """Audit a run by its folder or URL, changing nothing of it; `chain` and `allow` are the settings.

    With `sampling`, that many rows of the validators' files are measured again.

    Raises:
        MusterError: the run cannot be audited at all. What is wrong with it is in the report.
    """
    directory = await open_run(run, allow=allow)
    await fetch_text(directory, allow)
    client, buckets = directory.chain(chain, read_only=True), directory.buckets(allow=allow)
    try:
        return await Auditor(directory, client, buckets, progress).audit(first_round, sampling)
    finally:
        await client.close()
        await buckets.close()
