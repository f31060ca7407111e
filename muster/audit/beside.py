"""What aggregators anchored or signed beside the run: it harms nobody who goes by the rules, and says who lied.

One record a round is of the run. Another one may be by another leader, of a later turn, and honest; two of one turn and
after one parent are not, nor are two seals.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from muster.audit.evidence import Evidence
from muster.audit.report import FaultLog
from muster.node.ledger.objects import MAX_SEAL_BYTES
from muster.node.ledger.siblings import listing, read_named
from muster.node.telemetry.words import SHORT
from muster.protocol import paths, wire
from muster.protocol.errors import ObjectDamaged, ObjectMissing, ObjectTooLarge, StorageError, WireError
from muster.protocol.identity import hotkey_of
from muster.protocol.ledger import Tip
from muster.protocol.storage import Store
from muster.protocol.wire import Record, Seal

Signed = tuple[Record | Seal, bytes]
"""What a leader signed, and its digest."""


class Beside:
    """Tells it, round after round. A bucket that does not answer is asked once."""

    def __init__(self, evidence: Evidence, faults: FaultLog) -> None:
        self._evidence = evidence
        self._faults = faults

    async def tell(self, tip: Tip, record: Record, digest: bytes, seal: Seal | None) -> None:
        """What there is beside a record of the run, which has this digest, and beside its seal.

        Any tip of the run says what model it is of.
        """
        run_id, round_ = record.run_id, record.round
        for hotkey, anchored in self._evidence.anchored(round_):
            if anchored != digest:
                self._say(round_, hotkey, f"it anchored the record {anchored.hex()[:SHORT]}, which is not of the run")
        own = paths.record(run_id, round_, digest)
        for other, named in await self._others(paths.records(run_id, round_), own, partial(read_named, tip)):
            if isinstance(other, Record) and _by_one(other, record):
                said = f"it signed two records in turn {record.turn}: {named.hex()[:SHORT]} is not of the run"
                self._say(round_, hotkey_of(record.leader), said)
        if seal is None:
            return
        own = paths.seal(run_id, round_, record.seal)
        for other, named in await self._others(paths.seals(run_id, round_), own, partial(_read_seal, run_id)):
            if isinstance(other, Seal) and _by_one(other, seal):
                said = f"it signed two seals in turn {seal.turn}: {named.hex()[:SHORT]} is not of the run"
                self._say(round_, hotkey_of(seal.leader), said)

    def _say(self, round_: int, hotkey: str, said: str) -> None:
        self._faults.remark(round_, hotkey, said)

    async def _others(self, prefix: str, own: str, read: Callable[[str, Store], Awaitable[Signed]]) -> list[Signed]:
        """What there is under a prefix but the run's own; what cannot be read says nothing."""
        found: list[Signed] = []
        conduct = self._evidence.conduct
        listed, _ = await listing(self._evidence.stores, prefix, conduct)
        for key, places in listed.items():
            if key != own:
                try:
                    found.append(await places.read(partial(read, key)))
                except (ObjectDamaged, ObjectMissing, ObjectTooLarge):
                    continue
                except StorageError as problem:
                    for store in places.stores:
                        conduct.miss(store, str(problem))
        return found


def _by_one(one: Record | Seal, other: Record | Seal) -> bool:
    """Whether two things of one round were signed by one leader, in one turn and after one parent."""
    return (one.leader, one.turn, one.parent) == (other.leader, other.turn, other.parent)


async def _read_seal(run_id: bytes, key: str, store: Store) -> tuple[Seal, bytes]:
    """The seal that lies under a name, and its digest; raises as `read_named` does."""
    data = await store.get(key, max_bytes=MAX_SEAL_BYTES)
    try:
        seal, digest = wire.decode_seal(data, run_id)
    except WireError as error:
        raise ObjectDamaged(f"{key} is not readable: {error}") from error
    if key != paths.seal(run_id, seal.round, digest):
        raise ObjectDamaged(f"{key} is another seal than its name says")
    return seal, digest
