"""A participant that trains: its stages, the engine that trains, and what it must not forget."""

from __future__ import annotations

import logging

from muster.node.compute import CPU, Compute
from muster.node.context import Context
from muster.node.data.dataset import TextReader
from muster.node.miner.inner import LocalEngine
from muster.node.miner.memory import Memory
from muster.node.miner.miner import MakeMiner, Miner
from muster.node.miner.stages import HONEST, Stages
from muster.node.miner.trial import settled
from muster.node.replica import Replica
from muster.node.telemetry import events
from muster.protocol.ledger import Tip

log = logging.getLogger(__name__)


def local_miner(
    context: Context,
    tip: Tip,
    replica: Replica,
    text: TextReader,
    memory: Memory | None,
    compute: Compute = CPU,
    *,
    stages: Stages = HONEST,
) -> Miner:
    """A miner that trains on one device, θ's, in this process.

    Raises:
        ConfigError, StorageError, MusterError: as `Miner` does of its file, or torch lacks the run's optimizer.
    """
    compute, why = settled(compute, tip.spec.model)
    if why:
        log.info("computes with %s", why)
        context.journal.note(events.Computes(device=str(compute.device), why=why))
    engine = LocalEngine(tip.spec.model, tip.spec.inner, compute)
    return Miner(context, tip, replica, text, memory, engine, stages)


__all__ = ["MakeMiner", "Memory", "Miner", "local_miner"]
