"""The validators' files: what a record used of them, and what else they published.

No fault of a file harms the ledger: a record carries the numbers it used, and θ follows from the record. Only where the
very file that a record names says otherwise than the record does, it is the record that is wrong.
"""

from __future__ import annotations

from muster.audit.evidence import Evidence
from muster.audit.report import FaultClass, FaultLog
from muster.protocol import paths
from muster.protocol.errors import LedgerError, ObjectMissing
from muster.protocol.identity import hotkey_of
from muster.protocol.storage import Buckets
from muster.protocol.wire import Record, ScoreFile, decode_scores, max_scores_bytes, scores_used


class ScoreFiles:
    """Checks the files of one run's validators."""

    def __init__(self, evidence: Evidence, buckets: Buckets, faults: FaultLog) -> None:
        self._run_id = evidence.run_id
        self._max_bytes = max_scores_bytes(evidence.slots)
        self._evidence = evidence
        self._buckets = buckets
        self._faults = faults

    async def check_used(self, record: Record, digest: bytes, remembered: frozenset[bytes]) -> None:
        """The scores a record, which has this digest, used are the ones their validators signed.

        Rows of peers that are not `remembered` (`Tip.remembered`) may be left out: who was registered when the record
        was made, its leader alone has seen.
        """
        own_name = paths.record(self._run_id, record.round, digest)
        for taken in record.scores:
            judged = self._evidence.digest_of(taken.round)
            if judged is None:
                continue  # which file it is, lost records would say: each of them is a fault of its own
            hotkey, name = hotkey_of(taken.validator), paths.scores(self._run_id, taken.round, judged)
            with self._faults.noting(name, taken.round, FaultClass.SCORES, hotkey):
                file, found = await self._read(hotkey, taken.round, name)
                if found != taken.digest:
                    raise LedgerError(f"the record of round {record.round} used other scores than these")
                with self._faults.noting(own_name, record.round):
                    known = remembered | {row.public for row in taken.rows}
                    if scores_used(file, found, taken.stake, known) != taken:
                        raise LedgerError(f"it misquotes the scores of {hotkey} that it names")

    async def check_published(self, round_: int, digest: bytes) -> None:
        """What validators published of a round's record, which has `digest`, is theirs and of that very record.

        What they may have published of siblings of it has other names, and is of no ledger.
        """
        name = paths.scores(self._run_id, round_, digest)
        for hotkey in self._evidence.validators:
            with self._faults.noting(name, round_, FaultClass.SCORES, hotkey):
                try:
                    file, _ = await self._read(hotkey, round_, name)
                except ObjectMissing:
                    continue  # a validator may be away; only what was used has to be there
                if file.record != digest:
                    raise LedgerError("it judges another record than the one anchored on chain")

    async def _read(self, hotkey: str, round_: int, name: str) -> tuple[ScoreFile, bytes]:
        peer = self._evidence.peers.get(hotkey)
        if peer is None or peer.location is None:
            raise ObjectMissing("the validator has committed no bucket")
        store = self._buckets.bucket(peer.location)
        data = await store.get(name, max_bytes=self._max_bytes)
        return decode_scores(data, self._run_id, hotkey, round_)
