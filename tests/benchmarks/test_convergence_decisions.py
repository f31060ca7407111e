"""The spec's default and the presets have what the study's results say, and the page draws its decisions from them."""

from __future__ import annotations

from pathlib import Path

import pytest

import benchmarks.convergence
from benchmarks.convergence.findings import Answers, Stat, preferred
from benchmarks.convergence.plan import FINE_ALPHAS, fine_settings
from benchmarks.convergence.results import Results
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


def test_alpha_is_judged_by_the_mean_over_all_settings(answers: Answers) -> None:
    means = {alpha: sum(answers.by_alpha(*setting)[alpha].mean for setting in fine_settings()) for alpha in FINE_ALPHAS}
    assert answers.default_alpha() == min(means, key=lambda alpha: means[alpha])


def test_muon_is_taken_only_where_it_is_better_beyond_doubt() -> None:
    adamw = Stat((2.0, 2.0, 2.0))
    assert preferred(Stat((1.9, 1.91, 1.89)), adamw) == "muon"
    assert preferred(Stat((1.9, 2.3, 1.7)), adamw) == "adamw"
    assert preferred(Stat((2.1, 2.11, 2.09)), adamw) == "adamw"
