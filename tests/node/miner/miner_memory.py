"""Has a miner do its first rounds in a process of its own, and prints what memory that takes in units of θ.

    python tests/node/miner/miner_memory.py tiny|30m FOLDER

One JSON object: θ's bytes, `resident` after the rounds and `peak` over them, both beyond what the process was when a
miner of a few thousand parameters had done a round in it: so the code counts little, but for the compiled kernels,
which that one does without. Activations are those of 3 windows of 16 tokens.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from pathlib import Path

import torch
from builders import run_spec
from miner_world import SPEC, World, next_round
from state_memory import MODEL, resident

from muster.node.freed import give_back
from muster.protocol.spec import RunSpec, load_template

MODELS = {"tiny": load_template("tiny").model, "30m": MODEL}
ROUNDS = 2


async def rounds(spec: RunSpec, state: Path) -> tuple[int, int]:
    """The first rounds of a miner of a run; what is resident after them, and θ's bytes."""
    miner = (await World.begin(state)).miner(spec=spec)
    for _ in range(ROUNDS):
        await miner.train()
        await next_round(miner)
    gc.collect()
    give_back()
    return resident("VmRSS"), 4 * miner.tip.layout.parameters


def main() -> None:
    """Warm up, then measure."""
    torch.set_num_threads(1)
    spec, folder = run_spec(model=MODELS[sys.argv[1]].model_dump()), Path(sys.argv[2])
    before, _ = asyncio.run(rounds(SPEC, folder / "small"))
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew from here
    after, theta = asyncio.run(rounds(spec, folder / "state"))
    peak = resident("VmHWM") - before
    sys.stdout.write(json.dumps({"theta": theta, "resident": (after - before) / theta, "peak": peak / theta}))


if __name__ == "__main__":
    main()
