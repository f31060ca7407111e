"""A GPU's lanes are its streams: the current one computes, one at each side copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from muster.kernels.lanes import Lanes, Mark


@dataclass(frozen=True, slots=True)
class _Reached:
    """A mark: an event that a stream records."""

    event: torch.cuda.Event

    def wait(self) -> None:
        self.event.synchronize()


@dataclass(frozen=True, slots=True)
class _Stream:
    """A lane."""

    stream: torch.cuda.Stream

    def run(self, work: Callable[[], object]) -> None:
        with torch.cuda.stream(self.stream):
            work()

    def after(self, mark: Mark) -> None:
        assert isinstance(mark, _Reached)
        self.stream.wait_event(mark.event)

    def mark(self) -> Mark:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self.stream)
        return _Reached(event)


def lanes_of(device: torch.device) -> Lanes:
    """The lanes of a GPU, whose memory is pinned on the host's side."""
    inward, outward = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]
    return Lanes(
        compute=_Stream(torch.cuda.current_stream(device)),
        inward=_Stream(inward),
        outward=_Stream(outward),
        host=partial(torch.empty, dtype=torch.float32, pin_memory=True),
        room=partial(torch.empty, dtype=torch.float32, device=device),
    )
