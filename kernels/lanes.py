"""Copies beside computation: what lies in host memory passes through a device by way of a few small buffers.

A device works off *lanes*: queues, each in its own order, one beside the others. A *mark* is a place in one of them;
another lane, or the host, can wait until it is reached. Which waits keep a buffer from being written while it is still
read is decided here, once, whatever the device; `muster.kernels.cuda.lanes` has the lanes of a GPU, and a test has
lanes that are worked off in any order that the waits allow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from torch import Tensor

PIECE = 1 << 24
"""Entries of a piece: 64 MiB, which a copy takes longer for than to be asked for."""

IN_FLIGHT = 2
"""Pieces under way: one is computed with while the next one is on its way in and the last one on its way out."""


class Mark(Protocol):
    """A place in a lane: reached once all that was put into the lane before it is done."""

    def wait(self) -> None:
        """The host does nothing until it is reached."""


class Lane(Protocol):
    """A queue that a device works off in order."""

    def run(self, work: Callable[[], object]) -> None:
        """Put in what `work` asks of the device; the host does not wait for it."""

    def after(self, mark: Mark) -> None:
        """What is put in from here on is done after a mark, of any lane."""

    def mark(self) -> Mark:
        """The place that the lane's end has now."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """A device's lanes, and its memory.

    Attributes:
        compute: where programs run, and what was asked of the device before.
        inward: copies from host memory.
        outward: copies to host memory.
        host: fp32 memory (n,) of the host that copies can run from and to beside everything else.
        room: fp32 memory (n,) of the device.
    """

    compute: Lane
    inward: Lane
    outward: Lane
    host: Callable[[int], Tensor]
    room: Callable[[int], Tensor]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a tensor on the device, flat and contiguous, and what is to be done with it.

    Attributes:
        there: the part itself, fp32 (n,): what `work` changes, and what goes out.
        source: as much of host memory, which comes in; None for nothing.
        target: where in host memory `there` goes after `work`; None for nowhere.
        work: asks the device to compute; given what came in, fp32 (n,) on the device, or None.
    """

    there: Tensor
    source: Tensor | None
    target: Tensor | None
    work: Callable[[Tensor | None], object]


def pass_through(pieces: Iterable[Piece], lanes: Lanes, most: int) -> None:
    """Bring each piece's source in, work, and take the result out, with copies beside the work of other pieces.

    The results are those of one piece after the other: all have arrived when this returns, or raises. Beside the pieces
    it takes, for each of two pieces in flight, at most a buffer on the device and two in the host's memory, of `most`
    entries each: as many as the largest piece has. Every buffer has been waited for when it is given up, so none needs
    to be told to an allocator as used by another lane.
    """
    # What the buffers' memory was before may still be in use by what was asked for earlier.
    lanes.inward.after(lanes.compute.mark())
    free, busy = deque(_Berth(lanes, most) for _ in range(IN_FLIGHT)), deque[_Berth]()
    try:
        for piece in pieces:
            if not free:
                busy[0].finish()
                free.append(busy.popleft())
            busy.append(free.popleft())
            busy[-1].begin(piece)
        for berth in busy:
            berth.finish()
    finally:
        for lane in (lanes.inward, lanes.compute, lanes.outward):
            lane.mark().wait()


@dataclass(slots=True)
class _Berth:
    """The buffers of one piece in flight, made when they are first needed, and the marks after which they are free."""

    lanes: Lanes
    most: int
    piece: Piece | None = None
    brought: Mark | None = None
    worked: Mark | None = None
    taken: Mark | None = None
    _buffers: dict[str, Tensor] = field(default_factory=dict)

    def begin(self, piece: Piece) -> None:
        """Ask for everything that is to be done with a piece."""
        self.piece = piece
        came = self._bring(piece.source) if piece.source is not None else None
        self.lanes.compute.run(partial(piece.work, came))
        self.worked = self.lanes.compute.mark()
        if piece.target is not None:
            self.lanes.outward.after(self.worked)
            out = self._buffer("out", self.lanes.host, piece.there.numel())
            self.lanes.outward.run(partial(out.copy_, piece.there, non_blocking=True))
            self.taken = self.lanes.outward.mark()

    def finish(self) -> None:
        """Wait for the piece's result, and put it where it belongs."""
        assert self.piece is not None
        if self.piece.target is not None:
            assert self.taken is not None
            self.taken.wait()
            self.piece.target.copy_(self._buffers["out"][: self.piece.target.numel()])

    def _bring(self, source: Tensor) -> Tensor:
        """The source on the device, once what runs in the compute lane from here on runs."""
        if self.brought is not None:
            self.brought.wait()  # until then the last source is copied from this buffer
        staged = self._buffer("in", self.lanes.host, source.numel())
        staged.copy_(source)
        if self.worked is not None:
            self.lanes.inward.after(self.worked)  # until then the last source is worked with
        there = self._buffer("there", self.lanes.room, source.numel())
        self.lanes.inward.run(partial(there.copy_, staged, non_blocking=True))
        self.brought = self.lanes.inward.mark()
        self.lanes.compute.after(self.brought)
        return there

    def _buffer(self, name: str, make: Callable[[int], Tensor], entries: int) -> Tensor:
        if name not in self._buffers:
            self._buffers[name] = make(self.most)
        return self._buffers[name][:entries]
