"""What need not be there any more: aggregators let go of bundles and checkpoints that are older than two checkpoints.

They do so from the oldest on. So what is missing is no fault of the run where nothing older is there either; that the
round cannot be replayed is said all the same. A gap is a fault, and so is whatever is missing from there on.
"""

from __future__ import annotations

from muster.audit.evidence import Evidence
from muster.audit.report import FaultLog
from muster.node.ledger.catch_up import read_pinned
from muster.protocol import ledger, paths
from muster.protocol.errors import LedgerError, StorageError
from muster.validator.aggregator.retention import KEPT_CHECKPOINTS

MAX_LISTED = 10_000
"""Objects of checkpoints that are looked at in a bucket."""


class Kept:
    """Tells the one from the other, and at the end what was no longer kept."""

    def __init__(self, evidence: Evidence, faults: FaultLog) -> None:
        self._evidence = evidence
        self._faults = faults
        self._first: int | None = None
        self._begin: int | None = None
        self._gone: set[int] = set()

    async def may_lack_bundle(self, round_: int) -> bool:
        """Whether nobody has to have the bundle of this round, which is missing."""
        return await self._may_lack(round_, round_)

    async def may_lack_checkpoint(self, round_: int) -> bool:
        """Whether nobody has to have the checkpoint of this round, which is missing: it goes before the bundle does."""
        return await self._may_lack(round_, round_ - 1)

    async def _may_lack(self, round_: int, before: int) -> bool:
        if self._first is None:
            self._first, self._begin = await self._oldest(), await self._oldest_bundle()
        if round_ >= self._first or (self._begin is not None and before >= self._begin):
            return False
        self._gone.add(round_)
        return True

    async def _oldest_bundle(self) -> int | None:
        """The round of the oldest bundle in any bucket; None where no bucket shows one."""
        prefix, rounds = paths.bundles(self._evidence.run_id), list[int]()
        for store in self._evidence.stores:
            try:
                listed = await store.list(prefix, limit=1)
            except StorageError as problem:
                self._evidence.conduct.blame(store, str(problem))
                continue
            numbers = [info.key.removeprefix(prefix).partition("-")[0] for info in listed]
            rounds += [int(number) for number in numbers if number.isdecimal()]
        return min(rounds, default=None)

    async def _oldest(self) -> int:
        """The round of the second newest checkpoint that a record pins and a bucket has; genesis is one, too."""
        found: list[int] = []
        for round_ in sorted(await self._shown(), reverse=True):
            if await self._pinned(round_):
                found.append(round_)
                if len(found) == KEPT_CHECKPOINTS:
                    return found[-1]
        return 0

    async def _shown(self) -> set[int]:
        """The rounds of which a bucket has a checkpoint's manifest; a bucket that does not say shows none."""
        prefix, rounds = paths.checkpoints(self._evidence.run_id), set[int]()
        for store in self._evidence.stores:
            try:
                listed = await store.list(prefix, limit=MAX_LISTED)
            except StorageError as problem:
                self._evidence.conduct.blame(store, str(problem))
                continue
            names = [info.key.removeprefix(prefix).split("/") for info in listed]
            rounds |= {int(number) for number, *name in names if name == [paths.MANIFEST] and number.isdecimal()}
        return {round_ for round_ in rounds if round_ <= self._evidence.last}

    async def _pinned(self, round_: int) -> bool:
        """Whether the round's record pins that very checkpoint."""
        try:
            record, _ = await self._evidence.record(round_)
            if record.checkpoint == ledger.NO_CHECKPOINT:
                return False
            await read_pinned(self._evidence.places, self._evidence.tip, record)
        except (StorageError, LedgerError):
            return False
        return True

    def tell(self) -> None:
        """Say which rounds were passed by for that, once."""
        if not self._gone:
            return
        rounds = sorted(self._gone)
        which = f"round {rounds[0]}" if len(rounds) == 1 else f"{len(rounds)} rounds from {rounds[0]} to {rounds[-1]}"
        said = (
            f"of {which} the bundles or checkpoints are no longer kept, as may be: aggregators keep those from the "
            f"second newest checkpoint on, that of round {self._first}. These rounds are not replayed, and θ is taken "
            "from the next checkpoint that a record pins"
        )
        self._faults.remark(None, None, said)
