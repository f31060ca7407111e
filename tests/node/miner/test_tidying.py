"""A miner deletes the submissions that nobody asks for any more, and tries again what fails."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import identity
from closed_rounds import open_tip

from muster.lab.faults import Fault, Script
from muster.lab.faulty import FaultyBuckets
from muster.node.context import Context, in_place
from muster.node.miner.tidying import DELETED_AT_ONCE, KEPT_ROUNDS, forget_submissions
from muster.node.telemetry.journal import Journal
from muster.protocol import paths
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.ledger import Tip
from muster.protocol.storage.locations import MemoryBuckets

NAMES = (paths.head, paths.payload, paths.answered, paths.key)


def at(round_: int) -> Tip:
    tip = open_tip()
    return replace(tip, opening=replace(tip.opening, round=round_))


@pytest.fixture
def context() -> Context:
    chain = VirtualChain(ChainGenesis(seed=0))
    return Context(identity("alice"), chain, MemoryBuckets(), "mem:alice", Journal(None), in_place)


async def rounds(context: Context) -> list[int]:
    prefix = paths.submissions(at(0).run_id)
    return sorted({int(info.key.removeprefix(prefix)[:8]) for info in await context.bucket.list(prefix)})


async def submitted(context: Context, last: int) -> None:
    for round_ in range(last + 1):
        for name in NAMES:
            await context.bucket.put(name(at(0).run_id, round_), b"x")


@pytest.mark.parametrize("open_round", [0, KEPT_ROUNDS, 9])
async def test_the_last_rounds_stay_with_the_open_one(context: Context, open_round: int) -> None:
    await submitted(context, open_round)
    await context.bucket.put(paths.hello(at(0).run_id), b"hello")
    await context.bucket.put(f"{paths.submissions(at(0).run_id)}notes.txt", b"mine")
    await forget_submissions(context, at(open_round))
    await context.bucket.delete(f"{paths.submissions(at(0).run_id)}notes.txt")
    assert await rounds(context) == list(range(max(0, open_round - KEPT_ROUNDS), open_round + 1))
    assert await context.bucket.head(paths.hello(at(0).run_id)) is not None


async def test_a_long_arrear_goes_a_part_a_round(context: Context) -> None:
    await submitted(context, 40)
    await forget_submissions(context, at(40))
    assert len(await rounds(context)) == 41 - DELETED_AT_ONCE // len(NAMES)


@pytest.mark.parametrize("operation", ["store.list", "store.delete"])
async def test_what_fails_is_tried_again(context: Context, operation: str) -> None:
    await submitted(context, 9)
    script = Script((Fault("error", operation, "*", count=1),))
    context.buckets = FaultyBuckets(context.buckets, script, lambda: 0, "alice")
    await forget_submissions(context, at(9))
    assert await rounds(context) == list(range(10))
    await forget_submissions(context, at(9))
    assert await rounds(context) == list(range(5, 10))
