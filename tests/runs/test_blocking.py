"""Nothing a daemon does blocks its event loop: real store and chain on disk, work in threads, blockbuster watching."""

from __future__ import annotations

import asyncio

from blockbuster import blockbuster_ctx
from run_builders import MakeStage, Stage

from muster.daemon import Role, label
from muster.node.journal import Journal
from muster.node.ledger.participant import Follower, Surroundings, join
from muster.node.ledger.session import Session
from muster.node.miner.miner import Miner
from muster.validator.aggregator.aggregator import Aggregator
from muster.validator.gauntlet.book import Book
from muster.validator.gauntlet.validator import Validator

ROUNDS = 2


async def test_a_whole_run_never_blocks_the_loop(stage: MakeStage) -> None:
    made = await asyncio.to_thread(stage, miners=2, clock={"deadline": 400, "reveal": 200})
    operator, *miners = made.cast.members
    for member in made.cast.members:
        chain = made.run.chain()
        await chain.register(member.identity)
        await chain.close()
    roles = [(Role.AGGREGATOR, operator.name), (Role.VALIDATOR, operator.name)]
    roles += [(Role.MINER, miner.name) for miner in miners]
    with blockbuster_ctx(scanned_modules=["muster"]):
        async with asyncio.TaskGroup() as tasks:
            lives = [tasks.create_task(_live(made, role, name)) for role, name in roles]
    assert len({life.result().replica.root() for life in lives}) == 1
    assert lives[0].result().replica.outer_step == ROUNDS


async def _live(stage: Stage, role: Role, name: str) -> Follower:
    """What the daemon does, in this process."""
    member = stage.member(name)
    chain, buckets = stage.run.chain(), stage.run.buckets(f"dir:{name}")
    journal = await asyncio.to_thread(Journal, stage.run.journal(label(role, name)))
    surroundings = Surroundings(member.identity, chain, buckets, f"dir:{name}", journal)
    tip, replica = await join(stage.run.history, surroundings)

    def make() -> Follower:
        state = stage.run.state(label(role, name))
        state.mkdir()
        if role is Role.AGGREGATOR:
            return Aggregator(surroundings, tip, replica, ROUNDS)
        if role is Role.VALIDATOR:
            return Validator(surroundings, tip, replica, stage.text, Book(state / "book.sqlite"))
        return Miner(surroundings, tip, replica, stage.text, state / "memory.safetensors")

    participant = await asyncio.to_thread(make)
    await Session(participant, chain, surroundings.directory).run()
    await chain.close()
    return participant
