"""Whatever a validator publishes, anybody computes again from what it says was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import MINERS, identity, run_spec
from hypothesis import given
from hypothesis import strategies as st
from test_score import findings

from muster.protocol.columns import misfit
from muster.protocol.incentive.row import PeerState, ScoreRow
from muster.protocol.incentive.score import Evaluated, Finding, Screened
from muster.protocol.incentive.sheet import comes_first, finding_of, judge_round, recomputed, rows_of, state_of

BEACON = bytes(range(32))
SPEC = run_spec()
HOTKEYS = sorted(identity(name).hotkey for name in (*MINERS, "carol", "dave"))
UIDS = {hotkey: uid for uid, hotkey in enumerate(HOTKEYS)}

rounds = st.lists(st.dictionaries(st.sampled_from(HOTKEYS), findings, max_size=4), min_size=1, max_size=5)


def columns(finding: Finding, nearest: str) -> dict[str, object]:
    """The measured columns of a finding."""
    measured: dict[str, object] = {
        "clone": finding.clone,
        "clone_of": None if finding.clone is None else nearest,
        "copy": finding.copy,
        "copy_of": None if finding.copy is None else nearest,
    }
    if isinstance(finding.outcome, Screened):
        return measured | {"screened": finding.outcome.unassigned}
    if not isinstance(finding.outcome, Evaluated):
        return measured
    found = finding.outcome
    return measured | {
        "assigned_before": found.assigned,
        "assigned_after": 0.0,
        "unassigned_before": found.unassigned,
        "unassigned_after": 0.0,
        "control_assigned": found.control.assigned,
        "control_unassigned": found.control.unassigned,
        "assigned_spread": found.errors.assigned,
        "unassigned_spread": found.errors.unassigned,
        "assigned_error": found.errors.assigned,
        "unassigned_error": found.errors.unassigned,
    }


def play(history: list[dict[str, Finding]]) -> list[tuple[ScoreRow, ...]]:
    """The rows of each round."""
    states, files = {}, []
    for found in history:
        nearest = {hotkey: HOTKEYS[(UIDS[hotkey] + 1) % len(HOTKEYS)] for hotkey in found}
        honest = {
            hotkey: replace(one, first=one.clone is None or comes_first(BEACON, hotkey, nearest[hotkey], states))
            for hotkey, one in found.items()
        }
        judged = judge_round(states, honest, SPEC)
        measured = {hotkey: columns(one, nearest[hotkey]) for hotkey, one in honest.items()}
        files.append(rows_of(judged, honest, measured, UIDS, SPEC.gauntlet.power))
        states = {row.hotkey: state_of(row) for row in files[-1]}
    return files


@given(rounds)
def test_rows_follow_from_what_they_say_was_measured(history: list[dict[str, Finding]]) -> None:
    before = {}
    for rows in play(history):
        assert all(misfit(row) == "" for row in rows)
        assert recomputed(before, rows, BEACON, SPEC) == rows
        before = {row.hotkey: state_of(row) for row in rows}


def test_who_has_no_slot_has_no_row_and_no_share() -> None:
    found = {hotkey: Finding(Screened(0.1), windows=6, accepted=True) for hotkey in HOTKEYS}
    judged = judge_round({}, found, SPEC)
    rows = rows_of(judged, found, {}, {HOTKEYS[0]: 3}, 1.0)
    assert [(row.hotkey, row.uid) for row in rows] == [(HOTKEYS[0], 3)]


def test_a_row_without_what_its_outcome_is_made_of_is_refused() -> None:
    (row,) = rows_of(
        judge_round({}, {HOTKEYS[0]: Finding(Screened(0.1))}, SPEC),
        {HOTKEYS[0]: Finding(Screened(0.1))},
        {HOTKEYS[0]: {"screened": 0.1}},
        UIDS,
        1.0,
    )
    with pytest.raises(ValueError, match="a number is missing"):
        finding_of(replace(row, screened=None), {}, BEACON)
    with pytest.raises(ValueError, match="no outcome"):
        finding_of(replace(row, outcome="praised"), {}, BEACON)


def test_whose_mu_is_larger_keeps_an_update_that_two_sent_and_of_equals_the_lot_decides() -> None:
    one, other = HOTKEYS[:2]
    assert comes_first(BEACON, one, other, {}) != comes_first(BEACON, other, one, {})
    known = {one: PeerState(one, mu=0.1)}
    assert comes_first(BEACON, one, other, known)
    assert not comes_first(BEACON, other, one, known)
