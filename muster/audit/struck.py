"""Who was struck from the list of leaders, as the records that carry the proofs have it."""

from __future__ import annotations

from muster.audit.report import FaultLog
from muster.node.telemetry.words import SHORT
from muster.protocol.errors import LedgerError, WireError
from muster.protocol.identity import hotkey_of
from muster.protocol.rules.equivocation import parted
from muster.protocol.wire import Record, decode_equivocation


def tell_struck(record: Record, faults: FaultLog) -> None:
    """Say whom a record strikes, and for what; a record with a proof that shows nothing is not valid, which is told of
    it."""
    try:
        shown = [decode_equivocation(data, record.run_id)[0] for data in parted(record.proofs)[0]]
    except (LedgerError, WireError):
        return
    for one in shown:
        once, (first, second) = one.once, (digest.hex()[:SHORT] for digest in one.digests)
        what = f"{first} and {second}, two {once.type.name.lower()}s in turn {once.turn}"
        said = f"it signed {what}: the proof is in the record of round {record.round}, and it is on the list no more"
        faults.remark(once.round, hotkey_of(once.signer), said)
