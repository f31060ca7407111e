"""A second process of a hotkey, for tests: does one thing, says a line about it, and stays until it is killed or done.

lock PATH NAME         holds a lock
turn FOLDER            has the turn to write
line FOLDER            waits in line
half CHAIN FOLDER      has written an anchor of round 0, and not yet looked whether it stands
anchors CHAIN FOLDER COUNT, locations CHAIN FOLDER COUNT    commits so many, once it is told to begin

CHAIN is a file, or a subnet of Bittensor as ws://HOST:PORT#NETUID.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from muster.node.lock import Holder, held
from muster.node.turns import Lane, Turns
from muster.node.writes import QueuedWrites
from muster.protocol.chain.base import Chain
from muster.protocol.chain.sqlite import SqliteChain
from muster.protocol.identity import Identity
from muster.protocol.types import Anchor

LEDGER = "local"
OPERATOR = Identity.derive(5, "operator")
SINCE = 1_700_000_000.0


@contextmanager
def other_process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Such a process; it ends with the block at the latest."""
    command = [sys.executable, __file__, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """What it says next; "" once it has ended."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def digest(round_: int) -> bytes:
    """The record of a round that exists only here."""
    return bytes([round_]) * 32


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


async def _lock(path: str, name: str) -> None:
    async with held(Path(path), Holder(os.getpid(), "host", name, SINCE, "/runs/one")):
        _say("held")
        await asyncio.Event().wait()


async def _turn(folder: str) -> None:
    async with Turns(Path(folder), LEDGER, "the other daemon").turn(Lane.OTHER):
        _say("writing")
        await asyncio.Event().wait()


async def _line(folder: str) -> None:
    async def sleep(_: float) -> None:
        _say("waiting")
        await asyncio.Event().wait()

    async with Turns(Path(folder), LEDGER, "the other daemon", sleep=sleep).turn(Lane.ANCHOR):
        raise AssertionError("its turn must not come")


class _CutOff(SqliteChain):
    """A client that is cut off from the chain once it has written to it."""

    async def commit(self, identity: Identity, location: str, anchor: Anchor | None = None) -> None:
        await super().commit(identity, location, anchor)
        _say("written")
        await asyncio.Event().wait()


async def _half(chain: str, folder: str) -> None:
    writes = QueuedWrites(_CutOff(Path(chain)), Turns(Path(folder), LEDGER, "the other daemon"))
    await writes.commit(OPERATOR, "dir:a", Anchor(0, digest(0)))


def _open(chain: str) -> Chain:
    url, found, netuid = chain.partition("#")
    if not found:
        return SqliteChain(Path(chain))
    from muster.protocol.chain.bittensor import BittensorChain

    return BittensorChain([url], int(netuid))


async def _write(what: str, chain: str, folder: str, count: str) -> None:
    """Commit `count` times, and look after each whether what was committed before is still there."""
    writes = QueuedWrites(_open(chain), Turns(Path(folder), LEDGER, what))
    _say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    for i in range(int(count)):
        if what == "anchors":
            await writes.commit(OPERATOR, "dir:as-it-was-at-my-start", Anchor(i, digest(i)))
            mine = [seen.anchor for seen in await writes.anchors(0) if seen.hotkey == OPERATOR.hotkey]
            assert mine == [Anchor(j, digest(j)) for j in (range(i + 1) if writes.remembers else (i,))]
        else:
            await writes.commit(OPERATOR, f"dir:{i}")
            assert (await writes.snapshot()).by_hotkey()[OPERATOR.hotkey].location == f"dir:{i}"
    await writes.close()
    _say("done")


async def _main(what: str, *arguments: str) -> None:
    match what:
        case "lock":
            await _lock(*arguments)
        case "turn":
            await _turn(*arguments)
        case "line":
            await _line(*arguments)
        case "half":
            await _half(*arguments)
        case _:
            await _write(what, *arguments)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
