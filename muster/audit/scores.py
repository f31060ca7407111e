"""The validators' files: what a record used of them, what follows from them, and the weights that do.

No fault of a file harms the ledger: a record carries the numbers it used, and θ follows from the record. Only where the
very file that a record names says otherwise than the record does, it is the record that is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from muster.audit.evidence import Evidence
from muster.audit.report import AuditReport, Fault, FaultClass, FaultLog
from muster.audit.sheets import Sheet, by_the_record, follows, pays
from muster.audit.struck import tell_struck
from muster.history.status import printable
from muster.node.ledger.seals import MAX_SIBLINGS
from muster.protocol import paths
from muster.protocol.errors import LedgerError, ObjectMissing, StorageError, WireError
from muster.protocol.identity import hotkey_of
from muster.protocol.incentive.row import PeerState
from muster.protocol.incentive.sheet import state_of
from muster.protocol.spec import RunSpec
from muster.protocol.wire import (
    MAX_DISPUTE_BYTES,
    Record,
    ScoreFile,
    Seal,
    decode_dispute,
    decode_scores,
    max_scores_bytes,
    scores_used,
)
from muster.validator.gauntlet.evaluation import own_beacon


class ScoreFiles:
    """Checks the files of one run's validators, round after round."""

    def __init__(self, evidence: Evidence, report: AuditReport, faults: FaultLog) -> None:
        self._run_id = evidence.run_id
        self._max_bytes = max_scores_bytes(evidence.slots)
        self._evidence = evidence
        self._report = report
        self._faults = faults
        self._applied: tuple[int, frozenset[str]] | None = None
        self.newest: dict[str, ScoreFile] = {}
        """Each validator's newest file so far that is one."""
        self.before: dict[str, Mapping[str, PeerState] | None] = {}
        """What each validator's newest file goes on from, None where that is not known."""

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
                file, found = await self.read(hotkey, taken.round, judged)
                if found != taken.digest:
                    raise LedgerError(f"the record of round {record.round} used other scores than these")
                with self._faults.noting(own_name, record.round):
                    known = remembered | {row.public for row in taken.rows}
                    if scores_used(file, found, taken.stake, known) != taken:
                        raise LedgerError(f"it misquotes the scores of {hotkey} that it names")

    async def check_published(self, record: Record, digest: bytes, spec: RunSpec | None, seal: Seal | None) -> None:
        """What validators published of a record, which has `digest`, is theirs, of that very record, and follows.

        What they may have published of siblings of it has other names, and is of no ledger. Without the round's spec
        and seal, which lost objects would give, nothing is computed again.
        """
        round_ = record.round
        self._tell_silenced(record)
        tell_struck(record, self._faults)
        beacon = None if spec is None or seal is None else await self._evidence.evaluation_beacon(spec, seal)
        for hotkey in self._evidence.validators:
            await self._tell_disputes(hotkey, round_)
            name = paths.scores(self._run_id, round_, digest)
            with self._faults.noting(name, round_, FaultClass.SCORES, hotkey):
                try:
                    file, _ = await self.read(hotkey, round_, digest)
                except ObjectMissing:
                    continue  # a validator may be away; only what was used has to be there
                if file.record != digest:
                    raise LedgerError("it judges another record than the one anchored on chain")
                before = await self._before(hotkey, round_)
                self.newest[hotkey] = file
                if spec is None or beacon is None:
                    self._faults.remark(round_, hotkey, "its scores were not computed again: the round is not known")
                    continue
                slots = self._slots(file, before)
                goes_on = round_ == 0 or (before is not None and before.round == round_ - 1)
                self.before[hotkey] = states_of(before) if goes_on else None
                drawn_by = own_beacon(beacon, file.public)
                sheet = Sheet(file, record, drawn_by, spec, self._of_before(record), slots, self.before[hotkey])
                self._tell(name, sheet, before)
        self._applied = round_, frozenset(hotkey_of(entry.public) for entry in record.accepted)

    def _tell_silenced(self, record: Record) -> None:
        """Whose scores do not count from the next record on, by disputes that this one carries."""
        by: dict[bytes, int] = {}
        for data in record.proofs:
            with suppress(WireError):  # a record with such a proof is not valid, which is told of it
                accused = decode_dispute(data, self._run_id)[0].validator
                by[accused] = by.get(accused, 0) + 1
        for accused, count in by.items():
            said = f"its record silences the validator {hotkey_of(accused)}, by disputes of {count} others"
            self._faults.remark(record.round, None, said)

    async def _tell_disputes(self, hotkey: str, round_: int) -> None:
        """What a validator says of others' files of a round; what is none says nothing."""
        validators = self._evidence.validators
        with suppress(StorageError, WireError):
            store = self._evidence.bucket_of(hotkey)
            for info in await store.list(paths.disputes(self._run_id, round_), limit=len(validators)):
                dispute, _ = decode_dispute(await store.get(info.key, max_bytes=MAX_DISPUTE_BYTES), self._run_id)
                accused, peer = hotkey_of(dispute.validator), hotkey_of(dispute.peer)
                if hotkey_of(dispute.signer) == hotkey and accused in validators:
                    said = f"it disputes the file of {accused}, for {peer}: {printable(dispute.sentence)}"
                    self._faults.remark(round_, hotkey, said)

    def _of_before(self, record: Record) -> frozenset[str] | None:
        """Whose work the record before this one applied, or this one took in late, as far as that is known."""
        late = frozenset(hotkey_of(entry.public) for entry in record.late)
        if record.round == 0:
            return late
        return self._applied[1] | late if self._applied is not None and self._applied[0] == record.round - 1 else None

    async def _before(self, hotkey: str, round_: int) -> ScoreFile | None:
        """The newest file of a validator before a round's; the first one asked for is looked up."""
        known = self.newest.get(hotkey)
        judged = self._evidence.digest_of(round_ - 1)
        if known is not None or judged is None:
            return known
        try:
            file, _ = await self.read(hotkey, round_ - 1, judged)
        except (StorageError, WireError):
            return None
        return file if file.record == judged else None

    def _slots(self, file: ScoreFile, before: ScoreFile | None) -> dict[str, frozenset[int]]:
        """The slots that the peers of a file have had, as far as that can be seen."""
        now = {hotkey: peer.uid for hotkey, peer in self._evidence.peers.items()}
        then = {row.hotkey: row.uid for row in before.rows} if before else {}
        hotkeys = [row.hotkey for row in file.rows]
        return {hotkey: frozenset(slots[hotkey] for slots in (now, then) if hotkey in slots) for hotkey in hotkeys}

    def _tell(self, name: str, sheet: Sheet, before: ScoreFile | None) -> None:
        """The faults of a file, each with its peer and column."""
        file = sheet.file
        problems: list[str] = []
        try:
            problems = by_the_record(sheet)
            wrong = self._differences(sheet, before)
        except (ValueError, ArithmeticError) as error:
            wrong = [] if problems else [f"nothing follows from it: {error}"]
        if wrong:
            problems.append(wrong[0] + (f" (and {len(wrong) - 1} more rows differ)" if len(wrong) > 1 else ""))
        for problem in problems:
            self._faults.add(Fault(FaultClass.SCORES, file.round, name, problem, file.hotkey))
        self._report.sheets += 1

    def _differences(self, sheet: Sheet, before: ScoreFile | None) -> list[str]:
        """What does not follow from the standings before; without them, from those that the file itself has."""
        round_, hotkey = sheet.file.round, sheet.file.hotkey
        if round_ == 0 or (before is not None and before.round == round_ - 1):
            return follows(sheet, states_of(before))
        if before is not None and not follows(sheet, states_of(before)):
            said = f"it has no file of round {round_ - 1}; its standings go on from its file of round {before.round}"
        elif not follows(sheet, {}):
            said = f"it has no file of round {round_ - 1}; its standings begin anew"
        else:
            said = f"it has no file of round {round_ - 1}; its standings after round {round_} are taken at its word"
            self._faults.remark(round_, hotkey, said)
            return pays(sheet)
        self._faults.remark(round_, hotkey, said)
        return []

    async def read(self, hotkey: str, round_: int, record: bytes) -> tuple[ScoreFile, bytes]:
        """What a validator's bucket has of a round's record, which has this digest, and the file's own digest.

        Raises:
            StorageError: it is not there or cannot be read.
            WireError: it is no score file of that validator and round.
        """
        data = await self._evidence.bucket_of(hotkey).get(
            paths.scores(self._run_id, round_, record), max_bytes=self._max_bytes
        )
        return decode_scores(data, self._run_id, hotkey, round_)

    async def all_of(self, hotkey: str, round_: int) -> list[ScoreFile]:
        """Whatever a validator's bucket says of a round's records, siblings among them; what is no file is left out."""
        found = []
        with suppress(StorageError):
            store = self._evidence.bucket_of(hotkey)
            for info in await store.list(paths.score_files(self._run_id, round_), limit=MAX_SIBLINGS):
                with suppress(StorageError, WireError):
                    data = await store.get(info.key, max_bytes=self._max_bytes)
                    found.append(decode_scores(data, self._run_id, hotkey, round_)[0])
        return found


def states_of(file: ScoreFile | None) -> Mapping[str, PeerState]:
    """The standings after a file's round, by hotkey; nobody has one before the first."""
    return {} if file is None else {row.hotkey: state_of(row) for row in file.rows}
