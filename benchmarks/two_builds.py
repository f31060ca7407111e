"""Two builds beside each other: what is called how in this one and in commit 5c6907b, for what runs in either."""

from __future__ import annotations

import re
from importlib import import_module as part
from operator import attrgetter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "5c6907b"
NAMES = {
    "muster.cli:main": "muster.cli:main",
    "muster.kernels": "muster.kernels",
    "muster.lab.simulator:Simulator": "muster.simulator:Simulator",
    "muster.node.context:Context": "muster.node.participant:Surroundings",
    "muster.node.data.dataset:TextReader": "muster.node.data:TextReader",
    "muster.node.ledger.bootstrap:bootstrap": "muster.node.participant:join",
    "muster.node.ledger.participant:Follower": "muster.node.participant:Follower",
    "muster.node.ledger.reader:genesis_tip": "muster.node.follow:genesis",
    "muster.node.ledger.session:Session": "muster.protocol.session:Session",
    "muster.node.miner.inner": "muster.node.miner.inner",
    "muster.node.miner.miner:Miner": "muster.node.miner.miner:Miner",
    "muster.node.replica.genesis": "muster.node.genesis",
    "muster.node.replica.local": "muster.node.replica",
    "muster.node.replica:Replica": "muster.node.replica:Replica",
    "muster.node.telemetry.journal:Journal": "muster.node.journal:Journal",
    "muster.protocol.chain.virtual:VirtualChain": "muster.protocol.chain.virtual:VirtualChain",
    "muster.protocol.ledger.judge": "muster.protocol.ledger",
    "muster.protocol.ledger.round:Duty.FOLLOW": "muster.protocol.round:Role.FOLLOWER",
    "muster.protocol.paths": "muster.protocol.paths",
    "muster.protocol.rules.admission": "muster.protocol.admission",
    "muster.protocol.rules.assignment": "muster.protocol.assignment",
    "muster.protocol.spec.history:SpecHistory": "muster.protocol.history:SpecHistory",
    "muster.protocol.spec:load_template": "muster.protocol.spec:load_template",
    "muster.protocol.storage.locations:DirectoryBuckets": "muster.protocol.storage:DirectoryBuckets",
    "muster.protocol.storage.locations:MemoryBuckets": "muster.protocol.storage:MemoryBuckets",
    "muster.protocol.wire": "muster.protocol.wire",
    "muster.protocol.spec:Template": "muster.protocol.spec:Template",
    "muster.protocol.wire.submission": "muster.protocol.wire.submission",
    "muster.protocol.wire.submission:encrypt_frames": "muster.protocol.wire.submission:encrypt",
    "muster.run.credentials:load_identity": "muster.credentials:load_identity",
    "muster.run.daemon:run_daemon": "muster.daemon:run_daemon",
    "muster.run.folder:RunDirectory": "muster.rundir:RunDirectory",
    "muster.testnet.roster:Roster": "muster.cast:Cast",
    "muster.validator.aggregator.aggregator:Aggregator": "muster.validator.aggregator.aggregator:Aggregator",
}
"""What is called how in this build and in the build before."""
_ROOM = re.compile(r"^muster\.(?=(kernels|protocol|node|validator)\b)")
"""The build before had its rooms installed by themselves."""


def runs_here() -> bool:
    """Whether the build that runs here is this one."""
    return Path("muster/protocol").exists()  # the working directory is the build's


def of(where: str) -> Any:
    """A module ("module") or what is in one ("module:name", "module:name.name") of the build that runs here.

    It goes by its name in this build.
    """
    if not runs_here():
        where = _ROOM.sub("", NAMES[where])
    module, _, name = where.partition(":")
    return attrgetter(name)(part(module)) if name else part(module)


def roster_of(stage: Any) -> Any:
    """Who takes part in a run that is laid out."""
    return stage.roster if hasattr(stage, "roster") else stage.cast
