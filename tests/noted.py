"""What tests ask of a journal that was kept in memory."""

from __future__ import annotations

from muster.node.telemetry.events import RoundEvent
from muster.node.telemetry.journal import Journal


def rounds(journal: Journal, name: str) -> list[int]:
    """The rounds of the events of that name, in the order they were noted."""
    found = [noted.event for noted in journal.noted if noted.event.name == name]
    return [event.round for event in found if isinstance(event, RoundEvent)]
