"""The line for a hotkey's writes: anchors first, then by arrival; the dead hold nobody up, and waiting has an end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx
from hotkey_process import LEDGER, line, other_process

from muster.node.turns import Lane, Turn, Turns
from muster.protocol.errors import RateLimited, StorageError

WAITING = 300.0
"""Seconds that no wait lasts unless something is wrong."""

SHORT = 0.05


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A hotkey's folder, not made yet."""
    return tmp_path / "muster" / "hotkeys" / "5Hot"


@pytest.fixture
def line_up(folder: Path) -> Callable[..., Turns]:
    """Makes a process's end of the line; times of arrival are counted."""
    arrivals = itertools.count()

    async def sleep(_: float) -> None:
        await asyncio.sleep(0)

    def make(who: str = "me", patience: float = WAITING) -> Turns:
        return Turns(folder, LEDGER, who, patience=patience, clock=lambda: next(arrivals), sleep=sleep)

    return make


def tickets(folder: Path) -> list[str]:
    """Everybody in line, and what may be left of them."""
    return sorted(path.name for path in folder.iterdir() if "ticket" in path.name)


async def until(condition: Callable[[], bool]) -> None:
    """Let others work until something is true."""
    async with asyncio.timeout(WAITING):
        while not condition():  # noqa: ASYNC110 (what it waits for is in a folder)
            await asyncio.sleep(0)


@pytest.mark.parametrize("lanes", [*itertools.product(Lane, repeat=3)])
async def test_anchors_first_then_by_arrival(
    folder: Path, line_up: Callable[..., Turns], lanes: tuple[Lane, ...]
) -> None:
    came: list[int] = []

    async def write(place: int, lane: Lane) -> None:
        async with line_up().turn(lane):
            came.append(place)

    async with asyncio.TaskGroup() as tasks, line_up().turn(Lane.OTHER):
        for place, lane in enumerate(lanes):
            tasks.create_task(write(place, lane))
            await until(lambda place=place: len(tickets(folder)) == place + 2)  # type: ignore[misc]
        assert came == []
    assert came == sorted(range(len(lanes)), key=lambda place: (lanes[place], place))
    assert tickets(folder) == []


async def test_the_dead_hold_nobody_up(folder: Path) -> None:
    """Neither who had the turn, nor who was the next to get it."""
    with other_process("turn", folder) as first:
        assert line(first) == "writing"
        with other_process("line", folder) as second:
            assert line(second) == "waiting"
            assert len(tickets(folder)) == 2
            for each in (first, second):
                each.kill()
                each.wait()
            async with Turns(folder, LEDGER, "me", patience=WAITING).turn(Lane.OTHER):
                assert len(tickets(folder)) == 1


async def test_the_living_are_waited_for_and_named(folder: Path, line_up: Callable[..., Turns]) -> None:
    with other_process("turn", folder) as first:
        assert line(first) == "writing"
        with pytest.raises(RateLimited, match=r"within 0.05 s.*the other daemon.*tried again"):
            async with line_up(patience=SHORT).turn(Lane.ANCHOR):
                pass
        assert len(tickets(folder)) == 1
        assert first.poll() is None


async def test_who_stops_waiting_leaves_the_line(folder: Path, line_up: Callable[..., Turns]) -> None:
    async def write() -> None:
        async with line_up().turn(Lane.ANCHOR):
            raise AssertionError("it is not its turn")

    async with line_up().turn(Lane.OTHER):
        waiting = asyncio.create_task(write())
        await until(lambda: len(tickets(folder)) == 2)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        assert len(tickets(folder)) == 1
    async with line_up().turn(Lane.OTHER):
        pass


def test_a_turn_does_not_come_to_who_has_left(folder: Path) -> None:
    turn = Turn(folder, LEDGER, "1-0-a", "me")
    turn.leave()
    assert not turn.come()
    other = Turn(folder, LEDGER, "1-1-b", "you")
    assert other.come()
    other.leave()
    assert tickets(folder) == []


def test_the_next_one_is_told_of_the_last_write(folder: Path) -> None:
    first, second = (Turn(folder, LEDGER, f"1-{i}-x", "me") for i in range(2))
    assert first.come()
    assert first.block() == 0
    first.confirm(41)
    first.leave()
    assert second.come()
    assert second.block() == 41
    second.leave()


def test_a_damaged_note_is_none(folder: Path) -> None:
    turn = Turn(folder, LEDGER, "1-0-a", "me")
    folder.mkdir(parents=True)
    turn.lock.write_bytes(b"\xff\x00 nonsense")
    assert turn.come()
    assert turn.block() == 0
    turn.leave()


async def test_a_folder_that_cannot_be_used_is_named(folder: Path, line_up: Callable[..., Turns]) -> None:
    await asyncio.to_thread(folder.parent.mkdir, parents=True)
    await asyncio.to_thread(folder.touch)
    with pytest.raises(StorageError, match="cannot queue writes to the chain in"):
        async with line_up().turn(Lane.OTHER):
            pass


async def test_the_loop_is_not_blocked(folder: Path, line_up: Callable[..., Turns]) -> None:
    with other_process("turn", folder) as first:
        assert await asyncio.to_thread(line, first) == "writing"
        with blockbuster_ctx(scanned_modules=["muster"]):
            with pytest.raises(RateLimited):
                async with line_up(patience=SHORT).turn(Lane.OTHER):
                    pass
            first.kill()
            async with line_up().turn(Lane.OTHER) as turn:
                await asyncio.to_thread(turn.confirm, 3)
