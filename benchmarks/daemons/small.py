"""What a missed round of `tiny` costs whoever catches up: small models must not be slow because they are small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from daemons.closed_round import clocked, closed_round, follow

PEERS = 4


def prepare(millions: float, folder: Path) -> Callable[[], dict[str, float]]:  # noqa: ARG001 - always tiny's size
    """A closed round of `tiny`, whatever size is asked for; a turn is one follower that takes it in."""
    crowd = closed_round(folder, PEERS, gauntlet={"score_wait": 0})
    parts: dict[str, float] = {}
    clocked(parts)

    def turn() -> dict[str, float]:
        found = follow(crowd, parts)
        return {
            "apply": found.parts["aggregate"] / found.memcpy,
            "round_ms": found.round * 1e3,
            "memcpy_us": found.memcpy * 1e6,
        } | {f"{name}_ms": seconds * 1e3 for name, seconds in found.parts.items()}

    return turn
