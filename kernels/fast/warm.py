"""Compiles every loop and keeps it beside the source: for an image's build, and for an install nobody will write to.

    python -m muster.kernels.fast.warm

For each level of x86-64 (`places.LEVELS`) that this machine is of, each in a process of its own, as a machine of that
level would look for it; elsewhere for this machine's own CPU. About 10 processor seconds each.
"""

from __future__ import annotations

import os
import subprocess
import sys

import torch

from muster.kernels import (
    Codec,
    Grid,
    aggregate_,
    capped,
    clip_weights,
    compress,
    compress_,
    decode,
    encode,
    fast,
    perturb_,
    scale_caps,
    undo_,
)
from muster.kernels.fast.places import LEVELS, own_level

_LEVEL, _FEATURES = "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"
_SHAPES = ((70, 130), (5000,))
"""A matrix with tiles that are cut short, and a vector."""


def main() -> None:
    """Compile for all levels, or in a process that was begun for one, for that."""
    own = own_level()
    if _LEVEL in os.environ or own is None:
        play()
        return
    names = list(LEVELS)
    for name in names[: names.index(own) + 1]:
        environment = {**os.environ, _LEVEL: name, _FEATURES: ""}
        subprocess.run([sys.executable, "-P", "-m", __spec__.name], env=environment, check=True)  # noqa: S603


def play() -> None:
    """Each operation of the back end once, on tensors of any size."""
    fast.FAST_ENTRIES = 0
    grid = Grid(_SHAPES)
    codec = Codec(grid, 64)
    noise = torch.Generator().manual_seed(0)
    delta = [torch.randn(shape, generator=noise) for shape in _SHAPES]
    error, theta = ([torch.zeros(shape) for shape in _SHAPES] for _ in range(2))
    made = [compress(delta, codec), compress_(delta, error, 0.95, codec)]
    for updates in (made, [decode(encode(update), codec) for update in made]):
        undo_(theta, updates[:1], perturb_(theta, updates[0], 0.5))
        caps, weights = scale_caps(updates, 8.0), clip_weights(updates, [1] * len(updates))
        sent = [capped(update, caps) for update in updates]
        undo_(theta, sent, aggregate_(theta, sent, weights, 1.0, "damped_mean"))


if __name__ == "__main__":
    main()
