"""Miners gone bad at named stages: what a run must survive, ready to be added to any testnet or simulation."""

from __future__ import annotations

from muster.lab.adversary.miners import ADVERSARIES
from muster.node.compute import CPU, Compute
from muster.node.context import Context
from muster.node.data.dataset import TextReader
from muster.node.miner import MakeMiner, Memory, Miner, local_miner
from muster.node.replica import Replica
from muster.protocol.ledger import Tip
from muster.testnet.adversaries import check_name
from muster.testnet.roster import HONEST


def maker_of(behaviour: str) -> MakeMiner:
    """What makes miners that behave like this.

    Raises:
        UsageError: there is no such behaviour.
    """
    if behaviour == HONEST:
        return local_miner
    check_name(behaviour)
    stages = ADVERSARIES[behaviour]

    def make(
        context: Context,
        tip: Tip,
        replica: Replica,
        text: TextReader,
        memory: Memory | None,
        compute: Compute = CPU,
    ) -> Miner:
        return local_miner(context, tip, replica, text, memory, compute, stages=stages())

    return make


__all__ = ["ADVERSARIES", "maker_of"]
