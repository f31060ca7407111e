"""Each stage of a round alone: what it makes, what it refuses, and that one can be replaced without the others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from blake3 import blake3
from builders import identity
from miner_world import ME, SPEC, World, open_tip, seal_of, text

from muster.kernels import SparseUpdate, compress, fold
from muster.node.context import Context
from muster.node.miner import stages
from muster.node.miner.engine import Delta, RoundLost
from muster.node.miner.inner import LocalEngine
from muster.node.miner.stages import HONEST, OpenRound, Stages, Task
from muster.node.miner.state import Made
from muster.node.replica import Replica
from muster.node.telemetry import events
from muster.protocol import wire
from muster.protocol.rules.assignment import assigned, data_digest, share
from muster.protocol.spec.history import SpecHistory

WINDOWS = SPEC.inner.steps * SPEC.inner.batch


async def task(uid: int = 0) -> Task:
    """alice's work in round 0, in a slot."""
    world, tip = await World.begin(), open_tip(0)
    around = Context(ME, world.chain, world.buckets, "mem:alice", world.journal)
    replica = Replica.genesis(SPEC, tip.run_id)
    return Task(around, tip, replica, uid, text(), LocalEngine(SPEC.model, SPEC.inner), threading.Event())


def with_data(one: Task, **changes: int) -> Task:
    """The task in a run whose text is another."""
    spec = SPEC.model_copy(update={"data": SPEC.data.model_copy(update=changes)})
    return replace(one, tip=replace(one.tip, history=SpecHistory.of(spec)))


def delta_of(one: Task, value: float) -> Delta:
    """A Δ that has it everywhere."""
    return Delta(tuple(torch.full(shape, value) for shape in one.tip.layout.shapes), 1, 0.0, 0.0)


class TestWindows:
    """What a slot is assigned."""

    async def test_a_full_rounds_work(self) -> None:
        one = await task(1)
        expected = assigned(one.tip.opening.assign.value, 1, SPEC.data, WINDOWS)
        assert stages.assigned_windows(one) == expected

    async def test_whole_batches_of_a_share_that_is_smaller(self) -> None:
        batch = SPEC.inner.batch
        one = with_data(await task(), windows=(SPEC.data.slots + 1) * (batch + 1))
        assert share(one.tip.spec.data) == batch + 1
        assert len(stages.assigned_windows(one)) == batch

    async def test_less_than_a_batch_loses_the_round_in_a_sentence(self) -> None:
        one = with_data(await task(), windows=SPEC.data.slots + 1)
        with pytest.raises(RoundLost, match="1 windows, is less than one batch"):
            stages.assigned_windows(one)

    async def test_a_slot_without_text_loses_the_round(self) -> None:
        with pytest.raises(RoundLost, match="gets no text"):
            stages.assigned_windows(await task(SPEC.data.slots))


class TestTrain:
    """The engine's work, and none where the round was over."""

    async def test_the_deltas_are_the_engines(self) -> None:
        one, other = await task(), await task()
        windows = stages.assigned_windows(one)
        made = stages.train(one, windows)
        assert made is not None
        job = stages.job_of(other, windows)
        expected = other.engine.run(other.replica, job)
        assert all(torch.equal(x, y) for x, y in zip(made.tensors, expected.tensors, strict=True))
        assert (job.first_step, job.round) == (0, 0)

    async def test_what_is_no_longer_wanted_ends_at_the_step_and_gives_nothing(self) -> None:
        one, steps = await task(), []
        one.context.faults.trip = steps.append  # type: ignore[method-assign]
        one.stop.set()
        assert stages.train(one, stages.assigned_windows(one)) is None
        assert steps == ["train.step"]


