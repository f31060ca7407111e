"""A peer's pay explained, as a value: what it sent, what each validator made of it, and what that steers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from muster.history.explain.changes import changes
from muster.history.explain.facts import Case, Judged, Sent, sent
from muster.history.explain.gather import SHOWN
from muster.history.explain.working import Line, Working, lines
from muster.history.walk import Passed
from muster.protocol.errors import LedgerError
from muster.protocol.identity import hotkey_of, public_of
from muster.protocol.incentive.row import ScoreRow
from muster.protocol.incentive.words import in_short, last_reason, ranked
from muster.protocol.reasons import REASONS, sentence_of
from muster.protocol.rules.selection import Standing, standings
from muster.protocol.wire import Kind, ScoresUsed, scores_used


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One round of the table: what was sent, and what the section's validator made of it (None: it has no row)."""

    sent: Sent
    row: ScoreRow | None

    @property
    def became(self) -> str:
        """What became of the work, in a sentence."""
        entry = self.sent
        if entry.accepted:
            return "accepted"
        if entry.taken is not None:
            return taken_late(entry.taken)
        if entry.reason is not None:
            return sentence_of(entry.reason)
        return "it sent nothing" if entry.kind is Kind.ROUND else "it sent nothing, and the record is null"

    def to_json_object(self) -> dict[str, object]:
        """One of `rounds` in what `muster explain --json` prints."""
        return {
            "round": self.sent.round,
            "accepted": self.sent.accepted,
            "reason": self.sent.reason,
            "became": self.became,
            "windows": self.sent.windows,
            "taken": self.sent.taken,
            "row": self.row and asdict(self.row),
        }


@dataclass(frozen=True, slots=True)
class Section:
    """What one validator says. `lines` and `changes` are empty where it has no row of the peer in the round, and
    `verdict` says so."""

    validator: str
    stake: int
    table: tuple[RoundRow, ...]
    verdict: str
    lines: tuple[Line, ...]
    changes: tuple[str, ...]
    weight: int | None

    def to_json_object(self) -> dict[str, object]:
        """One of `validators` in what `muster explain --json` prints."""
        return {
            "validator": self.validator,
            "stake": self.stake,
            "verdict": self.verdict,
            "rounds": [row.to_json_object() for row in self.table],
            "steps": [asdict(line) for line in self.lines],
            "changes": list(self.changes),
            "weight": self.weight,
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything a person is told of one peer in one round. `selection` says what its scores steer."""

    case: Case
    sent: str
    sections: tuple[Section, ...]
    selection: str

    def to_json_object(self) -> dict[str, object]:
        """What `muster explain --json` prints."""
        tip = self.case.shown.before
        return {
            "run_id": tip.run_id.hex(),
            "round": self.case.round,
            "hotkey": self.case.hotkey,
            "uid": self.case.uid,
            "record": self.case.shown.digest.hex(),
            "sent": self.sent,
            "validators": [section.to_json_object() for section in self.sections],
            "selection": self.selection,
        }


def explain(case: Case, validator: str | None = None) -> Explanation:
    """The explanation; with `validator` of that one's judgement alone."""
    wanted = [one for one in case.judged if validator in (None, one.validator)]
    return Explanation(
        case=case,
        sent=_sent(case),
        sections=tuple(_section(case, judged) for judged in wanted),
        selection=_selection(case),
    )


def _sent(case: Case) -> str:
    """What the peer sent, in a sentence."""
    entry, spec = sent(case.shown, case.hotkey, case.passed), case.spec
    if entry.reason is None:
        return "Nothing of it is in the round's record."
    full = spec.inner.steps * spec.inner.batch
    head = "It sent work whose head cannot be read"
    if entry.windows is not None:
        head = f"It sent work on {entry.windows} of {full} windows"
    if entry.accepted:
        return f"{head}, and it was accepted."
    if entry.taken is not None:
        return f"{head}. {taken_late(entry.taken)}"
    held = "not applied" if entry.reason in REASONS else entry.reason
    return f"{head}, {held}: {sentence_of(entry.reason)}"


def taken_late(round_: int) -> str:
    """What became of work that the record of a later round took in."""
    return f"It came late; the record of round {round_} took it in. Late work is not measured, and not paid."


def _section(case: Case, judged: Judged) -> Section:
    rounds = [passed for passed in case.passed if case.round - SHOWN < passed.round <= case.round]
    table = tuple(RoundRow(sent(one, case.hotkey, case.passed), judged.row(one.round, case.hotkey)) for one in rounds)
    file, row = judged.files.get(case.round), judged.row(case.round, case.hotkey)
    if file is None or row is None:
        why = (
            "It has no score file of the round yet." if file is None else "It has no row of this peer: never measured."
        )
        return Section(judged.validator, judged.stake, table, why, (), (), None)
    working = Working(row, file.rows, judged.before(case.round), sent(case.shown, case.hotkey), case.spec)
    said = in_short(row.rank, ranked(file.rows), row.incentive, last_reason(row))
    verdict = f"{said[0].upper()}{said[1:]}"
    found = tuple(lines(working))
    return Section(judged.validator, judged.stake, table, verdict, found, tuple(changes(working)), working.weight)


def _selection(case: Case) -> str:
    """What the validators agree on for the seats of a later round, and where the peer stands by it."""
    steered = case.round + case.spec.gauntlet.lag
    used, record = _used(case, steered)
    if not used:
        return f"No scores of round {case.round} are there to steer round {steered}."
    try:
        agreed = standings(used)
    except LedgerError as error:
        return f"The scores of round {case.round} cannot steer: {error}"
    nobody = Standing(0.0, False)
    mine = agreed.get(public_of(case.hotkey), nobody)
    place = 1 + sum(standing.score > mine.score for standing in agreed.values())
    how = "used" if record else "so far, and no record has used them yet"
    whose = ", ".join(_share(scores, case.hotkey) for scores in used)
    kind = "" if mine.positive else "; it stands with the newcomers: none of its work has lowered the loss yet"
    return (
        f"Seats of round {steered} go by the stake-weighted lower median of PeerScores, {mine.score!r} for this peer, "
        f"place {place} of {len(agreed)}{kind} ({how}: {whose})."
    )


def _used(case: Case, steered: int) -> tuple[Sequence[ScoresUsed], bool]:
    """What the later round's record used, if it is there; else what it would use now."""
    later: Passed | None = next((passed for passed in case.passed if passed.round == steered), None)
    if later is not None:
        return later.record.scores, True
    files = [(judged, judged.files[case.round]) for judged in case.judged if case.round in judged.files]
    made = [
        scores_used(file, b"", judged.stake, {public_of(row.hotkey) for row in file.rows}) for judged, file in files
    ]
    return made, False


def _share(scores: ScoresUsed, hotkey: str) -> str:
    row = next((row for row in scores.rows if row.public == public_of(hotkey)), None)
    said = "no row" if row is None else f"{row.score!r}"
    return f"{hotkey_of(scores.validator)[:8]} says {said} for round {scores.round} with stake {scores.stake}"
