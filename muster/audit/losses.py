"""What validators say that they measured, measured again: a drawn sample of rows, while bundles last.

Nothing else shows a lie about a loss: everything that follows from it fits. θ of the round comes from the replay,
windows and submissions from the record, and the row's validator drew its windows by a beacon that the chain has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3

from muster.audit.evidence import Evidence
from muster.audit.report import AuditReport, Fault, FaultClass, FaultLog
from muster.audit.scores import ScoreFiles
from muster.node.data.dataset import TextReader
from muster.node.replica import Replica
from muster.protocol import paths, wire
from muster.protocol.errors import StorageError, WireError
from muster.protocol.incentive.row import ScoreRow
from muster.protocol.ledger import Applied, Tip
from muster.protocol.reasons import DECISIONS, LEADERS_WORD, PAYLOAD_REASONS
from muster.protocol.rules.sampling import sample
from muster.protocol.wire import ScoreFile, Seal
from muster.validator.gauntlet.again import Again, disagreement, mismatch, published_factor
from muster.validator.gauntlet.evaluation import own_beacon
from muster.validator.gauntlet.judging import Work, accepted_updates, late_updates, sent
from muster.validator.gauntlet.overlap import Earlier, Overlap, overlaps, proven


@dataclass(frozen=True, slots=True)
class Sampling:
    """How many rows are measured again, and what they are drawn by (None: the digest of the run's last record)."""

    count: int
    seed: str | None = None


class Losses:
    """Measures the drawn rows of each round as the replay comes by."""

    def __init__(
        self, evidence: Evidence, scores: ScoreFiles, text: TextReader, report: AuditReport, faults: FaultLog
    ) -> None:
        self._evidence = evidence
        self._scores = scores
        self._text = text
        self._report = report
        self._faults = faults
        self._drawn: dict[int, dict[str, set[str]]] = {}
        self._before: tuple[int, Sequence[Earlier]] | None = None

    async def draw(self, sampling: Sampling, first_round: int) -> None:
        """Choose the rows, by (round, validator), among those whose submission is in a bundle."""
        rows: list[tuple[int, str, str]] = []
        for round_ in range(first_round, self._evidence.last + 1):
            for hotkey in self._evidence.validators:
                for row in await self._rows(hotkey, round_):
                    if row.measured and row.accepted:
                        rows.append((round_, hotkey, row.hotkey))
        last = self._evidence.digest_of(self._evidence.last) or bytes(32)
        seed = last.hex() if sampling.seed is None else sampling.seed
        beacon = blake3(b"muster/audit/v1" + seed.encode()).digest()
        for place in sample(beacon, b"losses", len(rows), min(sampling.count, len(rows))):
            round_, hotkey, peer = rows[place]
            self._drawn.setdefault(round_, {}).setdefault(hotkey, set()).add(peer)
        self._report.seed = seed

    async def _rows(self, hotkey: str, round_: int) -> tuple[ScoreRow, ...]:
        """What a validator says of a round; nothing, where its file is not there or is none: the replay tells that."""
        judged = self._evidence.digest_of(round_)
        if judged is None:
            return ()
        try:
            return (await self._scores.read(hotkey, round_, judged))[0].rows
        except (StorageError, WireError):
            return ()

    async def check(self, tip: Tip, applied: Applied, seal: Seal, replica: Replica) -> None:
        """Measure what was drawn of a round, whose θ the replica holds; called for every round that is replayed."""
        seated = applied.record.seated  # late work is not measured, and comes after it
        entries = zip(seated, applied.updates[: len(seated)], strict=True)
        works = [Work(wire.decode_head(entry.head, tip.run_id), sent(update)) for entry, update in entries]
        beacon = await self._evidence.evaluation_beacon(tip.spec, seal)
        for hotkey, peers in sorted(self._drawn.pop(tip.round, {}).items()):
            file = self._scores.newest.get(hotkey)
            if beacon is None or file is None or file.round != tip.round:
                continue
            own = own_beacon(beacon, file.public)
            problems = await asyncio.to_thread(self._problems, tip, applied, works, own, replica, file, peers)
            for problem in problems:
                name = paths.scores(tip.run_id, tip.round, applied.digest)
                self._faults.add(Fault(FaultClass.SCORES, tip.round, name, problem, hotkey))
        self._before = tip.round, accepted_updates(applied)

    def _problems(
        self,
        tip: Tip,
        applied: Applied,
        works: list[Work],
        beacon: bytes,
        replica: Replica,
        file: ScoreFile,
        peers: set[str],
    ) -> list[str]:
        """What a validator says otherwise of these peers than is measured again, each with its peer."""
        seats = [work.signed.header.public for work in works]
        factors = {row.hotkey: published_factor(row) for row in file.rows if row.hotkey in peers}
        again = Again(tip, works, seats, beacon, self._text, factors)
        while again.go_on(replica):
            pass
        found = again.found
        compared = self._compared(tip, applied, works, beacon, file)
        problems = []
        for row in file.rows:
            if row.hotkey in found and row.measured:
                self._report.measured += 1
                wrong = disagreement(row, found[row.hotkey], tip.spec.gauntlet.loss_tolerance)
                wrong = wrong or (mismatch(row, compared[row.hotkey]) if compared else "")
                problems += [f"{row.hotkey}: {wrong}"] if wrong else []
        return problems

    def _compared(
        self, tip: Tip, applied: Applied, works: list[Work], beacon: bytes, file: ScoreFile
    ) -> dict[str, Overlap]:
        """What the accepted have in common with each other and with those before; nothing where others, whose work is
        in no bundle, were compared too, or where those before are not known."""
        beside = DECISIONS | (LEADERS_WORD - PAYLOAD_REASONS)  # of these a validator may have read the payload itself
        compared = sum(not entry.reason or entry.reason in beside for entry in applied.record.sealed)
        updates = {work.hotkey: work.update for work in works}
        before: Sequence[Earlier] | None = () if tip.round == 0 else None
        if self._before is not None and self._before[0] == tip.round - 1:
            before = self._before[1]
        if all(row.copy_of is None for row in file.rows):
            before = ()  # a validator that has lost what the round before applied compares nobody with it
        if before is None or compared != len(works):
            return {}
        states = self._scores.before.get(file.hotkey)
        if states is None:
            return {}
        spec, windows = tip.spec.gauntlet, {work.hotkey: work.signed.header.windows for work in works}
        before = (*before, *late_updates(applied))
        return overlaps(beacon, updates, before, proven(windows, states, spec), states, spec)

    def tell(self) -> None:
        """What was drawn and could not be measured."""
        left = sum(len(peers) for by_validator in self._drawn.values() for peers in by_validator.values())
        if left:
            rounds = ", ".join(map(str, sorted(self._drawn)))
            self._faults.remark(
                None, None, f"{left} drawn rows were not measured again: θ of round {rounds} is not known"
            )
