"""Real pseudo-gradients to measure the codec on: what miners of simulated runs had before they compressed it.

    python benchmarks/capture.py [tiny] [11m]

Writes the accumulators a = β·e + Δ of one miner to `benchmarks/.cache/NAME-rROUND.npz`, tensors in layout order:
of `tiny` (the preset, two miners) in rounds 2, 10 and 40, and of `11m`, a model of 11.6M parameters, in its third
round, when error feedback is real. A minute each on one core; what is there already is not made again.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from muster.kernels import Grid, SparseUpdate, fold
from muster.lab.simulator import Simulator
from muster.node.data.build import build_corpus
from muster.node.data.dataset import TextReader
from muster.node.miner import local_miner, stages
from muster.node.miner.engine import Delta
from muster.node.miner.stages import Stages, Task
from muster.protocol.spec import Template, load_template
from muster.testnet.roster import Roster

CACHE = Path(__file__).parent / ".cache"
SEED = 0
CAPTURED = "miner-0"
ROUNDS: Mapping[str, Sequence[int]] = {"tiny": (2, 10, 40), "11m": (3,)}
"""Rounds whose accumulator is kept, counted from 1, by model."""
MINERS: Mapping[str, int] = {"tiny": 2, "11m": 1}

_CHEAP = {"eval_windows": 1, "heldout_windows": 1}
"""Scores steer nothing here: so few miners are all accepted."""
_LARGER = {"hidden": 384, "layers": 6, "heads": 6, "kv_heads": 6, "head_dim": 64, "ffn": 1152}


def template(name: str) -> Template:
    """The run that is captured."""
    document: dict[str, Any] = load_template("tiny").model_dump()
    document["gauntlet"] |= _CHEAP
    if name == "11m":
        document["name"] = name
        document["model"] |= _LARGER
        document["inner"] |= {"steps": 15, "lr": 1e-3, "final_lr": 1e-4}
    return Template.model_validate(document)


def path(name: str, round_: int) -> Path:
    """Where an accumulator is kept."""
    return CACHE / f"{name}-r{round_}.npz"


def load(name: str, round_: int) -> tuple[list[Tensor], Grid]:
    """A captured accumulator and its grid; captured now if it was not before."""
    if not path(name, round_).exists():
        capture(name)
    with np.load(path(name, round_)) as stored:
        acc = [torch.from_numpy(stored[key]) for key in stored.files]
    return acc, Grid([tuple(tensor.shape) for tensor in acc])


def capture(name: str) -> None:
    """Play the run and write what its first miner folded in each of ROUNDS."""

    wanted = set(ROUNDS[name])

    def compress_recorded(task: Task, delta: Delta, error: Sequence[Tensor]) -> SparseUpdate:
        """Leave a copy of what is about to be compressed."""
        tip = task.tip
        if tip.round + 1 in wanted and task.context.location == f"mem:{CAPTURED}":
            acc = fold(error, delta.tensors, tip.spec.sparse.error_decay)
            np.savez(path(name, tip.round + 1), *(tensor.numpy() for tensor in acc))
        return stages.compress(task, delta, error)

    torch.set_num_threads(1)
    CACHE.mkdir(exist_ok=True)
    made = template(name)
    with tempfile.TemporaryDirectory() as folder:
        manifest = build_corpus(None, Path(folder), made.data.window)
        text = TextReader.open(Path(folder), manifest.digest)
        roster = Roster.of(SEED, MINERS[name], 1, {})
        recorder = partial(local_miner, stages=Stages(compress=compress_recorded))
        simulator = Simulator(roster, roster.spec(made, manifest), text, makers=lambda _behaviour: recorder)
        asyncio.run(simulator.run(max(wanted)))


def main() -> None:
    """Capture what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ROUNDS)}; all if none is given")
    for name in parser.parse_args().names or ROUNDS:
        if not all(path(name, round_).exists() for round_ in ROUNDS[name]):
            capture(name)
        for round_ in ROUNDS[name]:
            acc, grid = load(name, round_)
            print(f"{path(name, round_)}: {sum(t.numel() for t in acc)} values in {grid.tiles} tiles")


if __name__ == "__main__":
    main()
