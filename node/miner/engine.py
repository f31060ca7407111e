"""What trains, behind one interface: θ and windows in, a pseudo-gradient out; the miner knows no more of it.

`muster.node.miner.inner` has the engine of one device. Another one (many GPUs, many hosts, a counter for tests) gives
the same four answers and the miner around it stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from muster.node.miner.state import Entry
from muster.protocol.errors import RunFailed
from muster.protocol.spec import InnerSpec
from muster.protocol.spec.layout import Layout


class RoundLost(RunFailed):
    """This round's work cannot be done or shown; the miner goes on with the next round's."""

    code = "run.round_lost"


class Diverged(RoundLost):
    """Training produced a number that is not finite. The engine keeps its state, as the last finite step left it."""

    code = "run.diverged"


class ThetaView(Protocol):
    """θ as an engine sees it: to begin from, and to be compared with; it holds none of θ's tensors."""

    @property
    def layout(self) -> Layout:
        """θ's tensors: names, shapes and order."""

    def copy_into(self, parameters: Sequence[Tensor]) -> None:
        """Make `parameters`, in layout order and wherever they are, a copy of θ.

        Raises:
            ValueError: they do not have the layout's shapes.
        """

    def delta(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Δ = fl(θ − parameters), one rounding an entry: new fp32 tensors in layout order, contiguous.

        Raises:
            ValueError: they do not have the layout's shapes.
        """


@dataclass(frozen=True, slots=True)
class Job:
    """One round's inner training.

    `first_step` is the run-wide number of its first inner step, which sets the learning rate; `inner` is the spec's
    section as it is in this round; `windows` is int64 (n, window + 1), one training sequence a row.
    """

    round: int
    first_step: int
    inner: InnerSpec
    windows: Tensor

    @property
    def steps(self) -> int:
        """Inner steps of the whole job: one for each full batch of windows, H at most.

        Raises:
            ValueError: there is not one full batch.
        """
        steps = min(self.inner.steps, self.windows.shape[0] // self.inner.batch)
        if steps == 0:
            raise ValueError(
                f"one inner step takes {self.inner.batch} windows, only {self.windows.shape[0]} were given"
            )
        return steps


@dataclass(frozen=True, slots=True)
class Delta:
    """A round's pseudo-gradient Δ = θ − θ^(steps), held where the engine left it.

    `tensors` are fp32, contiguous, in layout order, and the receiver's: compression turns them into the error feedback
    of the next round. `steps` is how many inner steps ran, `loss` the mean training loss over them in nat/token,
    `seconds` the time they took.
    """

    tensors: tuple[Tensor, ...]
    steps: int
    loss: float
    seconds: float


OnStep = Callable[[int, float], None]
"""Told (run-wide inner step, its loss in nat/token) after each step."""


class Engine(Protocol):
    """Inner training. Not safe to use from two threads at once."""

    def run(
        self, theta: ThetaView, job: Job, on_step: OnStep | None = None, stop: Callable[[], bool] | None = None
    ) -> Delta:
        """Train from θ, which stays as it is; `stop` is asked after each step whether to end the round there.

        Raises:
            ValueError: the job has not one full batch, or is of another model or optimizer than the engine.
            RoundLost: it cannot be done; `Diverged` where a number is not finite.
        """

    def state(self) -> Iterator[Entry]:
        """What must outlive this process, an entry at a time; nothing where there is nothing yet.

        The tensors themselves, where they are, not copied: the next `run` changes them, and asking costs nothing. They
        are fp32 or bytes; names are the layout's.
        """

    def load_state(self, entries: Iterable[Entry]) -> None:
        """Go on with what `state` gave, bit for bit; nothing makes it cold. The engine keeps the tensors it is given.

        Raises:
            MusterError: they are not of this model and this engine; the state is what it was.
        """
