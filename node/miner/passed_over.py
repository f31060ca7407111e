"""Whether a leader passed over work that was there in time: told to its maker, who alone knows since when it was there.

It is nobody's proof: others cannot know when an object came into a bucket. Pay does not follow from it either way
(docs/threat-model.md, "The leader"). But a miner that sees it round after round, by one leader, can say whose word
stands against its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from muster.node.miner.state import Made
from muster.protocol.ledger import RESCUE, Applied
from muster.protocol.reasons import KEY_MISSING, LATE, UNAVAILABLE
from muster.protocol.wire import Kind

NOT_HAD = frozenset((KEY_MISSING, UNAVAILABLE, LATE))
"""What a record says of work whose bytes its leader did not have."""

BETWEEN = 2
"""Blocks within which an honest leader may not have looked at heads again before it sealed."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A submission, and the blocks by which its bucket had taken head and payload, and the key; None for not yet."""

    made: Made
    sent: int | None = None
    key: int | None = None


def passed_over(shown: Shown, public: bytes, applied: Applied) -> str:
    """What a record says against what this hotkey had shown for its round; "" where that is no contradiction."""
    record, made = applied.record, shown.made
    if record.kind is Kind.CLOSE or record.turn == RESCUE or (made.round, made.parent) != (record.round, record.parent):
        return ""
    entry = next((one for one in record.sealed if one.public == public), None)
    if entry is None:
        if shown.sent is None or applied.sealed.number < shown.sent + BETWEEN:
            return ""
        return f"it had sent by block {shown.sent}, and the seal of block {applied.sealed.number} does not list it"
    if entry.reason not in NOT_HAD or record.opening is None or shown.key is None or shown.sent is None:
        return ""
    there, made_at = max(shown.sent, shown.key), record.opening.open.number
    if made_at <= there:
        return ""
    return f"submission and key were there by block {there}, and the record of block {made_at} says {entry.reason}"
