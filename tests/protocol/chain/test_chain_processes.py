"""The chain file under real processes that all write at once."""

import asyncio
import multiprocessing
import sqlite3
from pathlib import Path
from typing import Any

from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.sqlite import SqliteChain
from muster.protocol.identity import Identity
from muster.protocol.types import Anchor

PROCESSES, CALLS = 6, 15


def hammer(path: Path, name: str, worker: int, start: Any) -> None:
    """One process: commits and weights as fast as they go, while another one does so with the same hotkey."""

    async def work() -> None:
        chain = SqliteChain(path)
        identity = Identity.derive(1, name)
        for i in range(CALLS):
            await chain.commit(identity, f"{worker}/{i}", Anchor(i, bytes([worker]) * 32))
            await chain.set_weights(identity, {0: worker + 1, 1: i})
            await chain.next_block((await chain.head()).number)
        await chain.close()

    start.wait(60)
    asyncio.run(work())


async def test_no_update_of_six_processes_is_lost(tmp_path: Path) -> None:
    path, names = tmp_path / "chain", ("a", "b", "c")
    stakes = {Identity.derive(1, name).hotkey: 10 for name in names}
    chain = SqliteChain.create(path, ChainGenesis(7, stakes, weights_rate_limit=0, tempo=2), block_seconds=0.002)
    for name in names:
        await chain.register(Identity.derive(1, name))
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(PROCESSES)
    workers = [
        spawn.Process(target=hammer, args=(path, names[worker % 3], worker, start), daemon=True)
        for worker in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        await asyncio.to_thread(worker.join, 60)
    assert [worker.exitcode for worker in workers] == [0] * PROCESSES

    seen = await chain.anchors(0)
    assert sorted((a.anchor.round, a.anchor.digest[0]) for a in seen) == [
        (i, worker) for i in range(CALLS) for worker in range(PROCESSES)
    ]
    assert len({(a.block, a.index) for a in seen}) == PROCESSES * CALLS
    assert {p.location for p in (await chain.snapshot()).peers} <= {
        f"{worker}/{CALLS - 1}" for worker in range(PROCESSES)
    }
    await chain.close()
    with sqlite3.connect(path) as raw:
        nonces = raw.execute("SELECT nonce FROM nonces").fetchall()
    raw.close()
    assert nonces == [(1 + 2 * 2 * CALLS,)] * 3
