"""A chain file is read as it is now, whoever writes it meanwhile, and nothing of it changes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from files_left_alone import picture

from muster.protocol.chain import sqlite_reader
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.sqlite import SqliteChain
from muster.protocol.chain.sqlite_reader import SqliteChainReader
from muster.protocol.errors import ChainError, NotPermitted
from muster.protocol.identity import Identity
from muster.protocol.types import Anchor

ALICE, BOB = (Identity.derive(1, name) for name in ("a", "b"))
GENESIS = ChainGenesis(7, {ALICE.hotkey: 60, BOB.hotkey: 40}, tempo=10, weights_rate_limit=0)
BLOCK_SECONDS = 0.5
COPIES, COMMITS = 30, 400


class Wall:
    """Wall time that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
async def writer(tmp_path: Path, wall: Wall) -> AsyncIterator[SqliteChain]:
    """A client that writes, with two anchors that only the log holds yet."""
    path = tmp_path / "run" / "chain.sqlite"
    path.parent.mkdir()
    chain = SqliteChain.create(path, GENESIS, block_seconds=BLOCK_SECONDS, clock=wall)
    await chain.register(ALICE)
    for round_ in range(2):
        await chain.commit(ALICE, "dir:alice", Anchor(round_, bytes([round_]) * 32))
    yield chain
    await chain.close()


@pytest.fixture
async def reader(writer: SqliteChain, wall: Wall) -> AsyncIterator[SqliteChainReader]:
    chain = SqliteChainReader(writer.path, clock=wall)
    yield chain
    await chain.close()


def spoil_log(path: Path) -> None:
    """What a crash in the middle of a write leaves: half a page after the last whole one."""
    with path.with_name("chain.sqlite-wal").open("ab") as log:
        log.write(os.urandom(2_000))


async def test_it_says_what_the_writer_says(writer: SqliteChain, reader: SqliteChainReader, wall: Wall) -> None:
    wall.now += 7 * BLOCK_SECONDS
    assert await reader.head() == await writer.head()
    assert await reader.snapshot() == await writer.snapshot()
    assert await reader.anchors(0) == await writer.anchors(0)
    assert len(await reader.anchors(0)) == 2
    assert await reader.block(7) == await writer.block(7)
    assert await reader.beacon("assign", 3, 7) == await writer.beacon("assign", 3, 7)
    with pytest.raises(ChainError, match="no block 8 yet"):
        await reader.block(8)


async def test_it_sees_what_is_committed_later(writer: SqliteChain, reader: SqliteChainReader) -> None:
    assert len(await reader.anchors(0)) == 2
    await writer.commit(ALICE, "dir:elsewhere", Anchor(2, bytes(32)))
    assert len(await reader.anchors(0)) == 3
    assert (await reader.snapshot()).peers[0].location == "dir:elsewhere"


async def test_nothing_is_written_while_a_writer_is_there(
    writer: SqliteChain, reader: SqliteChainReader, wall: Wall
) -> None:
    before = picture(writer.path.parent)
    assert set(before) == {".", "chain.sqlite", "chain.sqlite-wal", "chain.sqlite-shm", "chain.sqlite-bell"}
    wall.now += 3 * BLOCK_SECONDS
    await reader.next_block(2)
    await reader.snapshot()
    await reader.close()
    assert picture(writer.path.parent) == before


@pytest.mark.parametrize("ended", ["cleanly", "killed", "in the middle of a write", "elsewhere, behind a link"])
async def test_nothing_is_written_when_the_run_is_over(
    writer: SqliteChain, wall: Wall, tmp_path: Path, ended: str
) -> None:
    folder = tmp_path / "over"
    if ended == "cleanly":
        await writer.close()
    shutil.copytree(writer.path.parent, folder, ignore=shutil.ignore_patterns("*-shm"))
    path = folder / "chain.sqlite"
    if ended == "in the middle of a write":
        spoil_log(path)
    if ended.startswith("elsewhere"):
        path = tmp_path / "linked" / "other-name"
        path.parent.mkdir()
        path.symlink_to(folder / "chain.sqlite")
    before = picture(folder)
    assert ("chain.sqlite-wal" in before) == (ended != "cleanly")
    reader = SqliteChainReader(path, clock=wall)
    assert [seen.anchor.round for seen in await reader.anchors(0)] == [0, 1]
    await reader.head()
    await reader.close()
    assert picture(folder) == before


async def test_it_refuses_to_write(reader: SqliteChainReader) -> None:
    for call in (reader.register(BOB), reader.commit(ALICE, "dir:x"), reader.set_weights(ALICE, {0: 1})):
        with pytest.raises(NotPermitted, match="opened for reading"):
            await call
    assert len((await reader.snapshot()).peers) == 1


