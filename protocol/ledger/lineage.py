"""From the newest anchor back to the open round: a chain may show only a leader's last anchor, and that is enough.

Every record names its parent's digest. So an anchor proves the record it names, that record proves the one before
it, and so on: whoever is rounds behind reads the records backwards and knows each one's digest before it applies it.
"""

from __future__ import annotations

from muster.protocol.errors import LedgerError
from muster.protocol.types import Anchor
from muster.protocol.wire import Record


class Lineage:
    """What records that have been read say of their parents; nothing unproven is ever in it.

    It holds 40 bytes per record that was read and is not forgotten, each of them an object that a leader published.
    """

    def __init__(self) -> None:
        self._parents: dict[tuple[int, bytes], bytes] = {}
        self._turns: dict[tuple[int, bytes], int] = {}

    def parent(self, at: Anchor) -> bytes | None:
        """The digest of the record before one that has been read."""
        return self._parents.get((at.round, at.digest))

    def turns(self, round_: int) -> dict[bytes, int]:
        """In whose turn the records of a round were made, of those that have been read."""
        return {digest: turn for (of, digest), turn in self._turns.items() if of == round_}

    def trace(self, anchor: Anchor, round_: int) -> Anchor:
        """The oldest record from `round_` on that is known to lead to `anchor`.

        If that is of a later round, reading it (see `take`) is the next step back; if it is of `round_`, that
        record is proven.
        """
        assert round_ <= anchor.round
        at = anchor
        while at.round > round_ and (at.round, at.digest) in self._parents:
            at = Anchor(at.round - 1, self._parents[at.round, at.digest])
        return at

    def between(self, anchor: Anchor, first: int, last: int) -> list[Anchor]:
        """The records of the rounds `first` … `last` that are known to lead to `anchor`, newest first."""
        found, at = [], anchor
        while at.round >= first:
            if at.round <= last:
                found.append(at)
            parent = self._parents.get((at.round, at.digest))
            if parent is None:
                break
            at = Anchor(at.round - 1, parent)
        return found

    def take(self, at: Anchor, record: Record, digest: bytes) -> None:
        """Learn the parent of a record that `trace` asked for; `digest` is of the bytes that were read.

        Raises:
            LedgerError: it is another record.
        """
        if digest != at.digest or record.round != at.round:
            raise LedgerError(f"the record of round {at.round} is not the one that the newest anchor leads back to")
        self._parents[at.round, at.digest] = record.parent
        self._turns[at.round, at.digest] = record.turn

    def forget(self, round_: int) -> None:
        """Drop what the records before `round_` say; `trace` goes back to the round before it and no further."""
        self._parents = {at: parent for at, parent in self._parents.items() if at[0] >= round_}
        self._turns = {at: turn for at, turn in self._turns.items() if at[0] >= round_}
