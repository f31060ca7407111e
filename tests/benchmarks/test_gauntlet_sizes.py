"""The thresholds' page can be made of any size: of a toy one here, whose figures are what they are called."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gauntlet import __main__ as command
from benchmarks.gauntlet import cost, pieces, setting, size_figures, sizes
from benchmarks.gauntlet.scenarios import Scenario
from benchmarks.gauntlet.setting import template, text
from benchmarks.gauntlet.size_figures import Size
from benchmarks.gauntlet.world import World
from muster.lab.nano import compiled_loops
from muster.protocol.spec.layout import layout_of

ROUNDS = 6
TOY = sizes.scenario_of("study", ROUNDS, (0,), peers=5)
COST = cost.scenario_of("study", 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A measured toy, with a text of the tests' own."""
    results = tmp_path_factory.mktemp("sizes")
    with compiled_loops(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(setting, "TEXT", tmp_path_factory.mktemp("text"))
        text.cache_clear()
        pieces.write(results, TOY, 0, World(TOY, 0).play())
        yield results
    text.cache_clear()


def size_of(folder: Path, scenario: Scenario = TOY) -> Size:
    size = Size.read(folder, scenario)
    assert size is not None
    return size


def test_the_command_writes_the_page_and_measures_nothing_twice(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "sizes.md"
    assert command.sizes(folder, [TOY], [COST], 1, page) == 0
    written = page.read_text(encoding="utf-8")
    assert "1 pieces, 1 are there already" in capsys.readouterr().out
    for title in size_figures.SECTIONS:
        assert f"## {title}\n" in written
    assert f"| exact, all: forwards | {4 * len(COST.roles) + 2} | ≤ 4 a peer + 2 | holds |" in written
    assert "nan" not in written
    assert command.sizes(folder, [TOY], [COST], 1, page) == 0
    assert page.read_text(encoding="utf-8") == written


def test_a_size_that_is_not_measured_whole_is_not_on_the_page(folder: Path) -> None:
    assert Size.read(folder, sizes.scenario_of("study", ROUNDS, (0, 1))) is None
    assert cost.cost_of(folder, cost.scenario_of("study", 7), missing=False) is None


def test_whoever_sends_the_same_has_all_in_common_and_is_refused(folder: Path) -> None:
    size = size_of(folder)
    found = {figure.name: figure for figure in size_figures.overlaps(size)}
    honest = found["honest, with one of the round: most"]
    assert all(a > b for a, b in zip(found["copycat, with one of the round: least"].values, honest.values, strict=True))
    assert found["best: part of rounds refused"].values[-1] == 1.0
    parts = {figure.name: figure for figure in size_figures.parts(size)}
    assert parts["best, nearest of the round before: least"].values == (1.0, 1.0, 1.0)


def test_stages_are_thirds_of_all_runs_and_skip_what_is_not_there() -> None:
    one = np.array([[1.0], [2.0], [3.0], [np.nan], [5.0], [6.0]])
    figure = size_figures.staged("name", [one, one + 6], np.mean, at_most=9.0)
    assert figure.values == (4.5, 6.0, 8.5)
    assert figure.holds
    assert np.isnan(size_figures.staged("name", [one[3:4]], size_figures.least).values[0])


def test_the_sizes_are_far_apart_and_hold_all_cheats() -> None:
    small, tiny, large = (layout_of(template(scenario.preset).model).parameters for scenario in sizes.SIZES)
    assert tiny > 5 * small
    assert large > 5 * tiny
    for scenario in sizes.SIZES:
        names = {role.name for role in scenario.roles}
        assert all(names.issuperset(cheat.keys) for cheat in sizes.CHEATS.values())
