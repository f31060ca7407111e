"""What probes find out: plain values that checks judge, so that every judgement can be tested without its cause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from muster.protocol.types import Origin

if TYPE_CHECKING:
    from muster.node.compute import Machine  # imports torch, which may be what is broken


@dataclass(frozen=True, slots=True)
class SoftwareFacts:
    """Versions, and for each package why it cannot be imported ("" where it can)."""

    python: tuple[int, int]
    torch: str
    torch_problem: str
    numba: str
    numba_problem: str
    triton: str
    triton_problem: str


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What there is to compute with (`card` None: no GPU that works, `problem` says why), how many GPUs torch counts,
    the kernel's `driver` ("": there is none), and the CUDA of torch's build ("": it is for CPUs)."""

    machine: Machine
    count: int
    driver: str
    torch_cuda: str


@dataclass(frozen=True, slots=True)
class SpeedFacts:
    """Seconds of one inner step of the run's model on `device` ("CPU", or the card's name).

    `estimated` is whether it is from the rate of a matrix product, `bf16` in what precision products are.
    """

    step_seconds: float
    estimated: bool
    device: str = "CPU"
    bf16: bool = False


@dataclass(frozen=True, slots=True)
class SpaceFacts:
    """Bytes of memory this process may have and has left, and of disk left where the state lies."""

    memory_bytes: int
    memory_available: int
    disk_folder: str
    disk_available: int


@dataclass(frozen=True, slots=True)
class ClockFacts:
    """How far this machine's clock is ahead of another's, in seconds (negative: behind)."""

    source: str
    ahead_seconds: float


@dataclass(frozen=True, slots=True)
class BucketFacts:
    """What came of writing, reading back with the public part of the location, and deleting. "" means it worked.

    `shared_folder` is a bucket that is a folder of this machine: it was only asked what this user may do there.
    `public_write_refused` is whether the public part alone could not write.
    """

    location: str
    shared_folder: bool
    write: str
    read: str
    delete: str
    public_write_refused: bool


@dataclass(frozen=True, slots=True)
class TransferFacts:
    """One object of `size` bytes sent to the own bucket and fetched again, in seconds."""

    size: int
    up_seconds: float
    down_seconds: float


@dataclass(frozen=True, slots=True)
class ChainFacts:
    """The newest block of a chain that makes them, seconds a block lasts, and which chain it is."""

    chain: str
    height: int
    block_seconds: float
    origin: Origin


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """What the chain says of a hotkey. `uid` is None where it is not registered; `stake` in smallest units.

    `registers_itself` is whether starting the participant registers it, as on a local chain.
    """

    hotkey: str
    uid: int | None
    stake: int
    permit: bool
    location: str | None
    registers_itself: bool


@dataclass(frozen=True, slots=True)
class LeaderFacts:
    """What is to be seen of one of the run's aggregators: the release in its hello, None where there is no hello yet.

    `conflict` is why this release does not understand it, `unreadable` why its bucket cannot be read; "" for neither.
    """

    hotkey: str
    software: str | None = None
    conflict: str = ""
    unreadable: str = ""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is at RUN."""

    run: str
    run_id: str
    preset: str
    parameters: int


@dataclass(frozen=True, slots=True)
class TextFacts:
    """The text a participant has: how many bytes, and whether its manifest is the one the run pins."""

    folder: str
    size: int


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """The hotkey file: whose it is and who may read it (its mode's nine permission bits).

    `holder` is the process of this machine that has the hotkey's role now, "" if there is none.
    """

    path: str
    hotkey: str
    mode: int
    holder: str = ""
