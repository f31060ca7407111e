"""What a follower pays for a round with 20 updates: the part of everybody's cost that grows with the crowd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from daemons.closed_round import clocked, closed_round, follow

PEERS = 20
"""Updates of a round, as the 72B run had at most."""
WIDTHS = {8.0: 512, 0.0: 128}
"""Hidden width of models from so many millions of parameters on."""


def model_of(millions: float) -> dict[str, int]:
    """A decoder of about so many million parameters, its vocabulary eight times as large as it is wide."""
    hidden = next(width for least, width in WIDTHS.items() if millions >= least)
    ffn, vocab = hidden * 11 // 4, hidden * 8
    layer = 4 * hidden**2 + 3 * hidden * ffn
    layers = max(1, round((millions * 1e6 - vocab * hidden) / layer))
    heads = hidden // 64
    return {
        "vocab": vocab, "hidden": hidden, "layers": layers, "heads": heads, "kv_heads": heads, "head_dim": 64,
        "ffn": ffn, "context": 32,
    }  # fmt: skip


def prepare(millions: float, folder: Path) -> Callable[[], dict[str, float]]:
    """A closed round of `PEERS` peers; a turn is one follower that takes it in."""
    gauntlet = {"seats": PEERS, "score_wait": 0}
    data = {"window": 32, "slots": 32}
    inner = {"steps": 1, "batch": 2}
    crowd = closed_round(folder, PEERS, model=model_of(millions), gauntlet=gauntlet, data=data, inner=inner)
    parts: dict[str, float] = {}
    clocked(parts)

    def turn() -> dict[str, float]:
        found = follow(crowd, parts)
        return {
            "round": found.round / found.memcpy,
            "weighing": found.parts["weigh"] / found.parts["aggregate"],
            "decode_ms": found.parts["decode"] / PEERS * 1e3,
            "aggregate": found.parts["aggregate"] / found.memcpy,
        }

    return turn
