"""The figures are what they are called, of a run made up so that every one is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.gauntlet import __main__ as command
from benchmarks.gauntlet import pieces, report
from benchmarks.gauntlet.figures import Figure, Measurements, signs, variation
from benchmarks.gauntlet.judge import replay
from benchmarks.gauntlet.pieces import Piece
from benchmarks.gauntlet.raw import GAINS, Raw
from benchmarks.gauntlet.report import SECTIONS
from benchmarks.gauntlet.runner import size_of
from benchmarks.gauntlet.scenarios import (
    ALONE,
    AMOUNTS,
    BY_NAME,
    EFFECTS,
    QUICK,
    SCENARIOS,
    UNEVEN,
    Scenario,
)
from benchmarks.gauntlet.setting import template

WINDOWS = 32
GAIN = 1e-3
NOISE = 3e-4
"""Of a window's gain: small beside it, so that all is as intended, and not 0, so that errors are none."""


def made_up(scenario: Scenario, seed: int, loss: float = 0.0) -> Raw:
    """A run in which gains are in proportion to the work and a half larger on a trainer's own data; `loss` is added."""
    rng = np.random.default_rng(seed)
    r, v, p = scenario.rounds, scenario.validators, len(scenario.roles)
    work = np.array([role.steps * role.batch / WINDOWS if role.kind == "trainer" else 0.0 for role in scenario.roles])

    def gains(size: np.ndarray) -> np.ndarray:
        return (size[:, None] * GAIN + NOISE * rng.standard_normal((r, v, p, WINDOWS))).astype(np.float32)

    control = {name: np.full((r, v, p, WINDOWS), GAIN, np.float32) for name in GAINS}
    present = np.ones((r, p), np.bool_)
    for i, role in enumerate(scenario.roles):
        present[: role.arrives, i] = False
    applied = np.array([role.applied for role in scenario.roles])
    few = np.full((r, p, p), 0.1, np.float32)
    return Raw(
        gains={**control, "assigned": gains(1.5 * work), "unassigned": gains(work)},
        before=np.ones((r, v), np.float32),
        screened=np.zeros((r, v, p), np.float32),
        present=present,
        accepted=present & applied,
        declared=np.full((r, p), [role.declares for role in scenario.roles], np.int16),
        same=few,
        last=few,
        heldout=(3 - 0.01 * np.arange(r) + loss).astype(np.float32),
    )


def figures_of(folder: Path) -> dict[str, Figure]:
    data = Measurements(folder, template().gauntlet)
    return {figure.name: figure for _, make in SECTIONS for figure in make(data)} | {f.name: f for f in signs(data)}


def test_a_run_of_ideal_measurements_keeps_every_bound(tmp_path: Path) -> None:
    pieces.write(tmp_path, ALONE, 0, made_up(ALONE, 0))
    pieces.write(tmp_path, QUICK, 0, made_up(QUICK, 1))
    found = figures_of(tmp_path)
    assert all(figure.holds is not False for figure in found.values())
    assert found["equal-8: CV of pay, all rounds"].mean < 0.05
    assert found["noise, last third"].mean == 0.0


def test_rounds_behind_are_counted_on_the_curve_of_the_honest_alone(tmp_path: Path) -> None:
    scenario = EFFECTS[0]
    pieces.write(tmp_path, ALONE, 0, made_up(ALONE, 0))
    pieces.write(tmp_path, scenario, 0, made_up(scenario, 0, loss=0.03))
    found = figures_of(tmp_path)
    assert found[f"{scenario.name}: rounds behind the honest alone"].mean == pytest.approx(3, abs=1)
    assert found[f"{scenario.name}: held-out loss above theirs, nat/token"].mean == pytest.approx(0.03, abs=1e-5)


def test_unequal_work_and_two_validators(tmp_path: Path) -> None:
    for scenario in (AMOUNTS, UNEVEN):
        pieces.write(tmp_path, scenario, 0, made_up(scenario, 0))
    found = figures_of(tmp_path)
    assert found["25 < 50 < 100 < work-200-batch: part of seeds"].mean == 1.0
    assert found["newcomer: rounds after its first to half of an honest peer's pay"].mean <= 3
    assert found["two validators: Spearman of shares, last round"].mean > 0.9
    assert found["two validators: both attackers ÷ a full worker"].mean < 0.05


def test_the_page_has_a_column_for_each_rule_and_only_sections_that_were_measured(tmp_path: Path) -> None:
    pieces.write(tmp_path, ALONE, 0, made_up(ALONE, 0))
    text = report.page(tmp_path)
    assert f"## {SECTIONS[0][0]}" in text
    assert f"## {SECTIONS[1][0]}" not in text
    assert f"| | {' | '.join(report.RULES)} |" in text


def test_beyond_the_peers_that_are_measured_exactly_others_are_screened(tmp_path: Path) -> None:
    pieces.write(tmp_path, ALONE, 0, made_up(ALONE, 0))
    piece = Piece.read(pieces.path_of(tmp_path, ALONE, 0))
    names = [role.name for role in ALONE.roles]
    few = replay(piece, names, template().gauntlet.model_copy(update={"exact_peers": 3}))
    assert (np.isfinite(few.own_data).sum(1) == 3).all()


def test_a_bound_is_of_the_mean_or_of_each() -> None:
    assert Figure("mean", (0.1, 0.3), at_most=0.2).holds
    assert not Figure("each", (0.1, 0.3), at_most=0.2, each=True).holds
    assert Figure("none", (1.0,)).holds is None
    assert not Figure("nobody is paid", (variation(np.zeros(3)),), at_most=1.0).holds


def test_a_rule_can_be_set_field_by_field() -> None:
    assert command.rule_of(["mu_decay=0.1", 'rating="openskill"']).rating == "openskill"
    with pytest.raises(ValueError, match="mu_decoy"):
        command.rule_of(["mu_decoy=0.1"])


def test_names_are_one_scenarios_and_roles_are_one_keys() -> None:
    assert len(BY_NAME) == len(SCENARIOS) + 1
    for scenario in BY_NAME.values():
        names = [role.name for role in scenario.roles]
        assert len(set(names)) == len(names)
        for role in scenario.roles:
            assert {role.of, role.stands_for, *role.shares} - {""} <= set(names)
            assert names.index(role.of or role.name) <= names.index(role.name)
        assert size_of((scenario, 0)) > 0
