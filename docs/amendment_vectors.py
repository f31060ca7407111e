"""Vectors of amendments that validators make together: the signatures, and how many of them are enough."""

from __future__ import annotations

from typing import Any

from blake3 import blake3
from example_run import Run

from muster.protocol import wire
from muster.protocol.rules.majority import carried_by
from muster.protocol.wire import ScoresUsed


def cosigned(run: Run) -> bytes:
    """What alice wishes, signed by bob and carol as well."""
    data = wire.encode_amendment(run.miners[0], run.run_id, 2, 5, "sparse.k", "32")
    for one in run.miners[1:]:
        data = wire.cosign_amendment(one, run.run_id, data)
    return data


SILENCED = 4
STAKES = (1, 1, 1, 4, None, None)
"""By validator; of the fifth, who is silenced, and the sixth the record uses no scores."""

SIGNERS = ((0,), (3,), (0, 3), (0, 1, 2), (0, 1, 3), (0, 3, 5), (1, 2, 5), (0, 3, 4), (0, 1, 2, 3, 4, 5))


def majority() -> dict[str, Any]:
    """Which of six validators carry an amendment."""
    keys = [blake3(bytes((i,))).digest() for i in range(len(STAKES))]
    scores = [ScoresUsed(key, stake, 0, bytes(32), ()) for key, stake in zip(keys, STAKES, strict=True) if stake]
    carried = carried_by(frozenset(keys) - {keys[SILENCED]}, scores)
    return {
        "stakes": list(STAKES),
        "silenced": [SILENCED],
        "signers": [list(each) for each in SIGNERS],
        "carried": [carried(frozenset(keys[i] for i in each)) for each in SIGNERS],
    }
