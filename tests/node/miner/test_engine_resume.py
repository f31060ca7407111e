"""From any saved round a miner goes on as if it had never stopped, twice in a row: bytes of θ and e, and losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import pytest
import torch
from inner_world import MODEL, inner_of, windows_of
from torch import Tensor

from muster.kernels import aggregate_, compress_
from muster.kernels.codec import Codec
from muster.node.compute import Compute
from muster.node.miner.engine import Job
from muster.node.miner.inner import LocalEngine
from muster.node.miner.state import Made, MinerState, load_state, save_state
from muster.node.replica import Replica
from muster.node.replica.genesis import genesis_parameters
from muster.node.wished import Moments
from muster.protocol.spec.layout import layout_of

ROUNDS = 4
LAYOUT = layout_of(MODEL)
CODEC = Codec(LAYOUT.grid, 8)
WAYS = [("adamw", way) for way in get_args(Moments)] + [("muon", way) for way in get_args(Moments)]


@dataclass
class Life:
    """A miner alone in its run: θ after each round moves by what it sent; its file is written after each."""

    optimizer: str
    moments: Moments
    folder: Path
    theta: list[Tensor]
    first: int = 0
    losses: list[float] = field(default_factory=list)
    seen: list[bytes] = field(default_factory=list)

    def file(self, round_: int) -> Path:
        """What it remembers before a round."""
        return self.folder / f"{round_}.safetensors"

    def live(self) -> None:
        """From its first round to the last."""
        engine = LocalEngine(MODEL, inner_of(optimizer=self.optimizer), Compute(moments=self.moments))
        error = load_state(self.file(self.first), LAYOUT, engine.load_state).error
        for round_ in range(self.first, ROUNDS):
            inner = inner_of(optimizer=self.optimizer)
            job = Job(round_, round_ * inner.steps, inner, windows_of(round_))
            delta = engine.run(
                Replica(MODEL, bytes(32), self.theta, round_), job, on_step=lambda _, loss: self.losses.append(loss)
            )
            update = compress_(delta.tensors, error, 0.95, CODEC)
            error = delta.tensors
            made = Made(round_, bytes(32), bytes(32), b"a submission")
            save_state(self.file(round_ + 1), LAYOUT, MinerState(error, made), engine.state)
            aggregate_(self.theta, [update], torch.ones(1, len(self.theta)).numpy(), 1.0, "mean")
            self.seen.append(b"".join(t.numpy().tobytes() for t in (*self.theta, *error)))


@pytest.mark.parametrize(("optimizer", "moments"), WAYS)
def test_any_saved_round_is_resumed_twice_to_the_bit(tmp_path: Path, optimizer: str, moments: Moments) -> None:
    whole = Life(optimizer, moments, tmp_path / "whole", genesis_parameters(MODEL, 0))
    whole.live()
    assert len(whole.losses) == ROUNDS * inner_of().steps
    thetas = [b"", *whole.seen]
    entries = LAYOUT.parameters
    for round_ in range(1, ROUNDS):
        flat = torch.frombuffer(bytearray(thetas[round_]), dtype=torch.float32)[:entries]
        begun = [part.view(shape) for part, shape in zip(flat.split(LAYOUT.grid.numel), LAYOUT.shapes, strict=True)]
        for again in range(2):
            folder = tmp_path / f"{round_}-{again}"
            folder.mkdir()
            other = Life(optimizer, moments, folder, [t.clone() for t in begun], round_)
            other.file(round_).write_bytes(whole.file(round_).read_bytes())
            other.live()
            assert other.seen == whole.seen[round_:]
            assert other.losses == whole.losses[round_ * inner_of().steps :]
            last = whole.file(ROUNDS).read_bytes()
            assert other.file(ROUNDS).read_bytes() == last, "and so are the moments"
