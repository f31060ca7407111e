"""One participant as a process: from its settings to a session that runs until the run closes or it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
import uvloop

from muster.node.amendments import watch_amendments
from muster.node.breaker import BreakerBuckets
from muster.node.compute import CPU, Compute, Machine, choose
from muster.node.context import Context
from muster.node.data.dataset import TextReader
from muster.node.drain import Drain, DrainedBuckets
from muster.node.greeting import publish_hello, put_hello, watch_hellos
from muster.node.ledger.bootstrap import bootstrap, patiently
from muster.node.ledger.participant import Follower
from muster.node.ledger.session import Session
from muster.node.lock import Holder, held, hotkey_folder, role_lock
from muster.node.miner import MakeMiner, Memory, local_miner
from muster.node.telemetry import events
from muster.node.telemetry.facts import Facts
from muster.node.telemetry.journal import Journal, Noted
from muster.node.telemetry.round_line import RoundLine
from muster.node.telemetry.service import About, Address, Service, heartbeat, parse_address, serving
from muster.node.telemetry.watched import WatchedBuckets
from muster.node.turns import Turns
from muster.node.wished import Wished
from muster.node.writes import QueuedWrites
from muster.protocol.errors import ConfigError
from muster.protocol.faults import Faults
from muster.protocol.identity import Identity
from muster.protocol.storage import Buckets, Credentials, MeteredBuckets
from muster.protocol.storage.pointer import check_bootstrap
from muster.protocol.types import Role
from muster.run.credentials import ACCESS_KEY, SECRET_KEY, load_credentials, load_identity
from muster.run.fetch import COPY, fetch_text, open_run
from muster.run.folder import RunDirectory
from muster.run.settings import NodeConfig
from muster.run.stopping import Stopping
from muster.testnet.parentage import die_with_parent, supervisor_pid

log = logging.getLogger(__name__)


_ROLES_OF = {
    Role.MINER: (Role.MINER.value,),
    Role.VALIDATOR: (Role.AGGREGATOR.value, Role.VALIDATOR.value),
    Role.AGGREGATOR: (Role.AGGREGATOR.value, Role.VALIDATOR.value),
}
"""What a hello says of a hotkey: an operator's two processes share one, and one bucket."""


def label(role: Role, name: str) -> str:
    """What a process is called: a miner by its name, an operator's two processes by role and name."""
    return name if role is Role.MINER else f"{role.value}-{name}"


