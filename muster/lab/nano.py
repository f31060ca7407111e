"""A run without training: the spec `nano`, and a miner whose Δ is counted out instead of learned.

Everything else of such a miner is real (possession, codec, encryption, error feedback), so what a bench shows on it
holds for the daemons; only loss and pay mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from muster.kernels import fast
from muster.node.miner.inner import TrainResult
from muster.node.miner.miner import Miner
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
    """Within, models of any size take the compiled tensor loops: the same bits in a third of a nano round's time.

    Loading them takes half a second in each process, and compiling them some seconds once a machine, so a test that
    plays a few rounds is done sooner without.
    """
    before = fast.FAST_ENTRIES
    fast.FAST_ENTRIES = 0
    try:
        yield
    finally:
        fast.FAST_ENTRIES = before


class CountingMiner(Miner):
    """A miner whose inner training is a counter."""

    def inner_training(self, tip: Tip, windows: list[int]) -> TrainResult | None:
        """Count out Δ; nothing is trained and no text is read."""
        spec = tip.spec
        delta = counted_delta(tip.layout, spec.genesis.seed, self.public, tip.round)
        return TrainResult(delta, min(spec.inner.steps, len(windows) // spec.inner.batch), 0.0, 0.0)
