"""A closed round of a crowd, made by a build's own leader, and a follower of that build that takes it in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module as part
from pathlib import Path
from typing import Any

import torch
from leader import show_keys, stand, submit
from two_builds import of, roster_of

from daemons.units import memcpy_seconds, of_shapes

BLOCK_SECONDS = 0.05
"""Between two blocks while the round is led, which nothing here measures."""
SPREAD = 0.01
"""The standard deviation of a pseudo-gradient's rows, times a log-normal factor of each row's own."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """A run whose round 0 is closed: where its buckets are, the chain that shows its record, and its genesis.

    `runner` has the one event loop, and so the threads, of all that follows: a daemon's live as long as it does.
    """

    folder: Path
    stage: Any
    chain: Any
    history: Any
    runner: asyncio.Runner


def update_of(shapes: list[tuple[int, ...]], seed: int, how: tuple[Any, ...]) -> Any:
    """One peer's update: of Gaussian tensors with rows of different sizes, as a pseudo-gradient's are."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.empty(shape).normal_(0, SPREAD, generator=generator) for shape in shapes]
    for matrix in (tensor for tensor in made if tensor.dim() == 2):
        matrix.mul_(torch.randn((len(matrix), 1), generator=generator).exp_())
    return of("muster.kernels").compress(made, *how)


def closed_round(folder: Path, peers: int, **sections: dict[str, Any]) -> Crowd:
    """Lay out a run of so many peers, submit for every peer, and lead round 0 to its anchored record."""
    runner = asyncio.Runner()
    return runner.run(_led(folder, laid_out(folder, peers, **sections), runner))


def laid_out(folder: Path, peers: int, **sections: dict[str, Any]) -> Any:
    """A run of so many peers and one operator; `sections` change `tiny`, of which everything else is."""
    builders, roster = part("run_builders"), of("muster.testnet.roster:Roster").of(0, peers, 1, {})
    document = of("muster.protocol.spec:load_template")("tiny").model_dump()
    for name, fields in sections.items():
        document[name] |= fields
    made = of("muster.protocol.spec:Template").model_validate(document)
    return builders.lay_out(folder / "run", builders.write_text(folder / "text", words=4000), made, roster)


async def _led(folder: Path, stage: Any, runner: asyncio.Runner) -> Crowd:
    chain, history, tip = await stand(stage)
    spec, replica = stage.spec, of("muster.node.replica:Replica").genesis(stage.spec, history.run_id)
    how = (tip.codec,) if hasattr(tip, "codec") else (spec.sparse.k, tip.layout.grid)
    for uid, member in enumerate(roster_of(stage).members):
        if member not in roster_of(stage).operators:
            update = update_of(tip.layout.shapes, uid, how)
            submit(folder, spec, tip, replica, (uid, member), update)
    (operator,) = roster_of(stage).operators
    crowd = Crowd(folder, stage, chain, history, runner)
    context = context_of(crowd, operator)
    leader = of("muster.validator.aggregator.aggregator:Aggregator")(context, tip, replica, None)
    session = of("muster.node.ledger.session:Session")(leader, chain, getattr(context, "directory", context.buckets))
    seals = (folder / "buckets" / operator.name / of("muster.protocol.paths").key(tip.run_id, 0)).parents[1] / "seals"
    async with asyncio.TaskGroup() as tasks:
        live, shown = tasks.create_task(session.run()), False
        while not await chain.anchors(0):
            await asyncio.sleep(BLOCK_SECONDS)
            if not shown and (sealed := next(seals.glob("*.seal"), None)) is not None:
                shown = True
                show_keys(folder, stage, tip, sealed.read_bytes())
            chain.advance()
        live.cancel()
    return crowd


def context_of(crowd: Crowd, member: Any) -> Any:
    """What a participant of the build lives on: daemons' stores, threads and all, and a journal that keeps nothing."""
    buckets = of("muster.protocol.storage.locations:DirectoryBuckets")(crowd.folder / "buckets")
    journal = of("muster.node.telemetry.journal:Journal")(None)
    return of("muster.node.context:Context")(member.identity, crowd.chain, buckets, f"dir:{member.name}", journal)


@dataclass(frozen=True, slots=True)
class Followed:
    """What taking one round in cost, in seconds of processor time.

    Attributes:
        round: from the first look at the chain until the record is applied and the new θ's root is known.
        parts: of it, by function (`PARTS`), all calls together.
        memcpy: one copy of θ.
    """

    round: float
    parts: dict[str, float]
    memcpy: float


PARTS = {
    "decode": ("muster.kernels", "decode"),
    "weigh": ("muster.protocol.ledger.judge", "prepare"),
    "aggregate": ("muster.node.replica.local", "aggregate_"),
}
"""Functions whose part of a round is told: caps, norms and weights are `weigh`."""


def clocked(parts: dict[str, float]) -> None:
    """Have the functions of `PARTS` add the processor time of their threads to `parts`, from here on."""

    def clock(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                parts[name] = parts.get(name, 0.0) + time.thread_time() - began

        return timed

    for name, (where, function) in PARTS.items():
        module = of(where)
        setattr(module, function, clock(getattr(module, function), name))


def follow(crowd: Crowd, parts: dict[str, float]) -> Followed:
    """A follower that stands at genesis takes round 0 in, by its session; `parts` is what `clocked` adds to."""
    parts.clear()
    forget()
    return crowd.runner.run(_follow(crowd, parts))


def forget() -> None:
    """Make this build forget what it keeps of a round, so that the next turn is one of its own."""
    for where, name in (
        (of("muster.protocol.wire.submission"), "_good_head"),
        (of("muster.protocol.rules.assignment"), "_table"),
    ):
        if hasattr(getattr(where, name, None), "cache_clear"):
            getattr(where, name).cache_clear()


async def _follow(crowd: Crowd, parts: dict[str, float]) -> Followed:
    tip = await of("muster.node.ledger.reader:genesis_tip")(crowd.history, crowd.chain)
    replica = of("muster.node.replica:Replica").genesis(crowd.stage.spec, crowd.history.run_id)
    replica.root()  # known since the round before
    context = context_of(crowd, roster_of(crowd.stage).miners[0])
    follower = _follower()(context, tip, replica)
    session = of("muster.node.ledger.session:Session")(
        follower, crowd.chain, getattr(context, "directory", context.buckets)
    )
    began = time.process_time()
    live = asyncio.ensure_future(session.run())
    await asyncio.wait({live, asyncio.ensure_future(follower.applied.wait())}, return_when=asyncio.FIRST_COMPLETED)
    took = follower.ended - began
    live.cancel()
    await asyncio.wait({live})
    assert follower.applied.is_set(), "the session ended without the round"
    return Followed(took, dict(parts), memcpy_seconds(of_shapes(tip.layout.shapes)))


def _follower() -> type:
    following = of("muster.protocol.ledger.round:Duty.FOLLOW")
    base: Any = of("muster.node.ledger.participant:Follower")

    class Watcher(base):  # type: ignore[misc]  # of whichever build this is
        """A participant that has nothing of its own to do in a round."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.applied, self.ended = asyncio.Event(), 0.0

        def duty(self) -> Any:
            return following

        role = duty

        async def apply(self, *arguments: Any) -> Any:
            result = await super().apply(*arguments)
            self.ended = time.process_time()
            self.applied.set()
            return result

    return Watcher
