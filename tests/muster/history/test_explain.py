"""Whatever was found, by whatever rule: each step of the explanation comes out, and something is said to be done."""

from __future__ import annotations

from typing import Any

import pytest
from builders import identity, run_spec
from hypothesis import given
from hypothesis import strategies as st
from sums import sum_in

from muster.history.explain.changes import changes
from muster.history.explain.facts import Sent
from muster.history.explain.working import Working, lines
from muster.protocol.incentive.own_data import Control, Errors
from muster.protocol.incentive.row import PeerState, ScoreRow
from muster.protocol.incentive.score import Absent, Evaluated, Failed, Finding, NotEvaluated, Outcome, Screened
from muster.protocol.incentive.sheet import judge_round, rows_of, state_of
from muster.protocol.incentive.words import in_short, last_reason, ranked
from muster.protocol.reasons import KEY_MISSING, REASONS
from muster.protocol.spec import RunSpec
from muster.protocol.wire import Kind

PEERS = tuple(identity(name).hotkey for name in ("alice", "bob", "carol"))
UIDS = {hotkey: uid for uid, hotkey in enumerate(PEERS)}
SPEC = run_spec()
FULL = SPEC.inner.steps * SPEC.inner.batch
gains = st.floats(-0.25, 0.25)
ratios = st.none() | st.floats(0.0, 8.0)
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Evaluated, gains, gains, st.builds(Control, gains, gains), st.builds(Errors, *[st.floats(0.0, 0.1)] * 2)),
    st.builds(Screened, gains),
    st.just(Failed(KEY_MISSING)),
    st.just(Absent()),
    st.just(NotEvaluated()),
)
findings = st.builds(Finding, outcomes, st.integers(0, FULL), st.booleans(), ratios, ratios, st.booleans())
rules = st.fixed_dictionaries(
    {},
    optional={
        "mu_rule": st.sampled_from(["t", "sign"]),
        "rating": st.sampled_from(["mean", "openskill", "ordinal"]),
        "tokens": st.booleans(),
        "power": st.sampled_from([1.0, 2.0]),
        "idle": st.sampled_from(["nothing", "gauntlet"]),
        "mu_warmup": st.integers(0, 3),
        "work_cold": st.integers(0, 3),
        "mu_part": st.sampled_from([0.0, 0.6]),
    },
)


def columns(finding: Finding) -> dict[str, Any]:
    """What a validator publishes of a finding."""
    shown: dict[str, Any] = {"clone": finding.clone, "copy": finding.copy}
    shown |= {"clone_of": PEERS[0] if finding.clone is not None else None}
    shown |= {"copy_of": PEERS[0] if finding.copy is not None else None}
    match finding.outcome:
        case Evaluated(own, other, control, errors):
            # Losses whose difference is the gain, to the bit.
            shown |= {
                "assigned_before": own,
                "assigned_after": 0.0,
                "unassigned_before": other,
                "unassigned_after": 0.0,
            }
            shown |= {"control_assigned": control.assigned, "control_unassigned": control.unassigned}
            shown |= {"assigned_error": errors.assigned, "unassigned_error": errors.unassigned, "drawn": True}
            shown |= {"assigned_spread": errors.assigned, "unassigned_spread": errors.unassigned}
        case Screened(gain):
            shown |= {"screened": gain}
    return shown


def spec_of(rule: dict[str, Any]) -> RunSpec:
    """The spec with another rule."""
    return run_spec(gauntlet=rule)


def workings(rule: dict[str, Any], rounds: list[dict[str, Finding]]) -> list[Working]:
    """The judgement of the last round, of every peer that has a row."""
    spec, states, rows = spec_of(rule), dict[str, PeerState](), tuple[ScoreRow, ...]()
    before = states
    for found in rounds:
        before, judged = states, judge_round(states, found, spec)
        measured = {hotkey: columns(finding) for hotkey, finding in found.items()}
        rows = rows_of(judged, found, measured, UIDS, spec.gauntlet.power)
        states = {row.hotkey: state_of(row) for row in rows}
    return [Working(row, rows, before, Sent(4, Kind.ROUND, "", row.windows), spec) for row in rows]


@given(rules, st.lists(st.dictionaries(st.sampled_from(PEERS), findings, min_size=1), min_size=1, max_size=4))
def test_every_step_comes_out(rule: dict[str, Any], rounds: list[dict[str, Finding]]) -> None:
    for working in workings(rule, rounds):
        told = lines(working)
        for line in told:
            if done := sum_in(line.text):
                assert done[0] == done[1], line
        assert told[-1].text == "every score and share of the file follows from what it says was measured"
        assert all(sentence[-1] == "." for sentence in changes(working))
        assert last_reason(working.row)[-1] == "."
        assert in_short(working.row.rank, ranked(working.rows), working.row.incentive, last_reason(working.row))


def one(outcome: Outcome, windows: int = FULL, rounds: int = 1, **rule: Any) -> Working:
    """What an accepted peer, alone, has come to after some rounds of the same outcome."""
    finding = Finding(outcome, windows, accepted=True)
    return workings(rule, [{PEERS[0]: finding}] * rounds)[0]


GOOD = Evaluated(0.5, 0.125, Control(), Errors(0.0625, 0.0))


@pytest.mark.parametrize(
    ("working", "sentence"),
    [
        (one(GOOD, rounds=9), "Nothing is held back."),
        (one(GOOD, rounds=1, mu_warmup=3), "2 more tested rounds open the gate as far as its μ says."),
        (one(GOOD, rounds=2, mu_warmup=3), "1 more tested round open"),
        (one(GOOD, FULL // 2, rounds=9), f"It declared {FULL // 2} of {FULL} windows"),
        (one(Failed(KEY_MISSING)), REASONS[KEY_MISSING].sentence),
        (one(Screened(0.125)), "Its μ is 0.000: nothing is paid up to 0.1,"),
        (one(Evaluated(0.25, -0.125, Control(), Errors(0.0625, 0.0)), rounds=9), "do not lower the loss"),
        (one(GOOD, rounds=12, mu_rule="sign", mu_warmup=0, mu_floor=0.9, mu_full=1.0), "nothing is paid below 0.9"),
    ],
)
def test_what_would_change_it_is_said(working: Working, sentence: str) -> None:
    assert sentence in " ".join(changes(working))


def test_without_the_file_before_the_averages_are_told_and_not_made_again() -> None:
    working = one(GOOD, rounds=2)
    blind = Working(working.row, working.rows, None, working.sent, working.spec)
    steps = {line.word: line.text for line in lines(blind)}
    assert steps["work"].endswith("(the file before this one is not at hand)")
    assert steps["checked"] == "not: the standings before the round are not at hand"