def run_daemon(
    role: Role, config: NodeConfig, *, make_miner: MakeMiner = local_miner, rounds: int | None = None
) -> None:
    """Take part until the run closes (an aggregator closes it after `rounds`) or a signal says to stop (`stopping`).

    Raises:
        MusterError: the participant cannot start or cannot go on.
    """
    if sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)  # a failing disk under the mapped state file is a signal, no exception
    parent = supervisor_pid(os.environ)
    if parent is not None:
        die_with_parent(parent)
    logging.basicConfig(
        level=config.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    torch.set_num_threads(config.threads)
    drain = Drain()
    stopping = Stopping(drain)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(stopping.run(_live(role, config, make_miner, rounds, drain, stopping)))
    finally:
        stopping.done()  # closing the runner waits for threads
    if stopping.told:
        log.info("stopped, %.1f s after %s", stopping.seconds, stopping.told)


async def _live(
    role: Role, config: NodeConfig, make_miner: MakeMiner, rounds: int | None, drain: Drain, stopping: Stopping
) -> None:
    run = await open_run(config.run, config.state and config.state / COPY, config.allow)
    identity = await asyncio.to_thread(load_identity, config.key_file or run.key(config.name))
    ledger = await asyncio.to_thread(run.ledger, config.chain)
    folder, name = hotkey_folder(os.environ, identity.hotkey), label(role, config.name)
    holder = Holder(os.getpid(), socket.gethostname(), name, time.time(), str(run.path))
    turns = Turns(folder, ledger, f"{name}, process {holder.pid}")
    # Before anything of it is touched: a second one must leave the first one's journal, state and bucket alone.
    async with held(role_lock(folder, ledger, run.history.run_id, role.value), holder):
        await _take_part(role, config, run, identity, turns, make_miner, rounds, drain, stopping)


async def _take_part(
    role: Role,
    config: NodeConfig,
    run: RunDirectory,
    identity: Identity,
    turns: Turns,
    make_miner: MakeMiner,
    rounds: int | None,
    drain: Drain,
    stopping: Stopping,
) -> None:
    name, where, facts = label(role, config.name), parse_address(config.service), Facts()
    compute, why = await asyncio.to_thread(choose_for, role, config)
    location, credentials = await asyncio.to_thread(_own_bucket, run, config)
    opened = run.buckets(location, credentials, config.allow)
    check_bootstrap(location, config.bootstrap)
    journal = await asyncio.to_thread(Journal, run.journal(name), listener=_listener(role, facts))
    buckets = _as_used(opened, location, drain, facts, journal)
    chain = QueuedWrites(run.chain(config.chain), turns, drain, journal.ailments)
    context = _around(config, run, Context(identity, chain, buckets, location, journal, meter=buckets.meter))
    service = Service(About(name, run.history.run_id.hex(), await asyncio.to_thread(_versions)), facts)
    journal.note(events.Started(role=role.value, pid=os.getpid()))
    if why:
        log.info("computes with %s", why)
        journal.note(events.Computes(device=str(compute.device), why=why))
    try:
        async with _answering(service, where, facts, context), _greeting(role, run, context):
            participant = await _participant(role, config, run, context, compute, make_miner, rounds)
            service.tip = lambda: participant.tip
            log.info("%s %s takes part from round %d", role.value, identity.hotkey, participant.tip.round)
            async with _gathering(role, config, run, context, participant):
                await Session(participant, chain, context.directory).run()
            journal.note(events.Finished(root=participant.replica.root().hex()))
    finally:
        if stopping.told:
            journal.note(events.Stopped(signal=stopping.told, seconds=stopping.seconds, cut=stopping.cut))
        await asyncio.to_thread(journal.close)
        await chain.close()
        await buckets.close()


def _around(config: NodeConfig, run: RunDirectory, context: Context) -> Context:
    """What a participant of a run lives on: with its settings, and the faults that a test asks for."""
    faults = Faults.from_environment(os.environ)
    return replace(context, faults=faults, bootstrap=config.bootstrap, run_id=run.history.run_id)


def _as_used(opened: Buckets, location: str, drain: Drain, facts: Facts, journal: Journal) -> MeteredBuckets:
    """The run's buckets as a daemon goes to them: drained with it, watched, counted, and let alone if they hang."""
    watched = WatchedBuckets(DrainedBuckets(opened, drain), facts.store_failed, journal.ailments)
    return MeteredBuckets(BreakerBuckets(watched, location))


def _listener(role: Role, facts: Facts) -> Callable[[Noted], None]:
    """What hears of every event: the process's facts and, of a miner, its terminal's line a round."""
    if role is not Role.MINER:
        return facts.note
    line = RoundLine(log.info)

    def both(noted: Noted) -> None:
        facts.note(noted)
        line.note(noted)

    return both


def _versions() -> dict[str, str]:
    return {"muster": version("muster-network"), "python": platform.python_version(), "torch": str(torch.__version__)}


@contextlib.asynccontextmanager
async def _answering(service: Service, where: Address | None, facts: Facts, context: Context) -> AsyncIterator[None]:
    """Watch the chain and answer over HTTP while the participant lives; None: do neither."""
    if where is None:
        yield
        return
    async with serving(service, where) as found, asyncio.TaskGroup() as tasks:
        context.journal.note(events.Service(address=str(found)))
        log.info("health, status and metrics are at http://%s", found)
        beating = tasks.create_task(heartbeat(context.chain, facts))
        yield
        beating.cancel()


def _own_bucket(run: RunDirectory, config: NodeConfig) -> tuple[str, Credentials | None]:
    """Where the own bucket is, and what writes it (None: a folder needs nothing).

    Raises:
        ConfigError: it is not known.
    """
    if not run.on_network:
        return config.location or f"dir:{config.name}", None
    credentials = load_credentials(os.environ)
    if config.location is None:
        raise ConfigError("location is not set: make a bucket with `muster bucket create` and name what it prints")
    if credentials is None:
        raise ConfigError(f"{ACCESS_KEY} and {SECRET_KEY} (or {ACCESS_KEY}_FILE …) are not set: the bucket needs them")
    return config.location, credentials


@contextlib.asynccontextmanager
async def _greeting(role: Role, run: RunDirectory, context: Context) -> AsyncIterator[None]:
    """While a leader lives, tell its operator of peers whose hello says that they cannot follow."""
    if role is not Role.AGGREGATOR:
        yield
        return
    spec, identity = run.history.genesis, context.identity
    async with asyncio.TaskGroup() as tasks:
        watch = watch_hellos(context.chain, context.directory, run.history.run_id, spec, identity.hotkey)
        watching = tasks.create_task(watch)
        yield
        watching.cancel()


@contextlib.asynccontextmanager
async def _gathering(
    role: Role, config: NodeConfig, run: RunDirectory, context: Context, participant: Follower
) -> AsyncIterator[None]:
    """While an aggregator lives, bring amendments from where people put them into its bucket."""
    if role is not Role.AGGREGATOR:
        yield
        return
    async with run.published(config.allow) as place, asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch_amendments(context, lambda: participant.tip, place))
        yield
        watching.cancel()


