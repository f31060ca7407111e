"""The miner's shell: what it does when store, chain, disk, slot or arithmetic fail, and what it never does twice."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest
import torch
from builders import identity, theta
from hypothesis import given, settings
from hypothesis import strategies as st
from miner_world import ME, SPEC, World, next_round, open_tip
from torch import Tensor

from muster.kernels import Codec, compress, fold, residual
from muster.lab.nano import counted_delta
from muster.node.miner import Miner, stages
from muster.node.miner.engine import Delta, Diverged
from muster.node.miner.stages import OpenRound, Stages, Task
from muster.node.miner.state import load_state
from muster.node.replica import Replica
from muster.node.telemetry.events import Lost
from muster.node.telemetry.health import LOST_IN_A_ROW, problems
from muster.protocol import wire
from muster.protocol.errors import ChainUnreachable, StorageError
from muster.protocol.faults import Faults, parse_faults
from muster.protocol.rules.assignment import assigned, data_digest
from muster.protocol.storage.thread import in_thread

WINDOWS = SPEC.inner.steps * SPEC.inner.batch


def bits(tensors: tuple[Tensor, ...] | list[Tensor]) -> list[bytes]:
    """What must be equal, −0 and all."""
    return [t.numpy().tobytes() for t in tensors]


class TestErrorFeedback:
    """e is committed when the submission is made, whatever becomes of it."""

    @settings(max_examples=30)
    @given(
        seed=st.integers(0, 2**32),
        scales=st.lists(st.sampled_from([0.0, -0.0, 1.0, -(2.0**-126), 2.0**40]), min_size=1, max_size=4),
    )
    def test_what_is_kept_is_what_was_not_sent(self, seed: int, scales: list[float]) -> None:
        """e_{r+1} = β·e_r + Δ − Δ̂ to the bit, and Δ̂ is what the submission holds."""

        def fed(task: Task, _windows: list[int]) -> Delta:
            return Delta(tuple(deltas(task.tip.round)), 2, 0.0, 0.0)

        def deltas(round_: int) -> list[Tensor]:
            return [delta * scales[round_] for delta in counted_delta(open_tip(0).layout, seed, ME.public, round_)]

        async def live() -> None:
            world = await World.begin()
            miner, error = world.miner(stages=Stages(train=fed)), [torch.zeros(shape) for shape in grid.shapes]
            for round_ in range(len(scales)):
                await miner.train()
                acc = fold(error, deltas(round_), SPEC.sparse.error_decay)
                update = compress(acc, Codec(grid, SPEC.sparse.k))
                error = residual(acc, update)
                assert bits(miner.error_feedback) == bits(error)
                assert miner.made is not None
                signed, ciphertext = wire.decode_submission(miner.made.submission, miner.tip.run_id)
                sent = wire.open_payload(signed.header, ciphertext, miner.made.key, miner.tip.codec)
                assert sent.identical(update)
                await next_round(miner)

        grid = open_tip(0).layout.grid
        asyncio.run(live())

    async def test_a_round_without_a_trace_of_it_gives_nothing_back(self) -> None:
        """Neither seal nor record ever names the submission: e stays what it became when it was made."""
        world = await World.begin()
        miner = world.miner()
        await miner.train()
        kept = bits(miner.error_feedback)
        await next_round(miner)
        assert bits(miner.error_feedback) == kept


class TestSlot:
    """The slot is the chain's of now, not of the process's start."""

    async def test_a_hotkey_registered_anew_submits_for_its_new_slot(self) -> None:
        world = await World.begin(slots=2)
        miner = world.miner()
        await miner.train()
        assert await world.chain.register(identity("carol")) == 0, "alice has lost her slot to carol"
        assert await world.chain.register(ME) == 1, "and has bob's now"
        await next_round(miner)
        await miner.train()
        for round_, uid in enumerate((0, 1)):
            header, opening = world.signed(round_).header, open_tip(round_).opening
            assert header.uid == uid
            assert header.data_digest == data_digest(assigned(opening.assign.value, uid, SPEC.data, WINDOWS))

    async def test_without_a_slot_the_round_is_sat_out_and_said_so(self) -> None:
        world = await World.begin(slots=2)
        miner = world.miner()
        world.facts.saw_block(1, 0.0)
        await world.chain.register(identity("carol"))
        await miner.train()
        assert (world.events("unregistered"), world.events("training"), world.bucket.puts) == ([0], [], [])
        (problem,) = problems(world.facts, miner.tip, 0.0)
        assert ME.hotkey in problem
        assert "register it" in problem
        await world.chain.register(ME)
        await next_round(miner)
        await miner.train()
        assert world.events("submitted") == [1]
        assert problems(world.facts, miner.tip, 0.0) == []

    async def test_a_slot_beyond_the_runs_text_loses_the_round_and_not_the_process(self) -> None:
        async def beyond(_now: OpenRound) -> int | None:
            return SPEC.data.slots

        world = await World.begin()
        await world.miner(stages=Stages(slot=beyond)).train()
        assert world.events("lost") == [0]

    async def test_a_submission_that_is_made_is_sent_without_asking_for_the_slot(self) -> None:
        world = await World.begin()
        miner = world.miner()
        await miner.train()
        world.chain.snapshot_errors = [ChainUnreachable("no endpoint answers")]
        await miner.train()
        assert len(world.submissions()) == 2
        assert len(set(world.submissions())) == 1


class TestLost:
    """A round that is lost is that round only."""

    async def test_a_gradient_that_is_not_finite_costs_its_round(self, tmp_path: Path) -> None:
        world = await World.begin(tmp_path / "memory.safetensors")
        tip = open_tip(0)
        broken = [tensor.clone() for tensor in theta()]
        broken[0][3] = torch.nan
        miner = world.miner(replica=Replica(SPEC.model, tip.run_id, broken, 0))
        await miner.train()
        await miner.train()
        assert (world.events("lost"), world.events("training"), world.bucket.puts) == ([0], [0], [])
        (lost,) = [noted.event for noted in world.journal.noted if isinstance(noted.event, Lost)]
        assert "is not finite" in lost.problem
        assert not any(tensor.any() for tensor in miner.error_feedback)
        miner.replica = Replica.genesis(SPEC, tip.run_id)
        await next_round(miner)
        await miner.train()
        assert world.events("submitted") == [1]

    async def test_losing_every_round_shows_in_health(self) -> None:
        def diverging(task: Task, windows: list[int]) -> Delta | None:
            if task.tip.round < LOST_IN_A_ROW:
                raise Diverged("the gradient of inner step 7 is not finite")
            return stages.train(task, windows)

        world = await World.begin()
        world.facts.saw_block(1, 0.0)
        miner, told = world.miner(stages=Stages(train=diverging)), []
        for _ in range(LOST_IN_A_ROW + 1):
            await miner.train()
            told.append(problems(world.facts, miner.tip, 0.0))
            await next_round(miner)
        assert (told[0], told[-1]) == ([], [])
        assert "inner step 7 is not finite" in told[LOST_IN_A_ROW - 1][0]

    async def test_a_pseudo_gradient_that_is_not_finite_leaves_e_as_it_was(self) -> None:
        def overflowing(task: Task, windows: list[int]) -> Delta | None:
            delta = stages.train(task, windows)
            if delta is not None and task.tip.round == 1:
                delta.tensors[-1].fill_(torch.inf)
            return delta

        world = await World.begin()
        miner = world.miner(stages=Stages(train=overflowing))
        await miner.train()
        kept = bits(miner.error_feedback)
        await next_round(miner)
        await miner.train()
        assert world.events("lost") == [1]
        assert bits(miner.error_feedback) == kept
        await next_round(miner)
        await miner.train()
        assert world.events("submitted") == [0, 2]


class TestSending:
    """The same bytes again, at every block, and no second training."""

    async def test_a_store_that_fails_is_tried_again_at_every_block(self) -> None:
        world = await World.begin()
        world.bucket.errors = [StorageError("refused")] * 3
        before = (await world.chain.head()).number
        await world.miner().train()
        assert (await world.chain.head()).number == before + 3
        assert (len(world.submissions()), world.events("trained"), world.events("submitted")) == (1, [0], [0])

    async def test_it_is_tried_no_longer_than_the_round_lasts(self) -> None:
        world = await World.begin()
        world.bucket.errors = [StorageError("refused")] * 3
        miner = world.miner()

        def close() -> None:
            miner._tip = open_tip(1)

        world.chain.on_block = close
        await miner.train()
        assert (world.bucket.puts, world.events("submitted"), len(world.bucket.errors)) == ([], [], 2)

    async def test_a_chain_that_fails_is_reported_and_the_next_call_goes_on(self) -> None:
        world = await World.begin()
        miner = world.miner()
        world.chain.snapshot_errors = [ChainUnreachable("no endpoint answers")]
        with pytest.raises(ChainUnreachable):
            await miner.train()
        assert not world.events("training")
        world.bucket.errors = [StorageError("refused")]
        world.chain.block_errors = [ChainUnreachable("no endpoint answers")]
        with pytest.raises(ChainUnreachable):
            await miner.train()
        await miner.train()
        assert (len(world.submissions()), world.events("trained"), world.events("submitted")) == (1, [0], [0])

    async def test_a_full_disk_delays_and_nothing_is_sent_before_it_is_stored(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = await World.begin(tmp_path / "memory.safetensors")
        miner = world.miner()

        def full(_handle: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            for _ in range(2):
                with pytest.raises(StorageError, match="No space left on device; free space"):
                    await miner.train()
        assert (world.bucket.puts, miner.made) == ([], None)
        assert not any(tensor.any() for tensor in miner.error_feedback)
        (sentence,) = problems(world.facts, miner.tip, 0.0)[:1]
        assert sentence.startswith(f"cannot write {tmp_path}/memory.safetensors: No space left on device; free space")
        await miner.train()
        assert world.facts.ailing == {}
        assert (len(world.submissions()), world.events("trained")) == (1, [0])
        stored = load_state(tmp_path / "memory.safetensors", miner.tip.layout, list)
        assert stored.made == miner.made
        assert bits(stored.error) == bits(miner.error_feedback)

    async def test_work_that_could_not_be_stored_in_its_round_is_not_the_next_rounds(self) -> None:
        world = await World.begin()
        miner = world.miner(faults=Faults(parse_faults("submit.before_save:error")))
        with pytest.raises(StorageError):
            await miner.train()
        await next_round(miner)
        await miner.train()
        assert (world.submissions(0), world.signed(1).header.round) == ([], 1)

    async def test_who_sits_out_does_nothing(self) -> None:
        world = await World.begin()
        miner = world.miner()
        miner.sits_out = lambda round_: round_ == 0
        await miner.train()
        assert world.bucket.puts == []


PATIENCE = 200.0
"""Seconds after which a thread that is not let through fails the test."""


class Gates(dict[str, tuple[threading.Event, threading.Event]]):
    """Where a miner stops in the middle of its work, in its thread: what is set there, and what it waits for."""

    def stop_at(self, name: str) -> None:
        if name in self:
            reached, opened = self[name]
            reached.set()
            assert opened.wait(PATIENCE)

    def train(self, task: Task, windows: list[int]) -> Delta | None:
        """The stage, which ends at the first two gates or passes the last."""
        if "until stopped" in self:
            self["until stopped"][0].set()
            assert task.stop.wait(PATIENCE)
            self.stop_at("stopping")
            return None
        delta = stages.train(task, windows)
        self.stop_at("trained")
        return delta


async def at_gate(world: World, *names: str) -> tuple[Miner, Gates, asyncio.Task[None]]:
    """A miner with these gates, and its task, which has reached the first."""
    gates = Gates({name: (threading.Event(), threading.Event()) for name in names})
    miner = world.miner(stages=Stages(train=gates.train), offload=in_thread)
    task = asyncio.create_task(miner.train())
    assert await asyncio.to_thread(gates[names[0]][0].wait, PATIENCE)
    return miner, gates, task


async def others_run() -> None:
    """Whatever can go on goes on: other tasks, and what they have handed to threads before."""
    for _ in range(20):
        await asyncio.to_thread(lambda: None)


class TestStopping:
    """No thread reads θ once it may move, none outlives its task for longer than a step, and no two work at once."""

    async def test_training_has_ended_when_theta_moves(self) -> None:
        world = await World.begin()
        miner, gates, task = await at_gate(world, "until stopped", "stopping")
        stopping = asyncio.create_task(miner.stop_training())
        reached, opened = gates["stopping"]
        assert await asyncio.to_thread(reached.wait, PATIENCE)
        await others_run()
        assert not stopping.done(), "its thread is still at work"
        opened.set()
        await stopping
        await task
        gates.clear()
        await miner.train()
        assert (world.bucket.puts, miner.made) == ([], None), "that round is over"
        await next_round(miner)
        await miner.train()
        assert world.events("submitted") == [1]

    async def test_a_cancelled_task_ends_its_thread(self) -> None:
        world = await World.begin()
        miner, gates, task = await at_gate(world, "until stopped", "stopping")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        reached, opened = gates["stopping"]
        assert await asyncio.to_thread(reached.wait, PATIENCE)
        opened.set()
        gates.clear()
        await miner.train()
        assert world.events("submitted") == [0], "the round was not over: the next call trains"

    async def test_what_a_cancelled_tasks_thread_has_made_is_not_made_again(self) -> None:
        world = await World.begin()
        miner, gates, task = await at_gate(world, "trained")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        again = asyncio.create_task(miner.train())
        await others_run()
        gates["trained"][1].set()
        await again
        assert (world.events("trained"), world.events("submitted")) == ([0], [0])
