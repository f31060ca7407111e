"""When a validator's weights are due on Bittensor: once an epoch, and only when the chain will take them."""

from __future__ import annotations

from dataclasses import dataclass

EPOCH_END = 10
"""Last blocks of an epoch in which nothing is set: a late extrinsic would count for the wrong epoch."""

END_SHARE = 4
"""... but never more than a quarter of the epoch, for the short epochs of development chains."""


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """What the chain says at `block`.

    `updated` is the block of the validator's last weights (None: it never set any), `epoch` the block of the last
    epoch, `tempo` and `rate_limit` are in blocks.
    """

    block: int
    updated: int | None
    epoch: int
    tempo: int
    rate_limit: int


def due(facts: WeightFacts) -> int:
    """The first block from `facts.block` on in which weights are due; `facts.block` itself if they are due now."""
    earliest = facts.block
    if facts.updated is not None:
        earliest = max(earliest, facts.updated + facts.rate_limit)
        if facts.updated >= facts.epoch:
            # This epoch has them already; what is set now would only replace them.
            earliest = max(earliest, facts.epoch + facts.tempo + 1)
    quiet = min(EPOCH_END, facts.tempo // END_SHARE)
    ends = facts.epoch + facts.tempo
    while ends < earliest:
        ends += facts.tempo + 1
    return ends + 1 if earliest > ends - quiet else earliest
