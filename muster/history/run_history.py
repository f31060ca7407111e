"""The history of a run as its participants' journals tell it: events in, what a person sees out. No clock, no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from muster.history.status import PeerRow, ProcessRow, RatingPoint, RoundRow, RunStatus, RunSummary
from muster.node.telemetry import events
from muster.node.telemetry.events import RoundEvent
from muster.node.telemetry.journal import Noted
from muster.node.telemetry.words import SHORT, some
from muster.protocol.incentive.row import ScoreRow
from muster.protocol.incentive.words import in_short, last_reason, ranked
from muster.testnet.roster import HONEST, Member, Roster

FP32_BYTES = 4


@dataclass(slots=True)
class _Round:
    """What is known of one round; times are unix seconds."""

    began: float | None = None
    trained: float | None = None
    submitted: float | None = None
    sealed: float | None = None
    revealed: float | None = None
    recorded: float | None = None
    kind: str = ""
    accepted: frozenset[str] = frozenset()
    rejected: Mapping[str, str] = field(default_factory=dict)
    late: tuple[str, ...] = ()
    roots: dict[str, str] = field(default_factory=dict)
    loss: float | None = None
    up: int = 0
    down: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """What does not change while a run is told. `started` is when the command began, unix seconds."""

    run_id: str
    preset: str
    directory: str
    rounds_total: int
    unigram: float
    parameters: int
    roster: Roster
    started: float


class RunHistory:
    """Folds journals, in any interleaving of participants, into a status and a summary.

    Participants are known by label: a miner's is its name, an operator's two are "aggregator-NAME" and
    "validator-NAME". A restarted participant tells rounds again; told twice counts once.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._rounds: dict[int, _Round] = {}
        self._aggregators = {f"aggregator-{operator.name}" for operator in setting.roster.operators}
        self._validator = f"validator-{setting.roster.operators[0].name}"
        self._honest = {m.name for m in setting.roster.miners if m.behaviour == HONEST} | {
            f"{role}-{operator.name}" for operator in setting.roster.operators for role in ("aggregator", "validator")
        }
        self._submitted: dict[str, set[int]] = {}
        self._training: dict[tuple[str, int], float] = {}
        self._moved: dict[str, tuple[int, int]] = {}
        self._wire: dict[tuple[str, int], tuple[int, int]] = {}
        self._scores: dict[str, ScoreRow] = {}
        self._why: dict[str, str] = {}
        self._ratings: dict[str, list[RatingPoint]] = {}
        self._events: list[str] = []
        self._finished: dict[str, str] = {}
        self._idle: dict[str, dict[int, events.Lost | events.Unregistered]] = {}
        self._ailing: dict[str, dict[str, str]] = {}
        self._unread: Counter[str] = Counter()

    def note(self, sentence: str) -> None:
        """Remember something worth telling at the end: a restart, say."""
        self._events.append(sentence)

    def feed(self, label: str, told: Iterable[Noted], wrong: int = 0) -> None:
        """Take in what one participant wrote, in its own order; `wrong` lines of it could not be read."""
        self._unread[label] += wrong
        for noted in told:
            match noted.event:
                case events.Finished(root=root):
                    self._finished[label] = root
                case events.Ailing(what=what, problem=problem):
                    self._ailing.setdefault(label, {})[what] = problem
                case events.Recovered(what=what):
                    self._ailing.get(label, {}).pop(what, None)
                case events.LinesLost(lines=lines):
                    self.note(f"{label} has lost {some(lines, 'line')} of its journal")
                case RoundEvent(round=number) as event:
                    self._take(label, event, self._rounds.setdefault(number, _Round()), noted.time)

    def _take(self, label: str, event: RoundEvent, row: _Round, time: float) -> None:
        match event:
            case events.Applied():
                self._applied(label, event, row)
            case events.Undone(record=record):
                row.roots.pop(label, None)
                self.note(f"{label} took the record {record[:SHORT]} of round {event.round} back: another goes first")
            case events.Scored() if label == self._validator:
                self._scored(event)
            case events.Heldout(loss=loss) if label == self._validator:
                row.loss = loss
            case events.Refused(problem=problem):
                self.note(f"{label} refused the record of round {event.round}: {problem}")
            case events.Lost() | events.Unregistered():
                self._idle.setdefault(label, {})[event.round] = event
            case _:
                self._moment(label, event, row, time)

    def _moment(self, label: str, event: RoundEvent, row: _Round, time: float) -> None:
        """Times of the phases, and what training and submitting cost."""
        match event:
            case events.Training():
                row.began = row.began or time
            case events.Trained(seconds=seconds):
                row.trained = time
                self._training[label, event.round] = seconds
            case events.Submitted(bytes=size, values=values):
                row.submitted = time
                self._submitted.setdefault(label, set()).add(event.round)
                self._wire[label, event.round] = (size, values)
            case events.Sealed() if label in self._aggregators:
                row.sealed = max(row.sealed or time, time)
            case events.Key():
                row.revealed = time
            case events.Recorded() if label in self._aggregators:
                row.recorded = min(row.recorded or time, time)

    def _applied(self, label: str, event: events.Applied, row: _Round) -> None:
        up, down = self._moved.get(label, (0, 0))
        fresh = label not in row.roots
        row.roots[label] = event.root
        if fresh:
            row.up += event.bytes_up - (up if event.bytes_up >= up else 0)
            row.down += event.bytes_down - (down if event.bytes_down >= down else 0)
        self._moved[label] = event.bytes_up, event.bytes_down
        row.kind = event.kind
        row.accepted = frozenset(event.accepted)
        row.rejected, row.late = event.rejected, event.late

    def _scored(self, event: events.Scored) -> None:
        peers = ranked(event.peers)
        for row in event.peers:
            self._scores[row.hotkey] = row
            said = in_short(row.rank, peers, row.incentive, last_reason(row))
            self._why[row.hotkey] = f"round {event.round}: {said}"
            points = self._ratings.setdefault(row.hotkey, [])
            if not points or points[-1][0] < event.round:
                points.append((event.round, row.rating_mu, row.rating_sigma))

    def _closed(self) -> list[tuple[int, _Round]]:
        return [(r, row) for r, row in sorted(self._rounds.items()) if row.kind in ("round", "null")]

    def status(self, now: float, processes: Iterable[ProcessRow], note: str = "") -> RunStatus:
        """The run as it stands."""
        closed = self._closed()
        current = closed[-1][0] + 1 if closed else 0
        setting = self._setting
        return RunStatus(
            run_id=setting.run_id,
            preset=setting.preset,
            directory=setting.directory,
            round=min(current, max(setting.rounds_total - 1, 0)),
            rounds_total=setting.rounds_total,
            phase=self._phase(current),
            peers=tuple(self._peer(miner) for miner in setting.roster.miners),
            rounds=tuple(self._row(r, row) for r, row in closed),
            processes=tuple(processes),
            unigram=setting.unigram,
            elapsed_s=now - setting.started,
            note=note or self._ailing_now() or self._idle_now(),
        )

    def _phase(self, current: int) -> str:
        row = self._rounds.get(current)
        if row is None or row.began is None:
            return "starting" if current == 0 else "record"
        if row.kind == "close" or current >= self._setting.rounds_total:
            return "closing"
        if row.sealed:
            return "reveal" if row.recorded is None else "record"
        return "train" if row.submitted is None else "submit"

    def _peer(self, member: Member) -> PeerRow:
        closed = [row for _, row in self._closed()]
        reasons = [row.rejected[member.hotkey] for row in closed if member.hotkey in row.rejected]
        return PeerRow(
            uid=self._setting.roster.members.index(member),
            hotkey=member.hotkey,
            name=member.name,
            behaviour=member.behaviour,
            submitted=len(self._submitted.get(member.name, set()) & {number for number, _ in self._closed()}),
            accepted=sum(member.hotkey in row.accepted for row in closed),
            rejected={reason: reasons.count(reason) for reason in sorted(set(reasons))},
            score=self._scores.get(member.hotkey),
            why=self._why.get(member.hotkey, ""),
            late=sum(row.late.count(member.hotkey) for row in closed),
        )

    def _row(self, number: int, row: _Round) -> RoundRow:
        before = self._rounds.get(number - 1)
        began = (before.recorded if before else None) or row.began or self._setting.started
        marks = (
            ("train", row.trained),
            ("submit", row.submitted),
            ("seal", row.sealed),
            ("reveal", row.revealed),
            ("record", row.recorded),
        )
        phases, last = {}, began
        for phase, moment in marks:
            ended = max(moment or last, last)
            phases[phase] = ended - last
            last = ended
        kind: Literal["round", "null"] = "null" if row.kind == "null" else "round"
        sealed = len(row.accepted) + len(row.rejected)
        root = next((root for label, root in sorted(row.roots.items()) if label in self._honest), "")
        accepted, late = len(row.accepted), len(row.late)
        return RoundRow(number, kind, accepted, sealed, row.loss, last - began, phases, row.up, root, row.down, late)

    def summary(self, now: float, processes: Iterable[ProcessRow]) -> RunSummary:
        """The run as it ended."""
        closed = self._closed()
        status = self.status(now, processes)
        shipped, values = (sum(pair[i] for pair in self._wire.values()) for i in (0, 1))
        dense = FP32_BYTES * self._setting.parameters * len(self._wire)
        first = closed[0][1].recorded if closed else None
        return RunSummary(
            **{name: getattr(status, name) for name in RunStatus.__slots__},
            first_record_s=(first or now) - self._setting.started,
            wall_s=now - self._setting.started,
            state_roots=tuple(row.root for row in status.rounds),
            roots_agree=self.roots_agree(),
            bits_per_value=8 * shipped / values if values else 0.0,
            compression_ratio=dense / shipped if shipped else 0.0,
            bytes_up=sum(row.bytes_up for row in status.rounds),
            bytes_down=sum(row.bytes_down or 0 for row in status.rounds),
            utilisation=self._utilisation(closed),
            events=(*self._events, *self._absences(closed), *self._idlers().values(), *self._unreadable()),
            ratings_history={hotkey: tuple(points) for hotkey, points in self._ratings.items()},
        )

    def roots_agree(self) -> bool:
        """Whether every honest replica had one and the same root after every round, and ended on the last."""
        closed = self._closed()
        if not closed:
            return False
        roots = [{root for label, root in row.roots.items() if label in self._honest} for _, row in closed]
        if any(len(held) != 1 for held in roots):
            return False
        return {self._finished.get(label) for label in self._honest} == roots[-1]

    def _utilisation(self, closed: list[tuple[int, _Round]]) -> float:
        """Σ inner-step seconds between first and last record ÷ (miners × the seconds between them).

        What miners begin while the closing round waits for its last scores is of no round, and counts nowhere.
        """
        records = [row.recorded for _, row in closed if row.recorded is not None]
        honest = [m for m in self._setting.roster.miners if m.behaviour == HONEST]
        if len(records) < 2 or not honest:
            return 0.0
        first, last = closed[0][0], closed[-1][0]
        names = {m.name for m in honest}
        spent = sum(s for (label, r), s in self._training.items() if label in names and first < r <= last)
        return spent / (len(honest) * (records[-1] - records[0]))

    def _absences(self, closed: list[tuple[int, _Round]]) -> list[str]:
        found = []
        for number, row in closed:
            for miner in self._setting.roster.miners:
                sealed = miner.hotkey in row.accepted or miner.hotkey in row.rejected
                told = number in self._idle.get(miner.name, ())
                if miner.behaviour == HONEST and not sealed and not told:
                    found.append(f"{miner.name} missed the deadline of round {number}")
        return found

    def _idlers(self) -> dict[str, str]:
        """One line for each miner that had nothing to submit in some round, and says so itself."""
        lines = {}
        for label, idle in sorted(self._idle.items()):
            last = idle[max(idle)]
            why = last.problem if isinstance(last, events.Lost) else "its hotkey has no slot on the subnet"
            count = some(len(idle), "round")
            lines[label] = f"{label} had nothing to submit in {count}, the last of them {last.round}: {why}"
        return lines

    def _idle_now(self) -> str:
        """The first of those lines whose miner has submitted nothing since; "" for nobody."""
        for label, line in self._idlers().items():
            if max(self._idle[label]) > max(self._submitted.get(label, ()), default=-1):
                return line
        return ""

    def _ailing_now(self) -> str:
        """What the first participant that cannot write something of its own says of it; "" for nobody."""
        for label, problems in sorted(self._ailing.items()):
            for problem in problems.values():
                return f"{label}: {problem}"
        return ""

    def _unreadable(self) -> list[str]:
        return [
            f"{some(count, 'line')} of the journal of {label} could not be read"
            for label, count in sorted(self._unread.items())
            if count
        ]