async def test_no_height_is_seen_twice_when_the_clock_jumps_back(
    writer: SqliteChain, reader: SqliteChainReader, wall: Wall
) -> None:
    wall.now += 10 * BLOCK_SECONDS
    assert (await reader.head()).number == 10
    wall.now -= 8 * BLOCK_SECONDS
    assert (await reader.head()).number == 10
    wall.now += BLOCK_SECONDS
    assert (await reader.head()).number == 11
    assert (await writer.head()).number == 3, "the writer never knew of the jump"


@pytest.mark.parametrize("begins_anew", [True, False])
async def test_a_checkpoint_in_the_middle_of_a_copy(
    writer: SqliteChain, reader: SqliteChainReader, monkeypatch: pytest.MonkeyPatch, *, begins_anew: bool
) -> None:
    """Of file and log copied on the two sides of a checkpoint, half of the chain would be lost."""
    copied: list[Path] = []
    plain = sqlite_reader._copy_file

    def interrupted(source: Path, target: Path) -> None:
        plain(source, target)
        copied.append(source)
        if len(copied) == 1:
            with sqlite3.connect(writer.path) as other:
                mode = "TRUNCATE" if begins_anew else "PASSIVE"
                assert other.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[0] == 0
                other.execute("UPDATE stakes SET stake = 41 WHERE stake = 40")
            other.close()

    monkeypatch.setattr(sqlite_reader, "_copy_file", interrupted)
    assert len(await reader.anchors(0)) == 2
    assert len(copied) == 4 or not begins_anew, "file and log, twice"
    assert (await reader._run(lambda _, genesis: genesis)).stakes[BOB.hotkey] == 41


async def test_a_file_that_never_holds_still(
    reader: SqliteChainReader, writer: SqliteChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = sqlite_reader._copy_file

    def moving(source: Path, target: Path) -> None:
        plain(source, target)
        os.utime(writer.path, ns=(0, writer.path.stat().st_mtime_ns + 1))

    monkeypatch.setattr(sqlite_reader, "_copy_file", moving)
    with pytest.raises(ChainError, match="faster than it can be copied"):
        await reader.head()


def long_location(round_: int) -> str:
    """One of its round."""
    return f"dir:{'b' * (round_ % 300)}"


def commit_for_ever(path: Path, start: Any) -> None:
    """One process: anchors as fast as they go, and a checkpoint every few pages."""

    async def work() -> None:
        chain = SqliteChain(path)
        await chain._run(lambda connection, _: connection.execute("PRAGMA wal_autocheckpoint = 8"))
        for round_ in range(COMMITS):
            await chain.commit(BOB, long_location(round_), Anchor(round_, bytes(32)))
        await chain.close()

    start.set()
    asyncio.run(work())


async def test_every_copy_of_a_busy_chain_is_one_moment_of_it(tmp_path: Path) -> None:
    path = tmp_path / "chain.sqlite"
    chain = SqliteChain.create(path, GENESIS, block_seconds=BLOCK_SECONDS)
    await chain.register(BOB)
    await chain.close()
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Event()
    worker = spawn.Process(target=commit_for_ever, args=(path, start), daemon=True)
    worker.start()
    assert await asyncio.to_thread(start.wait, 60)
    seen = [0]
    while worker.is_alive() or len(seen) <= COPIES:
        reader = SqliteChainReader(path)
        rows = await reader._run(
            lambda connection, _: (
                connection.execute("PRAGMA integrity_check").fetchone()[0],
                connection.execute("SELECT count(*), max(round) FROM anchors").fetchone(),
                connection.execute("SELECT nonce FROM nonces").fetchone()[0],
                connection.execute("SELECT location FROM members").fetchone()[0],
            )
        )
        whole, (anchors, newest), nonce, location = rows
        assert whole == "ok"
        assert anchors == nonce - 1 == (0 if newest is None else newest + 1)
        assert location == (None if newest is None else long_location(newest))
        seen.append(anchors)
        await reader.close()
    await asyncio.to_thread(worker.join, 60)
    assert worker.exitcode == 0
    assert seen == sorted(seen)
    assert seen[-1] == COMMITS


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (Path.unlink, "cannot be read: No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "no regular file"),
        (make_pipe, "no regular file"),
        (lambda path: make_pipe(path.with_name("chain.sqlite-wal")), "no regular file"),
        (lambda path: os.truncate(path, sqlite_reader.MAX_CHAIN_BYTES + 1), "no chain file has more"),
        (lambda path: path.write_bytes(b"not a database" * 100), "cannot be used: file is not a database"),
    ],
)
async def test_what_is_no_chain_file(reader: SqliteChainReader, spoil: Any, says: str) -> None:
    spoil(reader.path)
    with pytest.raises(ChainError, match=says):
        await reader.head()
