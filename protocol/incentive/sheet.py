"""A round's score rows: from what was found and what follows from it, and the findings again from the rows.

Whoever has the rows of a round and those of the round before computes the former again from what was measured: nothing
in them is the validator's word but the measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from blake3 import blake3

from muster.protocol.identity import public_of
from muster.protocol.incentive.own_data import Control, Errors
from muster.protocol.incentive.pay import incentives
from muster.protocol.incentive.row import (
    ABSENT,
    EVALUATED,
    FAILED,
    NOT_EVALUATED,
    SCREENED,
    PeerState,
    ScoreRow,
)
from muster.protocol.incentive.score import (
    Absent,
    Evaluated,
    Failed,
    Finding,
    Judgement,
    NotEvaluated,
    Outcome,
    Screened,
    judge,
)
from muster.protocol.reasons import UNORIGINAL
from muster.protocol.spec import RunSpec


def judge_round(
    states: Mapping[str, PeerState], findings: Mapping[str, Finding], spec: RunSpec
) -> dict[str, Judgement]:
    """The judgement of a round under a run's spec."""
    return judge(states, findings, spec.gauntlet, spec.inner.steps * spec.inner.batch)


def rows_of(
    judged: Mapping[str, Judgement],
    findings: Mapping[str, Finding],
    measured: Mapping[str, Mapping[str, Any]],
    uids: Mapping[str, int],
    power: float,
) -> tuple[ScoreRow, ...]:
    """The rows of a score file, for each peer that has a slot, in key order.

    `measured` maps hotkeys to the columns of what was measured. Shares are those among everybody who has a slot.
    """
    present = judged.keys() & uids.keys()
    shares = incentives({hotkey: judged[hotkey].score for hotkey in present}, power)
    nothing = Finding(NotEvaluated())
    return tuple(
        _row(judged[hotkey], findings.get(hotkey, nothing), measured.get(hotkey, {}), uids[hotkey], shares[hotkey])
        for hotkey in sorted(present, key=public_of)
    )


def _row(judgement: Judgement, finding: Finding, measured: Mapping[str, Any], uid: int, share: float) -> ScoreRow:
    name, reason = _said(judgement.outcome)
    return ScoreRow(
        **asdict(judgement.state),
        **measured,
        uid=uid,
        outcome=name,
        reason=reason,
        windows=finding.windows,
        accepted=finding.accepted,
        factor=judgement.factor,
        own_data=judgement.own_data,
        ratio=judgement.ratio,
        rank=judgement.rank,
        gate=judgement.gate,
        multiplier=judgement.multiplier,
        peer_score=judgement.score,
        incentive=share,
    )


def _said(outcome: Outcome) -> tuple[str, str]:
    match outcome:
        case Evaluated():
            return EVALUATED, ""
        case Screened():
            return SCREENED, ""
        case Failed(reason):
            return FAILED, reason
        case Absent():
            return ABSENT, ""
        case NotEvaluated():
            return NOT_EVALUATED, ""


def precedence(beacon: bytes, hotkey: str, states: Mapping[str, PeerState]) -> tuple[float, bytes]:
    """Of peers with one update the one that comes first keeps it: whose μ is larger, then by lot.

    The lot is BLAKE3(a validator's beacon ‖ hotkey); `states` are the standings before the round. A clone is tested
    although it fails, so whoever makes the updates comes first before long, whatever the lot was.
    """
    mu = states[hotkey].mu if hotkey in states else 0.0
    return -mu, blake3(beacon + public_of(hotkey)).digest()


def comes_first(beacon: bytes, one: str, other: str, states: Mapping[str, PeerState]) -> bool:
    """Whether of two peers with one update it is the first that keeps it."""
    return precedence(beacon, one, states) < precedence(beacon, other, states)


def state_of(row: ScoreRow) -> PeerState:
    """The standing that a row holds."""
    return PeerState(**{field.name: getattr(row, field.name) for field in fields(PeerState)})


def finding_of(row: ScoreRow, before: Mapping[str, PeerState], beacon: bytes) -> Finding:
    """What a row says that its peer's round was; `before` are the standings before it, `beacon` what its validator
    drew by.

    Raises:
        ValueError: the row lacks what its outcome is made of.
    """
    first = row.clone_of is None or comes_first(beacon, row.hotkey, row.clone_of, before)
    return Finding(_outcome(row), row.windows, row.accepted, row.clone, row.copy, first)


def _outcome(row: ScoreRow) -> Outcome:
    match row.outcome:
        case "evaluated":
            return _evaluated(row)
        case "screened":
            return Screened(_number(row.screened))
        case "failed":
            return _failure(row)
        case "absent":
            return Absent()
        case "not_evaluated":
            return NotEvaluated()
    raise ValueError(f"{row.outcome!r} is no outcome of a round")


def _evaluated(row: ScoreRow) -> Evaluated:
    return Evaluated(
        _difference(row.assigned_before, row.assigned_after),
        _difference(row.unassigned_before, row.unassigned_after),
        Control(_number(row.control_assigned), _number(row.control_unassigned)),
        Errors(_number(row.assigned_error), _number(row.unassigned_error)),
    )


def _failure(row: ScoreRow) -> Outcome:
    """What failed by what it has in common with others is judged to fail again, from what was measured of it."""
    if row.reason in UNORIGINAL and row.measured:
        return _evaluated(row)
    if row.reason in UNORIGINAL and row.screened is not None:
        return Screened(row.screened)
    return Failed(row.reason)


def _number(value: float | None) -> float:
    if value is None:
        raise ValueError("a number is missing that the outcome is made of")
    return value


def _difference(before: float | None, after: float | None) -> float:
    return _number(before) - _number(after)


def recomputed(
    before: Mapping[str, PeerState], rows: tuple[ScoreRow, ...], beacon: bytes, spec: RunSpec
) -> tuple[ScoreRow, ...]:
    """The rows as they follow from what they say was measured, and from the standings `before` the round.

    `beacon` is what their validator drew by.

    Raises:
        ValueError: a row lacks what its outcome is made of.
    """
    findings = {row.hotkey: finding_of(row, before, beacon) for row in rows}
    judged = judge_round({hotkey: before[hotkey] for hotkey in findings.keys() & before.keys()}, findings, spec)
    measured = {row.hotkey: {name: getattr(row, name) for name in _MEASURED} for row in rows}
    uids = {row.hotkey: row.uid for row in rows if row.hotkey in judged}
    return rows_of(judged, findings, measured, uids, spec.gauntlet.power)


_MEASURED = (
    "assigned_before", "assigned_after", "unassigned_before", "unassigned_after", "drawn", "screened",
    "control_assigned", "control_unassigned", "assigned_spread", "unassigned_spread", "assigned_error",
    "unassigned_error", "clone_of", "clone", "copy_of", "copy",
)  # fmt: skip
"""The columns that are measured: no other follows from them alone."""
