"""One round's work of a miner, step by step: each step a function that can be called, tested and replaced alone.

    slot → windows → train → compress → build        → put              → key
           (in a thread; nothing leaves the machine)    (once durable)     (once sealed)
                                                       → ahead, of the next round, where the run has a delay

`Miner` gives them their order and makes them safe to kill. Whoever does one of them differently, an adversary or a
test, gives the miner a `Stages` with that one replaced. What a submission looks like on the wire is known to `build`,
`put` and `show_key` alone.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from blake3 import blake3
from torch import Tensor

from muster.kernels import SparseUpdate, compress_
from muster.node.context import Context
from muster.node.data.dataset import TextReader
from muster.node.ledger.objects import BULK_DEADLINE
from muster.node.ledger.participant import possession
from muster.node.ledger.seals import FoundSeal
from muster.node.miner.ahead import Ahead
from muster.node.miner.answering import answer
from muster.node.miner.engine import Delta, Engine, Job, OnStep, RoundLost
from muster.node.miner.passes import full
from muster.node.miner.state import Made
from muster.node.replica import Replica
from muster.node.telemetry import events
from muster.protocol import ledger, paths, wire
from muster.protocol.ledger import Tip
from muster.protocol.rules.assignment import assigned, data_digest, share
from muster.protocol.spec.layout import AEAD_TAG_BYTES
from muster.protocol.types import Block
from muster.protocol.wire import Header, Seal

UPLOAD_DEADLINE = BULK_DEADLINE
"""Seconds an upload may take before it counts as failed."""


@dataclass(frozen=True, slots=True)
class OpenRound:
    """The open round as one miner has it: what it lives on, where the ledger stands, and θ."""

    context: Context
    tip: Tip
    replica: Replica


@dataclass(frozen=True, slots=True)
class Task(OpenRound):
    """The round's work in the slot of now, with what it takes; `stop` is set when it is no longer wanted.

    `ahead` is what a run with a delay has besides. While the next round's work is done, `tip` is the foreseen one.
    """

    uid: int
    text: TextReader
    engine: Engine
    stop: threading.Event
    ahead: Ahead | None = None


async def slot_of(now: OpenRound) -> int | None:
    """The uid that this hotkey has now; None where it is not registered.

    Raises:
        ChainError: the chain does not say.
    """
    peer = (await now.context.chain.snapshot()).by_hotkey().get(now.context.identity.hotkey)
    return None if peer is None else peer.uid


def windows_of(tip: Tip, uid: int) -> list[int]:
    """The windows of a full round's work in a slot: H batches, or as many whole ones as the slot's share holds.

    Raises:
        RoundLost: the run has no text for that slot.
    """
    spec = tip.spec
    if uid >= spec.data.slots:
        raise RoundLost(f"slot {uid} gets no text: this run assigns it to slots 0 to {spec.data.slots - 1}")
    batches = min(spec.inner.steps, share(spec.data) // spec.inner.batch)
    if batches == 0:
        raise RoundLost(f"a slot's text, {share(spec.data)} windows, is less than one batch of {spec.inner.batch}")
    return assigned(tip.opening.assign.value, uid, spec.data, batches * spec.inner.batch)


def assigned_windows(task: Task) -> list[int]:
    """All that the task's slot is assigned; see `windows_of`."""
    return windows_of(task.tip, task.uid)


def job_of(task: Task, windows: list[int]) -> Job:
    """The round's inner training on these windows; its learning rates follow the outer step, never the round."""
    inner = task.tip.spec.inner
    return Job(task.tip.round, task.tip.outer_step * inner.steps, inner, task.text.windows(windows))


def train(task: Task, windows: list[int]) -> Delta | None:
    """H inner steps on the windows; None where the round was over first.

    Raises:
        Diverged: a number is not finite.
        RoundLost: a GPU's memory is full.
    """
    stop, ahead, job = task.stop.is_set, task.ahead, job_of(task, windows)
    if ahead is None:
        delta = task.engine.run(task.replica, job, _tripping(task), stop)
    else:
        with _fits():
            delta = ahead.train(task.engine, task.replica, job, windows, _tripping(task), stop)
    return None if stop() else delta


def train_ahead(task: Task, windows: list[int]) -> None:
    """The next round's work, of which `tip` is what is foreseen, as far as it comes until it is stopped.

    Raises:
        Diverged: a number is not finite.
        RoundLost: a GPU's memory is full.
    """
    assert task.ahead is not None, "only in a run with a delay"
    with _fits():
        job = job_of(task, windows)
        task.ahead.begin(task.engine, task.replica, job, windows, _tripping(task), task.stop.is_set)


def _tripping(task: Task) -> OnStep:
    trip = task.context.faults.trip
    return lambda _step, _loss: trip("train.step")


