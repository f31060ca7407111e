"""Miners gone bad at named seams: what a run must survive, ready to be added to any testnet or simulation."""

from __future__ import annotations

from muster.adversaries.miners import ADVERSARIES
from muster.cast import HONEST
from node.miner.miner import Miner
from protocol.errors import UsageError


def miner_class(behaviour: str) -> type[Miner]:
    """The miner that behaves like this.

    Raises:
        UsageError: there is no such behaviour.
    """
    if behaviour == HONEST:
        return Miner
    if behaviour not in ADVERSARIES:
        raise UsageError(f"unknown adversary {behaviour!r}; there are: {', '.join(sorted(ADVERSARIES))}")
    return ADVERSARIES[behaviour]


__all__ = ["ADVERSARIES", "miner_class"]
