"""The events of a participant's process itself, of whatever round: how it begins and ends, and what ails it between.

They are used by way of `events`, as all others are.
"""

from __future__ import annotations

from muster.node.telemetry.event import Event, event
from muster.node.telemetry.words import some


@event
class Started(Event):
    """Began: `role`, `pid` of the process."""

    role: str
    pid: int


@event
class Computes(Event):
    """Chose how to compute: on which `device`, and `why` as one sentence."""

    device: str
    why: str

    def said(self) -> str:
        """The sentence."""
        return f"computes with {self.why}"


@event
class Service(Event):
    """Answers over HTTP: at `address`."""

    address: str


@event
class BadMirror(Event):
    """Asks an aggregator's bucket last for some minutes: `owner`, its hotkey, and `problem`; it hung, or what it gave
    is not what was asked for."""

    owner: str
    problem: str

    def said(self) -> str:
        """Whose, and why."""
        return f"asks the bucket of {self.owner or 'an aggregator'} last for a while: {self.problem}"


@event
class Ailing(Event):
    """Cannot write something of its own: `what`, and `problem`, why not, once for as long as it is the same; it is
    tried again."""

    failed = True
    what: str
    problem: str

    def said(self) -> str:
        """What, and why not."""
        return f"cannot write {self.what}: {self.problem}"


@event
class Recovered(Event):
    """Writes again what it could not write: `what`."""

    what: str

    def said(self) -> str:
        """What."""
        return f"writes {self.what} again"


@event
class LinesLost(Event):
    """Has lost lines of this journal, because they could not be written for too long: `lines`."""

    failed = True
    lines: int

    def said(self) -> str:
        """How many."""
        return f"has lost {some(self.lines, 'line')} of its journal"


@event
class Stopped(Event):
    """Stopped, because it was told to: by `signal`, within `seconds`; `cut` is what was being written and did not end
    in time, to be done again by the next start."""

    signal: str
    seconds: float
    cut: tuple[str, ...] = ()

    def said(self) -> str:
        """By what, and what had to be given up."""
        return f"stopped by {self.signal}" + (f", while {' and '.join(self.cut)}" if self.cut else "")


@event
class Finished(Event):
    """Came to the end of the run: its last `root`."""

    root: str
