"""What a part of the benchmark is and gives: a table, and whether bits differed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from benchmarks.gpu.toy import interpreted


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how large: on the GPU in earnest, or `dry`, at toy sizes by Triton's interpreter on the CPU."""

    dry: bool

    @property
    def device(self) -> torch.device:
        """Where θ is."""
        return torch.device("cpu") if self.dry else torch.device("cuda", 0)

    def programs(self) -> AbstractContextManager[None]:
        """Within, the kernels' public functions run the GPU programs; on a GPU they do anyway."""
        return interpreted() if self.dry else nullcontext()

    def ready(self) -> None:
        """Wait until the device has done all that it was asked for."""
        if not self.dry:
            torch.cuda.synchronize(self.device)

    def peak(self) -> str:
        """GiB of the device that were in use at once in this process, in words."""
        return "–" if self.dry else f"{torch.cuda.max_memory_allocated(self.device) / 2**30:.1f} GiB"

    def seconds(self, work: Callable[[], object]) -> float:
        """How long a call takes, until the device is done with it."""
        self.ready()
        began = time.perf_counter()
        work()
        self.ready()
        return time.perf_counter() - began

    def median(self, work: Callable[[], object], times: int) -> float:
        """The median of so many calls, after one that compiles; one in all when dry."""
        if self.dry:
            return self.seconds(work)
        work()
        return statistics.median(self.seconds(work) for _ in range(times))


@dataclass(frozen=True, slots=True)
class Found:
    """A table with a title, and sentences below it; `differs` where bits were not the reference's."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    differs: bool = False

    def joined(self, other: Found) -> Found:
        """One table of two that have the same columns."""
        notes = tuple(dict.fromkeys(self.notes + other.notes))
        return Found(self.title, self.header, self.rows + other.rows, notes, self.differs or other.differs)

    def markdown(self) -> str:
        """As a page shows it."""
        lines = [f"**{self.title}**", ""]
        if self.rows:
            lines += [_line(self.header), _line(["---"] * len(self.header)), *(_line(row) for row in self.rows), ""]
        lines += [f"{note}\n" for note in self.notes]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Section:
    """One part: its name, the seconds after which it is ended on a GPU, and what it does."""

    name: str
    budget: float
    work: Callable[[Setting], Found]

    def limit(self, setting: Setting) -> float:
        """Seconds after which it is ended; the interpreter beside other work is given more."""
        return 4 * self.budget if setting.dry else self.budget


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"