async def _participant(
    role: Role,
    config: NodeConfig,
    run: RunDirectory,
    context: Context,
    compute: Compute,
    make_miner: MakeMiner,
    rounds: int | None,
) -> Follower:
    state = config.state or run.state(label(role, config.name))
    await asyncio.to_thread(state.mkdir, parents=True, exist_ok=True)
    data = run.data if role is Role.AGGREGATOR else await fetch_text(run, config.allow)
    if context.bootstrap:  # others come to the bucket by the hello, so it is there before the chain says so
        await patiently(context.chain, partial(put_hello, context, context.run_id, 0, _ROLES_OF[role]))
    tip, replica = await bootstrap(run.history, context, compute.device)
    await publish_hello(context, tip.run_id, tip.round, _ROLES_OF[role])
    if role is Role.AGGREGATOR:
        from muster.validator.aggregator.aggregator import Aggregator  # noqa: PLC0415 - the other roles do without

        spool, signed = await asyncio.to_thread(_spool, state, role), state / "signed" / tip.run_id.hex()
        return Aggregator(context, tip, replica, rounds, spool, signed, config.keep_bytes)
    text = await asyncio.to_thread(TextReader.open, data, tip.spec.data.manifest)
    if role is Role.VALIDATOR:
        from muster.validator.gauntlet.score_store import ScoreStore  # noqa: PLC0415 - so do they here
        from muster.validator.gauntlet.validator import Validator  # noqa: PLC0415

        store = await asyncio.to_thread(ScoreStore, state / "scores.sqlite", context.ailments)
        return Validator(context, tip, replica, text, store, await asyncio.to_thread(_spool, state, role))
    memory = Memory(state / "memory.safetensors", config.save_every)
    return await asyncio.to_thread(make_miner, context, tip, replica, text, memory, compute)


def choose_for(role: Role, config: NodeConfig, look: Callable[[], Machine] = Machine.look) -> tuple[Compute, str]:
    """How a participant computes on the machine that `look` sees, and why so.

    An aggregator stays on the CPU, about which there is nothing to say.

    Raises:
        ConfigError: it cannot be as the settings wish.
    """
    if role is Role.AGGREGATOR:
        return CPU, ""
    # Published losses are those of fp32 products, wherever they are measured.
    wished = config.wished if role is Role.MINER else Wished(config.device, "fp32")
    return choose(look(), wished)


def _spool(state: Path, role: Role) -> Path:
    """The folder that large payloads wait in, without what a life that was killed left there.

    It has the role's name, because an operator may give both of his daemons the same `state`.
    """
    folder = state / f"spool-{role.value}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder
