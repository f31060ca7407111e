"""A device whose lanes are worked off in any order that their waits allow, on the CPU."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from muster.kernels.lanes import Lanes, Mark


@dataclass(eq=False)
class Device:
    """What was asked for and is not done yet; `eagerness` is the chance that more is done before the next request.

    `deaf` is the number of the wait, of a lane or of the host, that is not kept: what goes wrong then shows that it is
    needed.
    """

    seed: int
    eagerness: float
    deaf: int = -1
    waits: list[str] = field(default_factory=list)
    lanes: list[Queue] = field(default_factory=list)
    host: list[int] = field(default_factory=list)
    room: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def make(self) -> Lanes:
        self.lanes = [Queue(self, name) for name in ("compute", "inward", "outward")]
        compute, inward, outward = self.lanes
        return Lanes(compute, inward, outward, self._memory(self.host), self._memory(self.room))

    def keeps(self, wait: str) -> bool:
        self.waits.append(wait)
        return len(self.waits) - 1 != self.deaf

    def some(self) -> None:
        while self._random.random() < self.eagerness and self.one():
            pass

    def one(self) -> bool:
        """Do one thing, of any lane that need not wait; False where there is none."""
        ready = [lane for lane in self.lanes if lane.ready()]
        if ready:
            self._random.choice(ready).do()
        return bool(ready)

    def until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            assert self.one(), "the lanes wait for each other"

    @staticmethod
    def _memory(asked: list[int]) -> Callable[[int], Tensor]:
        def make(entries: int) -> Tensor:
            asked.append(entries)
            return torch.full((entries,), torch.nan)

        return make


@dataclass(eq=False)
class Queue:
    """A lane: work, and the marks of others that it waits for, in order."""

    device: Device
    name: str
    asked: deque[Callable[[], object] | Place] = field(default_factory=deque)
    put: int = 0
    done: int = 0

    def run(self, work: Callable[[], object]) -> None:
        self.device.some()
        self._put(work)

    def after(self, mark: Mark) -> None:
        assert isinstance(mark, Place)
        if self.device.keeps(f"{self.name} after {mark.lane.name}"):
            self._put(mark)

    def mark(self) -> Mark:
        return Place(self, self.put)

    def _put(self, one: Callable[[], object] | Place) -> None:
        self.asked.append(one)
        self.put += 1

    def ready(self) -> bool:
        return bool(self.asked) and (not isinstance(self.asked[0], Place) or self.asked[0].reached())

    def do(self) -> None:
        first = self.asked.popleft()
        if not isinstance(first, Place):
            first()
        self.done += 1


@dataclass(frozen=True)
class Place:
    """A mark."""

    lane: Queue
    at: int

    def reached(self) -> bool:
        return self.lane.done >= self.at

    def wait(self) -> None:
        if self.lane.device.keeps(f"host after {self.lane.name}"):
            self.lane.device.until(self.reached)
