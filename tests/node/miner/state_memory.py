"""Saves and loads the state of a miner of 30M parameters in a process of its own, and prints what that took at most.

    python tests/node/miner/state_memory.py FILE

One JSON object: bytes of the state and of its largest tensor, and for `save` and `load` the peak of resident memory
over what is resident once it is done (so the state itself does not count). For a process that does nothing else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from muster.node.miner.inner import LocalEngine
from muster.node.miner.state import Entry, Made, MinerState, load_state, save_state
from muster.protocol.spec import InnerSpec, ModelSpec, load_template
from muster.protocol.spec.layout import layout_of

MODEL = ModelSpec(
    vocab=8192,
    hidden=512,
    layers=8,
    heads=8,
    kv_heads=8,
    head_dim=64,
    ffn=1408,
    context=128,
    rope_theta=10_000.0,
    norm_eps=1e-5,
    tied=True,
    init_std=0.02,
)


def resident(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at its peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024


def peak_over_the_end(work: Callable[[], object]) -> int:
    """By how much the memory of some work exceeds what stays of it; its result is kept until this is measured."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew from here
    result = work()
    peak = resident("VmHWM") - resident("VmRSS")
    del result
    return peak


def main() -> None:
    """Save, forget, load."""
    torch.set_num_threads(1)
    layout, inner, path = layout_of(MODEL), load_template("tiny").inner, Path(sys.argv[1])
    made = Made(7, bytes(32), bytes(32), bytes(layout.parameters // 50))
    save = peak_over_the_end(lambda: save_filled(path, inner, made))

    def load() -> tuple[MinerState, LocalEngine]:
        engine = LocalEngine(MODEL, inner)
        return load_state(path, layout, engine.load_state), engine

    took = {
        "parameters": layout.parameters,
        "state": path.stat().st_size,
        "largest": 4 * max(layout.grid.numel),
        "save": save,
        "load": peak_over_the_end(load),
    }
    sys.stdout.write(json.dumps(took))


def save_filled(path: Path, inner: InnerSpec, made: Made) -> tuple[MinerState, LocalEngine]:
    """Save a state with a number in every place."""
    layout, engine = layout_of(MODEL), LocalEngine(MODEL, inner)

    def moments() -> Iterator[Entry]:
        for name, shape in zip(layout.names, layout.shapes, strict=True):
            yield name, {"exp_avg": torch.ones(shape), "exp_avg_sq": torch.ones(shape), "step": torch.tensor(1.0)}

    engine.load_state(moments())
    state = MinerState(tuple(torch.ones(shape) for shape in layout.shapes), made)
    save_state(path, layout, state, engine.state)
    return state, engine


if __name__ == "__main__":
    main()
