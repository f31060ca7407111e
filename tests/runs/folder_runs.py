"""A simulated run written to its folder, as the testnet's daemons would have left it: buckets and a chain file."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

from run_builders import MAX_BYTES, Stage

from muster.lab.simulator import SimulatedRun
from muster.protocol.chain.sqlite import SqliteChain
from muster.protocol.storage.directory import DirectoryStore

_LATE = 1e6
"""Seconds by which the chain is made older, so that every block a record names has been."""


def write_run(stage: Stage, run: SimulatedRun, below: int | None = None) -> None:
    """Fill the folder of a laid out run with what its simulation left behind; anchors of the rounds below only."""
    path = stage.run.path / "chain.sqlite"
    asyncio.run(_write(stage, run, below))
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE clock SET origin = origin - ?", (_LATE,))


async def _write(stage: Stage, run: SimulatedRun, below: int | None) -> None:
    chain = SqliteChain(stage.run.path / "chain.sqlite")
    for member in stage.roster.members:
        await chain.register(member.identity)
        await chain.commit(member.identity, f"dir:{member.name}")
        source = run.buckets.bucket(f"mem:{member.name}")
        target = DirectoryStore(stage.run.path / "buckets" / member.name, fsync=False)
        for info in await source.list():
            await target.put(info.key, await source.get(info.key, max_bytes=MAX_BYTES))
    members = {member.hotkey: member for member in stage.roster.members}
    for seen in await run.chain.anchors(0):
        if below is not None and seen.anchor.round >= below:
            continue
        member = members[seen.hotkey]
        await chain.commit(member.identity, f"dir:{member.name}", seen.anchor)
    await chain.close()
