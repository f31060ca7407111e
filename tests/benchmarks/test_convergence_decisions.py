"""The spec's default and the presets have what the study's results say, and the page draws its decisions from them."""

from __future__ import annotations

from pathlib import Path

import pytest

import benchmarks.convergence
from benchmarks.convergence.findings import Answers, Stat, preferred
from benchmarks.convergence.plan import FINE_ALPHAS, alphas, larger, open_alphas, open_larger
from benchmarks.convergence.results import Results
from benchmarks.convergence.ways import SEEDS
from muster.protocol.spec import OuterSpec, load_template, preset_names

LARGE = sorted({*preset_names()} - {"tiny"})


@pytest.fixture(scope="module")
def answers() -> Answers:
    """From the results as they are in the repository."""
    return Answers(Results.read(Path(benchmarks.convergence.__file__).with_name("results.csv")))


def test_the_default_alpha_is_the_best_of_the_finer_grid(answers: Answers) -> None:
    outer = OuterSpec(scale_cap=8.0, norm_clip=True)
    assert (outer.rule, outer.alpha) == ("damped_mean", ((0, answers.default_alpha()),))


@pytest.mark.parametrize("name", LARGE)
def test_presets_above_tiny_follow_the_study(answers: Answers, name: str) -> None:
    template = load_template(name)
    assert (template.outer.rule, template.outer.alpha) == ("damped_mean", ((0, answers.default_alpha()),))
    assert template.inner.optimizer == answers.preset_optimizer()


def test_alpha_is_judged_by_the_mean_over_the_settings_where_it_was_compared(answers: Answers) -> None:
    settings = [answers.by_alpha(*setting) for setting in answers.compared_settings()]
    assert len(settings) > 1
    everywhere = [alpha for alpha in FINE_ALPHAS if all(alpha in stats for stats in settings)]
    means = {alpha: sum(stats[alpha].mean for stats in settings) for alpha in everywhere}
    assert answers.default_alpha() == min(means, key=lambda alpha: means[alpha])


def test_what_is_not_played_yet_is_counted_and_not_told(answers: Answers) -> None:
    tuned = {variant: row for variant, row in answers.rows.items() if variant.model == "study" and variant.seed > 2}
    small = {variant: row for variant, row in answers.rows.items() if variant.model == "study"}
    assert larger(small) == {}
    assert open_larger(small) == 4 * 3 + 4 * 3
    assert open_alphas(tuned) == len(SEEDS) * len(alphas(tuned))


def test_muon_is_taken_only_where_it_is_better_beyond_doubt() -> None:
    adamw = Stat((2.0, 2.0, 2.0))
    assert preferred(Stat((1.9, 1.91, 1.89)), adamw) == "muon"
    assert preferred(Stat((1.9, 2.3, 1.7)), adamw) == "adamw"
    assert preferred(Stat((2.1, 2.11, 2.09)), adamw) == "adamw"
