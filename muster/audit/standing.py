"""Where the audit stands between two records: what it can judge the next one by, also after a fault.

Before the first fault that is all of it: the tip by the rules, and θ. A record that cannot be replayed costs θ until a
later one pins a checkpoint. A record that is lost also costs the opening of the round after it: from then on openings
are taken at their word, until as many records have been read as the rules look back on.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from muster.node.replica import Replica
from muster.protocol import ledger
from muster.protocol.errors import LedgerError
from muster.protocol.ledger import Applied, Tip
from muster.protocol.rules.attendance import MEMORY, attendance
from muster.protocol.rules.late import still_open
from muster.protocol.wire import Kind, Record


class Standing:
    """`tip` judges the next record, None after a lost one; `replica` holds θ, None where it is not known."""

    def __init__(self, tip: Tip, replica: Replica | None) -> None:
        self.tip: Tip | None = tip
        self.replica = replica
        self._newest = tip
        self._doubtful = 0

    @property
    def by_the_rules(self) -> bool:
        """Whether everything is known that the next opening follows from."""
        return self.tip is not None and not self._doubtful

    def apply(self, applied: Applied, tip: Tip) -> None:
        """A verified record was applied to the replica by the caller; `tip` is the one it was judged by."""
        assert self.replica is not None
        self.replica.step(applied, tip.spec)
        self._set(applied.tip)

    def pass_by(self, record: Record, digest: bytes) -> None:
        """The anchored record of the round could not be replayed.

        Raises:
            LedgerError: by the rules it does not even continue the ledger. Its word is taken nevertheless.
        """
        self.replica = None
        if self.tip is None or self._doubtful:
            self._adopt(record, digest)
            return
        try:
            self._set(ledger.advance(self.tip, record, digest))
        except LedgerError:
            self._adopt(record, digest)
            raise

    def lose(self) -> None:
        """The record of the round is not to be had: nothing is known of the next opening."""
        self.tip = self.replica = None
        self._doubtful = MEMORY

    def _adopt(self, record: Record, digest: bytes) -> None:
        """Take the record's word for where the ledger stands after it."""
        past = (*self._newest.past, attendance(record))[-MEMORY:]
        step = record.outer_step + (record.kind is Kind.ROUND)
        tip = replace(self._newest, parent=digest, past=past, outer_step=step, author=record.leader)
        if record.opening is None:
            self._set(replace(tip, closed=True))
            return
        with suppress(LedgerError):  # it may build on one that was lost; then the next line finds another spec
            tip = replace(tip, history=ledger.adopt_amendments(tip, record))
        with suppress(LedgerError):  # whose stake stood behind disputes is the record's own word
            tip = ledger.adopt_proofs(tip, record)
        with suppress(LedgerError):  # of a head that is none nothing is left open
            tip = replace(tip, late=still_open(tip.late, record, tip.history))
        known = ledger.spec_digest(tip.history.at(record.opening.round)) == record.opening.spec_digest
        self._doubtful = max(0, self._doubtful - 1) if known else MEMORY
        self._set(replace(tip, opening=record.opening))

    def _set(self, tip: Tip) -> None:
        self.tip = self._newest = tip
