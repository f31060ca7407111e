"""What a miner's round came to, in one line of its terminal: a fold over its journal's events, told with the record.

round 12: trained 30 steps (loss 3.214), sent 2.1 MB, accepted with 3 others; 25.3 s: train 19.2, submit 2.0,
seal 3.1, record 1.0; pay of round 10: rank 2 of 4, share 0.250; next: round 13
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from threading import Lock

from muster.node.telemetry import events
from muster.node.telemetry.events import Event
from muster.node.telemetry.facts import CLOSE
from muster.node.telemetry.journal import Noted
from muster.node.telemetry.words import size, some
from muster.protocol.reasons import sentence_of

_PHASES: tuple[tuple[type[Event], str], ...] = (
    (events.Training, ""),
    (events.Trained, "train"),
    (events.Submitted, "submit"),
    (events.Key, "seal"),
    (events.Applied, "record"),
)
"""What ends each phase of a round, in order: "submit" is compressing, keeping and uploading, "seal" the wait until the
key may be shown, "record" the wait for the record and taking its step."""

_TOLD = frozenset((*(kind for kind, _ in _PHASES), events.Lost, events.Unregistered))


class RoundLine:
    """Tells a round's line when its record is applied, and one when a record is taken back."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """`tell` is given each line, on the thread that notes the event."""
        self._tell = tell
        self._lock = Lock()
        self._hotkey = ""
        self._round = -1
        self._noted: dict[type[Event], Noted] = {}
        self._pay: events.Judged | None = None

    def note(self, noted: Noted) -> None:
        """Take in one event of the journal; they may come from any thread."""
        with self._lock:
            match noted.event:
                case events.Joined(hotkey=hotkey):
                    self._hotkey = hotkey
                case events.Judged() as judged:
                    self._pay = judged
                case events.Undone(round=round_):
                    self._noted = {}
                    self._tell(f"round {round_} is open again: its record was taken back; next: round {round_}")
                case events.RoundEvent(round=round_) if type(noted.event) in _TOLD:
                    if round_ != self._round:
                        self._round, self._noted = round_, {}
                    self._noted[type(noted.event)] = noted
                    if isinstance(noted.event, events.Applied):
                        self._tell(self._line(noted.event))
                case _:
                    pass

    def _line(self, applied: events.Applied) -> str:
        parts = [f"round {applied.round}: {', '.join(self._work(applied))}"]
        if seconds := self._seconds():
            parts.append(seconds)
        if self._pay is not None:
            place = "no rank" if self._pay.rank is None else f"rank {self._pay.rank} of {self._pay.peers}"
            why = "" if self._pay.share else f" ({self._pay.reason})"
            parts.append(f"pay of round {self._pay.round}: {place}, share {self._pay.share:.3f}{why}")
            self._pay = None
        parts.append("the run is over" if applied.kind == CLOSE else f"next: round {applied.round + 1}")
        return "; ".join(parts)

    def _work(self, applied: events.Applied) -> list[str]:
        """What was done in the round, and what became of it."""
        found = {kind: noted.event for kind, noted in self._noted.items()}
        done = []
        match found.get(events.Trained):
            case events.Trained(steps=steps, loss=loss):
                done.append(f"trained {some(steps, 'step')} (loss {loss:.3f})")
        match found.get(events.Submitted):
            case events.Submitted(bytes=count):
                done.append(f"sent {size(count)}")
        match found.get(events.Lost):
            case events.Lost(problem=problem):
                return [*done, f"nothing sent: {' '.join(problem.split())}"]
        if events.Unregistered in found:
            return ["sat out: this hotkey has no slot on the subnet"]
        if applied.kind == CLOSE:
            return [*done, "closed, nothing is applied any more"]
        done.append(self._outcome(applied, sent=events.Submitted in found))
        if count := applied.late.count(self._hotkey):
            done.append(f"work of {some(count, 'earlier round')} taken in late")
        return done

    def _outcome(self, applied: events.Applied, *, sent: bool) -> str:
        if self._hotkey in applied.accepted:
            others = len(applied.accepted) - 1
            return f"accepted with {some(others, 'other')}" if others else "accepted alone"
        reason = applied.rejected.get(self._hotkey)
        if reason is not None:
            return f"not accepted ({reason}): {sentence_of(reason)[:-1]}"
        return "not accepted: it came after the seal" if sent else "nothing sent: the round was over first"

    def _seconds(self) -> str:
        """How long the round took this miner, and each of its phases, as far as this life of it has seen them."""
        seen = sorted((self._noted[kind].time, word) for kind, word in _PHASES if kind in self._noted)
        if len(seen) < 2:
            return ""
        phases = [f"{word} {end - begin:.1f}" for (begin, _), (end, word) in pairwise(seen)]
        return f"{seen[-1][0] - seen[0][0]:.1f} s: {', '.join(phases)}"