class TestCompress:
    """Fold and compress, in the memory of Δ."""

    async def test_delta_becomes_the_new_error_and_the_old_is_read_only(self) -> None:
        one, kept = await task(), SPEC.sparse.error_decay
        delta, error = delta_of(one, 0.5), [torch.full(shape, 0.25) for shape in open_tip(0).layout.shapes]
        expected = compress(fold(error, delta.tensors, kept), one.tip.codec)
        places = [tensor.data_ptr() for tensor in delta.tensors]
        update, left = stages.compress(one, delta, error)
        assert update.identical(expected)
        assert all(torch.equal(e, torch.full_like(e, 0.25)) for e in error)
        assert [tensor.data_ptr() for tensor in left] == places
        assert not any(torch.equal(tensor, torch.full_like(tensor, 0.5)) for tensor in left)

    async def test_a_number_that_is_not_finite_loses_the_round(self) -> None:
        one = await task()
        error = [torch.zeros(shape) for shape in one.tip.layout.shapes]
        with pytest.raises(RoundLost, match="not finite; check this machine's RAM"):
            stages.compress(one, delta_of(one, torch.inf), error)


async def made_by(one: Task) -> tuple[SparseUpdate, Made]:
    """A submission of one batch, and what is in it."""
    error = [torch.zeros(shape) for shape in one.tip.layout.shapes]
    (update, _left), key = stages.compress(one, delta_of(one, 0.5), error), bytes(range(32))
    windows = stages.assigned_windows(one)[: SPEC.inner.batch]
    return update, Made(0, one.tip.parent, key, stages.build(one, update, windows, key))


async def test_what_is_built_says_what_was_done_and_opens_with_its_key() -> None:
    one = await task(1)
    update, made = await made_by(one)
    signed, ciphertext = wire.decode_submission(made.submission, one.tip.run_id)
    header, windows = signed.header, stages.assigned_windows(one)[: SPEC.inner.batch]
    assert (header.public, header.round, header.uid) == (ME.public, 0, 1)
    assert (header.windows, header.data_digest) == (len(windows), data_digest(windows))
    assert header.possession == one.replica.possession(one.tip.opening.possess.value, ME.public, 0)
    assert header.ciphertext_digest == blake3(ciphertext).digest()
    assert wire.open_payload(header, ciphertext, made.key, one.tip.codec).identical(update)


async def test_a_submission_that_is_put_twice_is_the_same_object() -> None:
    one = await task()
    _, made = await made_by(one)
    now = OpenRound(one.context, one.tip, one.replica)
    for _ in range(2):
        await stages.put(now, made)
    submitted = [noted.event for noted in one.context.journal.noted if isinstance(noted.event, events.Submitted)]
    assert [event.bytes for event in submitted] == [len(made.submission)] * 2


async def test_the_slot_is_the_chains() -> None:
    one = await task()
    assert await stages.slot_of(one) == 0
    assert await stages.slot_of(replace(one, context=strangers(one.context))) is None


def strangers(context: Context) -> Context:
    """Somebody who is not registered, in the same place."""
    return Context(identity("nobody"), context.chain, context.buckets, context.location, context.journal)


async def test_a_round_goes_through_each_stage_once_and_in_order() -> None:
    world, passed = await World.begin(), []

    def noted(name: str) -> Callable[..., Any]:
        stage = getattr(HONEST, name)

        def passing(*around: Any) -> Any:
            passed.append(name)
            return stage(*around)

        return passing

    names = [field.name for field in fields(Stages) if field.name != "ahead"]  # which no round of its own is for
    miner = world.miner(stages=Stages(**{name: noted(name) for name in names}))
    await miner.train()
    found = await miner.choose_seal([seal_of(miner, world.signed().digest)], await world.chain.head())
    assert found is not None
    await miner.publish_key(found)
    assert passed == names
    assert world.events("key") == [0]


async def test_no_windows_are_no_work() -> None:
    world = await World.begin()
    miner = world.miner(stages=Stages(windows=lambda _task: []))
    await miner.train()
    assert (world.bucket.puts, world.events("training"), miner.made) == ([], [], None)
