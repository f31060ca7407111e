"""The story of a run as its participants' journals tell it: events in, what a person sees out. No clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from muster.history.status import PeerRow, ProcessRow, RatingPoint, RoundRow, RunStatus, RunSummary
from muster.protocol.columns import row_of
from muster.protocol.incentive.row import ScoreRow
from muster.testnet.cast import HONEST, Cast, Member

Entry = Mapping[str, Any]
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
    cast: Cast
    started: float


class Chronicle:
    """Folds journal entries, in any interleaving of participants, into a status and a summary.

    Participants are known by label: a miner's is its name, an operator's two are "aggregator-NAME" and
    "validator-NAME". A restarted participant tells rounds again; told twice counts once.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._rounds: dict[int, _Round] = {}
        self._leader = f"aggregator-{setting.cast.operators[0].name}"
        self._validator = f"validator-{setting.cast.operators[0].name}"
        self._honest = {m.name for m in setting.cast.miners if m.behaviour == HONEST} | {
            f"{role}-{operator.name}" for operator in setting.cast.operators for role in ("aggregator", "validator")
        }
        self._submitted: dict[str, set[int]] = {}
        self._training: dict[tuple[str, int], float] = {}
        self._moved: dict[str, tuple[int, int]] = {}
        self._wire: dict[tuple[str, int], tuple[int, int]] = {}
        self._scores: dict[str, ScoreRow] = {}
        self._ratings: dict[str, list[RatingPoint]] = {}
        self._events: list[str] = []
        self._finished: dict[str, str] = {}

    def note(self, sentence: str) -> None:
        """Remember something worth telling at the end: a restart, say."""
        self._events.append(sentence)

    def feed(self, label: str, entries: Iterable[Entry]) -> None:
        """Take in what one participant wrote, in its own order."""
        for entry in entries:
            match entry["event"]:
                case "applied":
                    self._applied(label, entry)
                case "finished":
                    self._finished[label] = str(entry["root"])
                case "scored" if label == self._validator:
                    self._scored(entry)
                case "heldout" if label == self._validator:
                    self._round(entry).loss = float(entry["loss"])
                case "refused":
                    self.note(f"{label} refused the record of round {entry['round']}: {entry['problem']}")
                case _:
                    self._moment(label, entry)

    def _round(self, entry: Entry) -> _Round:
        return self._rounds.setdefault(int(entry["round"]), _Round())

    def _moment(self, label: str, entry: Entry) -> None:
        """Times of the phases, and what training and submitting cost."""
        match entry["event"]:
            case "training":
                row = self._round(entry)
                row.began = row.began or entry["time"]
            case "trained":
                self._round(entry).trained = entry["time"]
                self._training[label, int(entry["round"])] = float(entry["seconds"])
            case "submitted":
                self._round(entry).submitted = entry["time"]
                self._submitted.setdefault(label, set()).add(int(entry["round"]))
                self._wire[label, int(entry["round"])] = (int(entry["bytes"]), int(entry["values"]))
            case "sealed":
                self._round(entry).sealed = entry["time"]
            case "key":
                self._round(entry).revealed = entry["time"]
            case "recorded" if label == self._leader:
                row = self._round(entry)
                row.recorded = row.recorded or entry["time"]

    def _applied(self, label: str, entry: Entry) -> None:
        row = self._round(entry)
        up, down = self._moved.get(label, (0, 0))
        fresh = label not in row.roots
        row.roots[label] = str(entry["root"])
        now_up, now_down = int(entry["bytes_up"]), int(entry["bytes_down"])
        if fresh:
            row.up += now_up - up if now_up >= up else now_up
            row.down += now_down - down if now_down >= down else now_down
        self._moved[label] = now_up, now_down
        row.kind = str(entry["kind"])
        row.accepted = frozenset(entry["accepted"])
        row.rejected = dict(entry["rejected"])

    def _scored(self, entry: Entry) -> None:
        for row in (row_of(ScoreRow, peer) for peer in entry["peers"]):
            self._scores[row.hotkey] = row
            points = self._ratings.setdefault(row.hotkey, [])
            if not points or points[-1][0] < entry["round"]:
                points.append((int(entry["round"]), row.rating_mu, row.rating_sigma))

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
            peers=tuple(self._peer(miner) for miner in setting.cast.miners),
            rounds=tuple(self._row(r, row) for r, row in closed),
            processes=tuple(processes),
            unigram=setting.unigram,
            elapsed_s=now - setting.started,
            note=note,
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
            uid=self._setting.cast.members.index(member),
            hotkey=member.hotkey,
            name=member.name,
            behaviour=member.behaviour,
            submitted=len(self._submitted.get(member.name, ())),
            accepted=sum(member.hotkey in row.accepted for row in closed),
            rejected={reason: reasons.count(reason) for reason in sorted(set(reasons))},
            score=self._scores.get(member.hotkey),
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
        root = row.roots.get(self._leader) or next(iter(row.roots.values()), "")
        return RoundRow(number, kind, len(row.accepted), sealed, row.loss, last - began, phases, row.up, root, row.down)

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
            events=(*self._events, *self._absences(closed)),
            ratings_history={hotkey: tuple(points) for hotkey, points in self._ratings.items()},
        )

    def roots_agree(self) -> bool:
        """Whether every honest replica had one and the same root after every round, and ended on the last."""
        closed = self._closed()
        if not closed:
            return False
        for _, row in closed:
            if len({root for label, root in row.roots.items() if label in self._honest}) != 1:
                return False
        last = closed[-1][1].roots.get(self._leader, "")
        return all(self._finished.get(label) == last for label in self._honest)

    def _utilisation(self, closed: list[tuple[int, _Round]]) -> float:
        """Σ inner-step seconds after the first record ÷ (miners × seconds from first to last record)."""
        records = [row.recorded for _, row in closed if row.recorded is not None]
        honest = [m for m in self._setting.cast.miners if m.behaviour == HONEST]
        if len(records) < 2 or not honest:
            return 0.0
        first = closed[0][0]
        names = {m.name for m in honest}
        spent = sum(s for (label, r), s in self._training.items() if label in names and r > first)
        return spent / (len(honest) * (records[-1] - records[0]))

    def _absences(self, closed: list[tuple[int, _Round]]) -> list[str]:
        found = []
        for number, row in closed:
            for miner in self._setting.cast.miners:
                sealed = miner.hotkey in row.accepted or miner.hotkey in row.rejected
                if miner.behaviour == HONEST and not sealed:
                    found.append(f"{miner.name} missed the deadline of round {number}")
        return found
