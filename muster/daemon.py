"""One participant as a process: from its settings to a session that runs until the run closes or it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from enum import Enum

import torch
import uvloop

from muster.adversaries import miner_class
from muster.cast import HONEST
from muster.config import NodeConfig
from muster.rundir import RunDirectory
from muster.supervise import die_with_parent, supervisor_pid
from node.data import TextReader
from node.journal import Journal
from node.participant import Follower, Surroundings, join
from protocol.faults import Faults
from protocol.identity import Identity
from protocol.session import Session
from protocol.storage import MeteredBuckets
from validator.aggregator.aggregator import Aggregator
from validator.gauntlet.book import Book
from validator.gauntlet.validator import Validator

log = logging.getLogger(__name__)


class Role(Enum):
    """The daemons."""

    MINER = "miner"
    VALIDATOR = "validator"
    AGGREGATOR = "aggregator"


def label(role: Role, name: str) -> str:
    """What a process is called: a miner by its name, an operator's two processes by role and name."""
    return name if role is Role.MINER else f"{role.value}-{name}"


def run_daemon(role: Role, config: NodeConfig, behaviour: str = HONEST, rounds: int | None = None) -> None:
    """Take part until the run closes; SIGTERM and SIGINT stop cleanly.

    Raises:
        MusterError: the participant cannot start or cannot go on.
    """
    parent = supervisor_pid(os.environ)
    if parent is not None:
        die_with_parent(parent)
    logging.basicConfig(
        level=config.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    torch.set_num_threads(config.threads)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_stoppable(lambda: _live(role, config, behaviour, rounds)))


async def _stoppable(work: Callable[[], object]) -> None:
    """Run the participant as a task that signals cancel."""
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work())  # type: ignore[call-overload]
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _live(role: Role, config: NodeConfig, behaviour: str, rounds: int | None) -> None:
    run = await asyncio.to_thread(RunDirectory.open, config.run)
    name = config.name
    identity = Identity.from_file(config.key_file or run.key(name))
    buckets = MeteredBuckets(run.buckets())
    journal = await asyncio.to_thread(Journal, run.journal(label(role, name)))
    chain = run.chain()
    surroundings = Surroundings(
        identity=identity,
        chain=chain,
        buckets=buckets,
        location=config.location or f"dir:{name}",
        journal=journal,
        faults=Faults.from_environment(os.environ),
        meter=buckets.meter,
    )
    journal.event("started", role=role.value, pid=os.getpid())
    try:
        participant = await _participant(role, config, run, surroundings, behaviour, rounds)
        log.info("%s %s takes part from round %d", role.value, identity.hotkey, participant.tip.round)
        await Session(participant, chain, buckets).run()
        journal.event("finished", root=participant.replica.root().hex())
    finally:
        await asyncio.to_thread(journal.close)
        await chain.close()
        await buckets.close()


async def _participant(
    role: Role,
    config: NodeConfig,
    run: RunDirectory,
    surroundings: Surroundings,
    behaviour: str,
    rounds: int | None,
) -> Follower:
    make_miner = miner_class(behaviour)
    state = config.state or run.state(label(role, config.name))
    await asyncio.to_thread(state.mkdir, parents=True, exist_ok=True)
    tip, replica = await join(run.history, surroundings)
    if role is Role.AGGREGATOR:
        return Aggregator(surroundings, tip, replica, rounds)
    text = await asyncio.to_thread(TextReader.open, run.data, tip.spec.data.manifest)
    if role is Role.VALIDATOR:
        book = await asyncio.to_thread(Book, state / "book.sqlite")
        return Validator(surroundings, tip, replica, text, book)
    uid = await surroundings.chain.register(surroundings.identity)
    path = state / "memory.safetensors"
    miner = await asyncio.to_thread(make_miner, surroundings, tip, replica, text, path, uid)
    await miner.settle()
    return miner
