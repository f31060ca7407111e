"""A miner killed at any instant of a round comes back to the same submission and the same error feedback."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from miner_world import ME, SPEC, World, answer, seal_of
from torch import Tensor

from muster.node.miner import Miner
from muster.node.miner.engine import Engine
from muster.node.miner.inner import LocalEngine
from muster.node.miner.state import Entry, Made, load_state
from muster.protocol import paths, wire
from muster.protocol.faults import Faults
from muster.protocol.spec.layout import Layout


class Killed(BaseException):
    """The end of a process; nothing catches it."""


class Clock:
    """Counts the instants of a life; the process dies at the one given (0: never)."""

    def __init__(self, dies_at: int) -> None:
        self.instants = 0
        self._dies_at = dies_at

    def tick(self) -> None:
        """An instant passes."""
        self.instants += 1
        if self.instants == self._dies_at:
            raise Killed


class Ticking(Faults):
    """Every named point is an instant."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def trip(self, point: str) -> None:
        super().trip(point)
        self._clock.tick()


def around(call: Callable[..., Any], clock: Clock) -> Callable[..., Any]:
    """The call, with an instant before and one after it."""

    def ticking(*args: Any, **how: Any) -> Any:
        clock.tick()
        result = call(*args, **how)
        clock.tick()
        return result

    return ticking


async def live(world: World, clock: Clock, engine: Engine | None = None) -> Miner:
    """A life through round 0: train, put, see the seal, show the key; every step to the disk and back is an instant."""
    with pytest.MonkeyPatch.context() as patched:
        for owner, name in ((os, "open"), (os, "fsync"), (Path, "replace")):
            patched.setattr(owner, name, around(getattr(owner, name), clock))
        world.bucket.watch = clock.tick
        miner = world.miner(faults=Ticking(clock), engine=engine)
        await miner.train()
        assert miner.made is not None
        await answer(miner, seal_of(miner, wire.decode_submission(miner.made.submission, miner.tip.run_id)[0].digest))
    return miner


Bits = tuple[list[bytes], dict[str, bytes]]


def bits(error: Iterable[Tensor], moments: Iterable[Entry]) -> Bits:
    """e and the moments, as bytes."""
    return (
        [tensor.numpy().tobytes() for tensor in error],
        {f"{name}/{part}": tensor.numpy().tobytes() for name, entry in moments for part, tensor in entry.items()},
    )


def state_of(path: Path, layout: Layout) -> tuple[Bits, Made | None]:
    """e and the moments of a state file, and the submission in it."""
    moments: list[Entry] = []
    state = load_state(path, layout, moments.extend)
    return bits(state.error, moments), state.made


async def test_two_lives_are_as_good_as_one(tmp_path: Path) -> None:
    whole, clock = await World.begin(tmp_path / "whole" / "memory.safetensors"), Clock(0)
    assert whole.state is not None
    engine = LocalEngine(SPEC.model, SPEC.inner)
    survivor = await live(whole, clock, engine)
    layout = survivor.tip.layout
    undisturbed, _ = state_of(whole.state, layout)
    assert undisturbed == bits(survivor.error_feedback, engine.state())
    assert clock.instants >= 15
    trained_again = []
    for instant in range(1, clock.instants + 1):
        world = await World.begin(tmp_path / str(instant) / "memory.safetensors")
        assert world.state is not None
        with pytest.raises(Killed):
            await live(world, Clock(instant))
        _, stored = state_of(world.state, layout)
        assert stored is not None or not world.bucket.puts, "nothing is sent before it is durable"
        miner = await live(world, Clock(0))
        trained_again.append(len(world.events("trained")) > 1)
        (submission,) = set(world.submissions())
        assert world.bucket.puts[-1][0].endswith((".key", ".sub")), "all of it is up in the end"
        assert miner.made is not None
        assert submission == miner.made.submission
        assert stored is None or submission == stored.submission, "what was stored is sent, not made again"
        shown = world.bucket.put_under(paths.key(miner.tip.run_id, 0))
        assert {wire.decode_key(data, miner.tip.run_id, 0, ME.public).payload_key for data in shown} == {miner.made.key}
        assert state_of(world.state, layout)[0] == undisturbed, "e and moments are those of one life"
    assert True in trained_again
    assert False in trained_again
