"""A run without training: the spec `nano`, and an engine whose Δ is counted out instead of learned.

Everything else of a miner with it is real (possession, codec, encryption, error feedback), so what a bench shows on it
holds for the daemons; only loss and pay mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from muster.kernels import fast
from muster.node.compute import CPU, Compute
from muster.node.context import Context
from muster.node.data.dataset import TextReader
from muster.node.miner import Memory, Miner
from muster.node.miner.engine import Delta, Job, OnStep, ThetaView
from muster.node.miner.stages import HONEST, Stages
from muster.node.miner.state import Entry
from muster.node.replica import Replica
from muster.protocol.errors import MusterError
from muster.protocol.ledger import Tip
from muster.protocol.spec import Template, load_template
from muster.protocol.spec.layout import Layout

_DOMAIN = b"muster/lab/delta/v1"
_HALF = 2**15
_SCALE = 2.0**-25
"""Δ lies within ±2⁻¹⁰, about what a few inner steps at a usual learning rate move a weight by."""


def nano_template() -> Template:
    """The template `nano`: 6,064 parameters."""
    return load_template(str(Path(__file__).with_name("nano.toml")))


def counted_delta(layout: Layout, seed: int, public: bytes, round_: int) -> list[Tensor]:
    """Δ in layout order, fp32: a function of (seed, hotkey, round) alone, the same bits on every machine.

    Entry i is the i-th 16-bit word of BLAKE3-XOF("muster/lab/delta/v1" ‖ seed u64 ‖ hotkey ‖ round u64), less 2¹⁵,
    times 2⁻²⁵.
    """
    stream = blake3(_DOMAIN + seed.to_bytes(8, "little") + public + round_.to_bytes(8, "little"))
    words = np.frombuffer(stream.digest(length=2 * layout.parameters), dtype="<u2")
    values = (words.astype(np.int32) - _HALF).astype(np.float32) * np.float32(_SCALE)
    parts = torch.split(torch.from_numpy(values), list(layout.grid.numel))
    return [part.view(shape).clone() for part, shape in zip(parts, layout.shapes, strict=True)]


@contextmanager
def compiled_loops() -> Iterator[None]:
    """Within, models of any size take the compiled tensor loops: the same bits, sooner for all but the smallest.

    Of two million entries they compress in a twentieth of the time; a nano run takes as long with them. Loading them
    takes half a second in each process, and compiling them some seconds once a machine.
    """
    before = fast.FAST_ENTRIES
    fast.FAST_ENTRIES = 0
    try:
        yield
    finally:
        fast.FAST_ENTRIES = before


class CountingEngine:
    """An `Engine` that is a counter: no step is taken, and nothing is kept from round to round."""

    def __init__(self, seed: int, public: bytes) -> None:
        """The counter of one hotkey in runs of genesis seed `seed`."""
        self._seed = seed
        self._public = public

    def run(
        self,
        theta: ThetaView,
        job: Job,
        on_step: OnStep | None = None,  # noqa: ARG002
        stop: Callable[[], bool] | None = None,  # noqa: ARG002
    ) -> Delta:
        """Count out Δ of the job's round."""
        delta = counted_delta(theta.layout, self._seed, self._public, job.round)
        return Delta(tuple(delta), job.steps, 0.0, 0.0)

    def state(self) -> Iterator[Entry]:
        """Nothing."""
        return iter(())

    def load_state(self, entries: Iterable[Entry]) -> None:
        """Take nothing.

        Raises:
            MusterError: there is something.
        """
        if any(True for _ in entries):
            raise MusterError("a counter has no moments: the file is of a miner that trains; move it away")


def counting_miner(
    context: Context,
    tip: Tip,
    replica: Replica,
    text: TextReader,
    memory: Memory | None,
    compute: Compute = CPU,  # noqa: ARG001 - it only counts
    *,
    stages: Stages = HONEST,
) -> Miner:
    """The ordinary miner with that engine."""
    engine = CountingEngine(tip.spec.genesis.seed, context.identity.public)
    return Miner(context, tip, replica, text, memory, engine, stages)
