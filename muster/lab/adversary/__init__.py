"""Miners gone bad at named seams: what a run must survive, ready to be added to any testnet or simulation."""

from __future__ import annotations

from muster.lab.adversary.miners import ADVERSARIES
from muster.node.miner.miner import Miner
from muster.testnet.adversaries import check_name
from muster.testnet.roster import HONEST


def miner_class(behaviour: str) -> type[Miner]:
    """The miner that behaves like this.

    Raises:
        UsageError: there is no such behaviour.
    """
    if behaviour == HONEST:
        return Miner
    check_name(behaviour)
    return ADVERSARIES[behaviour]


__all__ = ["ADVERSARIES", "miner_class"]
