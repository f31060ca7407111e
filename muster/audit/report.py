"""What an audit says: how far the run was replayed, every fault with its object, and what the command ends with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

from muster.history.status import printable
from muster.protocol.errors import AuditError, LedgerError, ScoresFault, StorageError, WireError

MAX_PROBLEM = 300
"""Characters of a problem's text: some of it may be a stranger's."""


class FaultClass(Enum):
    """What a fault means for the run."""

    LEDGER = "ledger"
    """The run is not what it must be: spec, text, record, seal, heads, bundle or checkpoint."""
    SCORES = "scores"
    """A validator's file is not there, damaged, or says otherwise than the record that used it. θ does not depend
    on it any more: the record holds what it used."""
    UNANCHORED = "unanchored"
    """A record that no anchor names: nobody applies it, and the run is none the worse for it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One object that is not what it must be; `round` is None for what belongs to no round.

    `name` is the object's key, or a file of the run; `hotkey` is whose object it is, of a validator's.
    """

    kind: FaultClass
    round: int | None
    name: str
    problem: str
    hotkey: str | None = None

    def __str__(self) -> str:
        where = "" if self.round is None else f"round {self.round}: "
        whose = f" of {self.hotkey}" if self.hotkey else ""
        return f"{where}{self.name}{whose}: {self.problem}"

    def to_json_object(self) -> dict[str, object]:
        """One of `faults` in what `muster audit --json` prints."""
        named = {"hotkey": self.hotkey} if self.hotkey else {}
        return {
            "class": self.kind.value,
            "round": self.round,
            "object": self.name,
            "problem": self.problem,
            **named,
        }


@dataclass(frozen=True, slots=True)
class Note:
    """What an audit could not see, or had to take at somebody's word: no fault; `hotkey` is whose objects it is about.

    `round` is None for what belongs to no round.
    """

    round: int | None
    hotkey: str | None
    said: str

    def __str__(self) -> str:
        where = "" if self.round is None else f"round {self.round}: "
        whose = f"validator {self.hotkey}: " if self.hotkey else ""
        return f"{where}{whose}{self.said}"

    def to_json_object(self) -> dict[str, object]:
        """One of `notes` in what `muster audit --json` prints."""
        return {"round": self.round, "hotkey": self.hotkey, "said": self.said}


@dataclass(slots=True)
class AuditReport:
    """What an audit established; roots are after each replayed round, hexadecimal.

    `not_replayed` are the rounds after a fault in which θ was not known: of these the objects were compared with the
    digests that name them, and the rules checked that need no θ. Replay goes on at the next checkpoint that a record
    pins. Of those `accepted`, `late` came in a round after their own. `sheets` counts the score files that were
    computed again, `measured` the rows that were measured again, which were drawn by `seed`.
    """

    run_id: str
    first_round: int
    rounds: int = 0
    accepted: int = 0
    late: int = 0
    checkpoints: int = 0
    closed: bool = False
    state_roots: list[str] = field(default_factory=list)
    not_replayed: list[int] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    sheets: int = 0
    measured: int = 0
    seed: str | None = None

    @property
    def state_root(self) -> str:
        """The last root."""
        return self.state_roots[-1] if self.state_roots else ""

    def of(self, kind: FaultClass) -> list[Fault]:
        """The faults of a class, in the order they were found."""
        return [fault for fault in self.faults if fault.kind is kind]

    def raise_fault(self) -> None:
        """End as the command does.

        Raises:
            AuditError: the ledger has a fault; the first is named.
            ScoresFault: the ledger is right, a score file is not.
        """
        for kind, error in ((FaultClass.LEDGER, AuditError), (FaultClass.SCORES, ScoresFault)):
            if found := self.of(kind):
                more = f" (and {len(found) - 1} more, see the report)" if len(found) > 1 else ""
                raise error(f"{found[0]}{more}")

    def to_json_object(self) -> dict[str, object]:
        """What `muster audit --json` prints."""
        return {
            "run_id": self.run_id,
            "first_round": self.first_round,
            "rounds": self.rounds,
            "accepted": self.accepted,
            "late": self.late,
            "checkpoints": self.checkpoints,
            "closed": self.closed,
            "state_root": self.state_root,
            "state_roots": self.state_roots,
            "not_replayed": self.not_replayed,
            "sheets": self.sheets,
            "measured": self.measured,
            "seed": self.seed,
            "faults": [fault.to_json_object() for fault in self.faults],
            "notes": [note.to_json_object() for note in self.notes],
        }

    def summary(self) -> str:
        """The same for people, in three lines."""
        counts = ", ".join(f"{len(self.of(kind))} {kind.value}" for kind in FaultClass if self.of(kind))
        ending = "closed" if self.closed else "still open"
        skipped = f", {len(self.not_replayed)} not replayed" if self.not_replayed else ""
        late = f" ({self.late} of them late)" if self.late else ""
        again = f", {self.measured} of their rows measured again" if self.seed is not None else ""
        return (
            f"{f'faults: {counts}' if counts else 'ok'}; {self.rounds} rounds from round {self.first_round}{skipped}, "
            f"{self.accepted} submissions{late}, {self.checkpoints} checkpoints remade; the run is {ending}\n"
            f"{self.sheets} score files computed again{again}\n"
            f"state root {self.state_root}"
        )


@dataclass(slots=True)
class Noted:
    """How a block under `FaultLog.noting` ended."""

    sound: bool = True


class FaultLog:
    """Takes faults down in a report, each once, and tells them as they are found."""

    def __init__(self, report: AuditReport, tell: Callable[[str], None]) -> None:
        self._report = report
        self._tell = tell
        self._known: set[Fault] = set()

    def add(self, fault: Fault) -> None:
        """One more."""
        if fault not in self._known:
            self._known.add(fault)
            self._report.faults.append(fault)
            self._tell(f"fault [{fault.kind.value}] {fault}")

    def remark(self, round_: int | None, hotkey: str | None, said: str) -> None:
        """What is no fault, and has to be said."""
        note = Note(round_, hotkey, said)
        if note not in self._report.notes:
            self._report.notes.append(note)
            self._tell(f"note: {note}")

    @contextmanager
    def noting(
        self, name: str, round_: int | None, kind: FaultClass = FaultClass.LEDGER, hotkey: str | None = None
    ) -> Iterator[Noted]:
        """Within, what is wrong is a fault of this object and ends the block, not the audit."""
        noted = Noted()
        try:
            yield noted
        except (StorageError, LedgerError, WireError) as error:
            noted.sound = False
            self.add(Fault(kind, round_, name, printable(str(error))[:MAX_PROBLEM], hotkey))
