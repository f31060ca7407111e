"""How much memory a checkpoint takes beside θ, measured in a process that does nothing else.

    python checkpoint_process.py tiny|30m SHARD_BYTES FOLDER

Prints one object: `make` and `join` (beside θ, at most), `largest_shard` and `noise` in bytes, `shards`. Of `tiny` the
interpreter's own allocations are counted (tracemalloc), because a process's resident memory is not known to a MiB; of
the other the resident memory, which knows of every copy, torch's too.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch

from muster.node.context import in_place
from muster.node.replica import Replica
from muster.node.replica.checkpoint import ShardInfo, check_shard, plan_shards, read_manifest
from muster.protocol import paths
from muster.protocol.ledger import Tip
from muster.protocol.spec import ModelSpec, load_template
from muster.protocol.spec.layout import layout_of
from muster.protocol.storage.directory import DirectoryStore
from muster.protocol.wire.manifest import TipInfo

TIP = TipInfo(amendments=(), leaders=(), proofs=(), past="", peers={})

RUN = bytes(32)
MODEL_30M = {"vocab": 8192, "hidden": 512, "layers": 8, "heads": 8, "kv_heads": 8, "head_dim": 64, "ffn": 1408}


def model_of(what: str) -> ModelSpec:
    """The model `tiny`, or one of 30 million parameters."""
    tiny = load_template("tiny").model
    return tiny if what == "tiny" else tiny.model_copy(update=MODEL_30M)


def resident(field: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (peak)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024


class Peak:
    """Memory taken at most since it was made, less what is kept of it at the end."""

    def __init__(self, traced: bool) -> None:
        self._traced = traced
        if traced:
            tracemalloc.stop()  # of what was measured before, nothing is counted
            tracemalloc.start()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._before = self._now()

    def _now(self) -> int:
        return tracemalloc.get_traced_memory()[0] if self._traced else resident("VmRSS")

    def beyond(self, kept: int) -> int:
        """Bytes, `kept` of them being the result's."""
        peak = tracemalloc.get_traced_memory()[1] if self._traced else resident("VmHWM")
        return peak - self._before - (0 if self._traced else kept)


async def main(what: str, shard_bytes: int, folder: Path) -> dict[str, int]:
    """What is measured."""
    torch.set_num_threads(1)
    model, store = model_of(what), DirectoryStore(folder)
    layout = layout_of(model)
    sizes = [shard.size for shard in plan_shards(layout, shard_bytes)]
    theta = 4 * layout.parameters
    held = Replica(model, RUN, [torch.full(shape, 0.5) for shape in layout.shapes], 0)
    traced = what == "tiny"

    async def put(name: str, data: bytes) -> None:
        await store.put(name, data)

    async def read(info: ShardInfo) -> bytes:
        data = await store.get(info.name, max_bytes=info.bytes)
        check_shard(info, data)
        return data

    async def warm(measure: Callable[[], Peak] = lambda: Peak(traced)) -> Peak:
        await held.save(
            0, TIP, put, in_place, shard_bytes
        )  # what is imported, opened or cached on the way is there now
        return measure()

    peak = await warm()
    await held.save(1, TIP, put, in_place, shard_bytes)
    make = peak.beyond(0)
    digest, _ = await held.save(0, TIP, put, in_place, shard_bytes)
    data = await store.get(paths.MANIFEST, max_bytes=1 << 20)
    manifest = read_manifest(data, digest, RUN, layout, shard_bytes)
    tip = cast(Tip, SimpleNamespace(layout=layout, spec=SimpleNamespace(model=model), run_id=RUN, outer_step=0))
    peak = await warm()
    joined = await Replica.load(tip, manifest, read, shard_bytes)
    join = peak.beyond(theta)
    assert joined.root() == held.root()
    noise = (64 << 10) if traced else (6 << 20)
    return {"make": make, "join": join, "largest_shard": max(sizes), "shards": len(sizes), "noise": noise}


if __name__ == "__main__":
    arguments: list[Any] = sys.argv[1:]
    print(  # noqa: T201 - what the test reads
        json.dumps(asyncio.run(main(arguments[0], int(arguments[1]), Path(arguments[2]))))
    )
