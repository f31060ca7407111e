"""A miner's round outside training: all it does from the round's opening to the next but the inner steps themselves.

θ into the working copy, Δ, compression, encoding, encryption, the head with its proof of possession, what must
survive a crash made durable, submission and key put into the bucket; in 5c6907b also what it did when the record came.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from daemons.mining import Mining, lay_out
from daemons.units import cpu_seconds, memcpy_seconds


def prepare(millions: float, folder: Path) -> Callable[[], dict[str, float]]:
    """A miner that has joined; each call is one round of it."""
    mining = Mining(lay_out(millions, folder))

    def work() -> dict[str, float]:
        trained = mining.steps
        seconds = cpu_seconds(mining.round) - (mining.steps - trained)
        return {"miner_round": seconds / memcpy_seconds(mining.theta)}

    return work