@contextmanager
def _fits() -> Iterator[None]:
    """What a GPU has no memory for is the round's loss."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as problem:
        raise RoundLost(full(str(problem))) from problem


def compress(task: Task, delta: Delta, error: Sequence[Tensor]) -> tuple[SparseUpdate, tuple[Tensor, ...]]:
    """What is sent of Δ and e, and the new e, in host memory as the old one is, which is only read.

    The new e takes Δ's memory where that is the host's. Where Δ is on a device its memory is void afterwards, and the
    device never holds an e: both pass through it while it computes.

    Raises:
        RoundLost: a number is not finite, or a GPU's memory is full; Δ's memory is void.
    """
    tip = task.tip
    left = tuple(
        tensor if tensor.device.type == "cpu" else torch.empty(tensor.shape, dtype=tensor.dtype)
        for tensor in delta.tensors
    )
    try:
        with _fits():
            return compress_(delta.tensors, error, tip.spec.sparse.error_decay, tip.codec, left), left
    except ValueError as problem:
        raise RoundLost(
            f"{problem}; check this machine's RAM, and if every round ends so, start with a blank memory file"
        ) from problem


def build(task: Task, update: SparseUpdate, windows: Sequence[int], key: bytes) -> bytes:
    """The whole submission object: the update encrypted by `key`, under a signed header; `windows` were trained on."""
    tip, identity = task.tip, task.context.identity
    ciphertext = wire.encrypt_payload(update, key, tip.run_id, tip.round, identity.public)
    header = Header(
        run_id=tip.run_id,
        public=identity.public,
        round=tip.round,
        base_round=tip.opening.base_round,
        uid=task.uid,
        layout=tip.layout.digest,
        possession=possession(tip, task.replica)(identity.public),
        data_digest=data_digest(windows),
        windows=len(windows),
        tokens=len(windows) * tip.spec.data.window,
        payload_bytes=len(ciphertext) - AEAD_TAG_BYTES,
        ciphertext_digest=blake3(ciphertext).digest(),
        key_commitment=wire.key_commitment(key),
    )
    return wire.encode_submission(header, identity, ciphertext)


async def put(now: OpenRound, made: Made) -> None:
    """Put the head, which is what has to be there in time for the seal, and then the payload; fit to be done twice.

    Raises:
        StorageError: the bucket did not take both.
    """
    context, tip = now.context, now.tip
    context.faults.trip("submit.before_put")
    signed, ciphertext = await context.offload(lambda: wire.decode_submission(made.submission, tip.run_id))
    await context.bucket.put(paths.head(tip.run_id, made.round), signed.head)
    await context.bucket.put(paths.payload(tip.run_id, made.round), ciphertext, deadline=UPLOAD_DEADLINE)
    context.journal.note(events.Submitted(tip.round, bytes=len(made.submission), values=tip.codec.count))


def seal_problem(now: OpenRound, made: Made, seal: Seal, newest: Block) -> str:
    """Why this submission's key may not answer a seal that is seen at the block `newest`, "" where it may."""
    signed = wire.submitted_head(made.submission, now.tip.run_id)
    return ledger.unanswerable(now.tip, seal, now.context.identity.public, signed.digest, newest)


async def show_key(now: OpenRound, made: Made, found: FoundSeal) -> None:
    """Show the key, for the one seal that this miner answers in this round; fit to be done twice.

    Raises:
        StorageError: the bucket did not take it.
    """
    context, tip = now.context, now.tip
    seal = await answer(context.bucket, tip, found)
    context.faults.trip("submit.before_key")
    data = wire.encode_key(context.identity, tip.run_id, tip.round, made.key, seal)
    await context.bucket.put(paths.key(tip.run_id, tip.round), data)
    context.journal.note(events.Key(tip.round))


@dataclass(frozen=True, slots=True)
class Stages:
    """How a miner does each part of a round; the functions of this module unless others are given.

    No windows mean no work this round. `ahead` is for runs with a delay. It, `train`, `compress` and `build` run in a
    thread, beside the event loop.
    """

    slot: Callable[[OpenRound], Awaitable[int | None]] = slot_of
    windows: Callable[[Task], list[int]] = assigned_windows
    train: Callable[[Task, list[int]], Delta | None] = train
    ahead: Callable[[Task, list[int]], None] = train_ahead
    compress: Callable[[Task, Delta, Sequence[Tensor]], tuple[SparseUpdate, tuple[Tensor, ...]]] = compress
    build: Callable[[Task, SparseUpdate, Sequence[int], bytes], bytes] = build
    put: Callable[[OpenRound, Made], Awaitable[None]] = put
    seal: Callable[[OpenRound, Made, Seal, Block], str] = seal_problem
    key: Callable[[OpenRound, Made, FoundSeal], Awaitable[None]] = show_key


HONEST = Stages()
"""What the protocol asks of a miner."""
