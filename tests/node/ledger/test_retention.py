"""What is let go of: of rounds that nobody needs any more, that, and nothing else."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import lru_cache

from builders import hash32
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_world import World

from muster.lab.faults import Fault, Script
from muster.lab.faulty import FaultyStore
from muster.node.ledger import retention
from muster.node.ledger.retention import KEPT_ROUNDS, forget_rounds, forget_submissions
from muster.protocol import ledger, paths
from muster.protocol.ledger import Tip
from muster.protocol.storage.memory import MemoryStore

ROUNDS = 24
EVERY = 4


@lru_cache(1)
def begun() -> Tip:
    return asyncio.run(World.begin()).tip


def at(round_: int) -> Tip:
    """A tip whose open round is that one."""
    tip = begun()
    return replace(tip, opening=replace(tip.opening, round=round_))


async def filled(run_id: bytes) -> MemoryStore:
    """The bucket of an operator that mines, too, after so many rounds; and of another run."""
    bucket = MemoryStore()
    for round_ in range(ROUNDS):
        digest = hash32(round_)
        keys = [paths.seal(run_id, round_, digest), paths.record(run_id, round_, digest)]
        keys += [paths.heads(run_id, round_, digest), paths.made(run_id, round_, digest)]
        keys += [paths.bundle(run_id, round_, digest), paths.scores(run_id, round_, digest)]
        keys += [paths.dispute(run_id, round_, digest), paths.bundle(bytes(32), round_, digest)]
        keys += [make(run_id, round_) for make in (paths.head, paths.payload, paths.key, paths.answered)]
        if round_ and round_ % EVERY == 0:
            keys += [paths.checkpoint(run_id, round_, name) for name in ("one.safetensors", paths.MANIFEST)]
        for key in keys:
            await bucket.put(key, b"x")
    await bucket.put(paths.hello(run_id), b"x")
    return bucket


async def rounds_of(bucket: MemoryStore, run_id: bytes) -> dict[str, list[int]]:
    """The rounds that there is something of, by kind."""
    found: dict[str, set[int]] = {}
    for info in await bucket.list(f"{run_id.hex()}/"):
        found.setdefault(info.key.split("/")[1], set()).add(paths.round_of(info.key))
    return {kind: sorted(rounds) for kind, rounds in found.items()}


@settings(max_examples=15)
@given(st.integers(0, ROUNDS))
def test_a_miner_keeps_what_may_still_be_asked_for(round_: int) -> None:
    tip = at(round_)

    async def go() -> None:
        bucket = await filled(tip.run_id)
        before = await rounds_of(bucket, tip.run_id)
        await forget_submissions(bucket, tip)
        kept = max(KEPT_ROUNDS, tip.spec.clock.finality + 1)
        first = max(0, round_ - kept)
        assert await rounds_of(bucket, tip.run_id) == before | {"submissions": list(range(first, ROUNDS))}

    asyncio.run(go())


@settings(max_examples=15)
@given(st.integers(-1, ROUNDS - 1), st.integers(1, 4))
def test_an_operator_keeps_everything_from_a_checkpoint_on_that_a_newcomer_may_begin_at(final: int, keep: int) -> None:
    tip = at(ROUNDS)

    async def go() -> None:
        bucket = await filled(tip.run_id)
        before = await rounds_of(bucket, tip.run_id)
        await forget_rounds(bucket, tip, final, keep)
        usable = [round_ for round_ in before["checkpoints"] if round_ <= final - tip.spec.clock.finality]
        first = usable[-keep] if len(usable) >= keep else 0
        judged = max(0, first - tip.spec.gauntlet.lag - ledger.SCORES_AGE)
        kept = {"bundles": first, "checkpoints": first, "scores": judged, "disputes": judged}
        after = await rounds_of(bucket, tip.run_id)
        assert after == before | {
            kind: [round_ for round_ in before[kind] if round_ >= oldest] for kind, oldest in kept.items()
        }
        assert len(await bucket.list(f"{bytes(32).hex()}/")) == ROUNDS, "another run's are none of its business"

    asyncio.run(go())


def test_a_manifest_goes_before_the_files_that_it_names() -> None:
    """Who finds one finds the checkpoint, also where deleting stops half-way; it is gone on with later."""

    tip = at(ROUNDS)

    async def go() -> None:
        bucket = await filled(tip.run_id)
        failing = Fault("error", "store.delete", "*.safetensors", count=1)
        script = Script([failing])
        seen = FaultyStore(bucket, script, lambda: 0, "me", "me")
        await forget_rounds(seen, tip, ROUNDS - 1, 1)
        assert script.unfired() == []
        left = [info.key for info in await bucket.list(paths.folder(tip.run_id, "checkpoints"))]
        assert sum(key.endswith(paths.MANIFEST) for key in left) == 1
        assert sum(key.endswith(".safetensors") for key in left) == ROUNDS // EVERY - 1
        await forget_rounds(seen, tip, ROUNDS - 1, 1)
        assert len(await bucket.list(paths.folder(tip.run_id, "checkpoints"))) == 2

    asyncio.run(go())


def test_a_long_line_is_worked_off_in_several_rounds() -> None:
    tip = at(ROUNDS)

    async def go() -> None:
        bucket = await filled(tip.run_id)
        for _ in range(-(-4 * ROUNDS // 8)):
            await forget_submissions(bucket, tip)
        assert len(await bucket.list(paths.folder(tip.run_id, "submissions"))) == 4 * KEPT_ROUNDS

    before, retention.DELETED_AT_ONCE = retention.DELETED_AT_ONCE, 8
    try:
        asyncio.run(go())
    finally:
        retention.DELETED_AT_ONCE = before
