"""Whose write comes next, and what becomes of the line when a process stops or its disk is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from hotkey_process import LEDGER, OPERATOR, digest
from writes_world import Client, Ground, maker, until

from muster.node.drain import Drain
from muster.node.telemetry.ailments import Ailments
from muster.node.telemetry.events import Ailing, Event, Recovered
from muster.node.turns import Lane, Turns
from muster.node.writes import QueuedWrites
from muster.protocol.errors import DiskFailed
from muster.protocol.types import Anchor


@pytest.fixture
def daemon(tmp_path: Path) -> Callable[..., QueuedWrites]:
    return maker(tmp_path)


async def test_a_record_is_anchored_before_whatever_else_waits(daemon: Callable[..., QueuedWrites]) -> None:
    """However late it came: an operator's weights and a moved bucket wait for it, and nothing under way is cut."""
    ground = Ground()
    ground.gate.clear()
    writes = daemon(Client(ground))
    async with asyncio.TaskGroup() as tasks:
        for i, work in enumerate(
            (
                lambda: writes.set_weights(OPERATOR, {0: 1}),
                lambda: writes.set_weights(OPERATOR, {0: 2}),
                lambda: writes.commit(OPERATOR, "dir:moved"),
                lambda: writes.commit(OPERATOR, "dir:a", Anchor(7, digest(1))),
            )
        ):
            tasks.create_task(work())
            await until(lambda i=i: len(list(writes._turns._folder.glob("*.ticket"))) == i + 1)  # type: ignore[misc]
        assert ground.calls == ["weights"], "it is under way"
        ground.gate.set()
    assert ground.calls == ["weights", "commit dir:a 7", "weights", "commit dir:moved"]


async def test_who_has_been_told_to_stop_writes_nothing_and_holds_nobody_up(tmp_path: Path) -> None:
    """Its turn comes when it is stopping: the operator's other daemon has it at once."""
    ground, drain = Ground(), Drain()
    folder = tmp_path / "hotkey"
    stopping = QueuedWrites(Client(ground), Turns(folder, LEDGER, "me"), drain)
    other = QueuedWrites(Client(ground), Turns(folder, LEDGER, "the other"))
    async with Turns(folder, LEDGER, "the first").turn(Lane.OTHER):
        late = asyncio.create_task(stopping.set_weights(OPERATOR, {0: 1}))
        await until(lambda: len(list(folder.glob("*.ticket"))) == 2)
        assert await drain.finish(30.0) == ()
    await other.commit(OPERATOR, "dir:a")
    assert ground.calls == ["commit dir:a"]
    assert not late.done()
    late.cancel()
    await asyncio.wait({late})
    assert late.cancelled()


async def test_a_line_that_cannot_be_stood_in_is_said_and_heals(tmp_path: Path) -> None:
    """The state folder's disk is gone for a while: nothing is written out of turn meanwhile."""
    told: list[Event] = []
    folder, ground = tmp_path / "hotkey", Ground()
    writes = QueuedWrites(Client(ground), Turns(folder, LEDGER, "me"), ailments=Ailments(told.append))
    folder.touch()
    for _ in range(2):
        with pytest.raises(DiskFailed, match="cannot queue writes to the chain in"):
            await writes.commit(OPERATOR, "dir:a")
    assert ground.calls == []
    folder.unlink()
    await writes.commit(OPERATOR, "dir:a")
    assert ground.calls == ["commit dir:a"]
    assert [type(event) for event in told] == [Ailing, Recovered]
