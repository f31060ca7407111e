"""Ids name variants, results survive being cut off, and plans ask for what the questions need."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.convergence.effects import Effect, main_effects_of
from benchmarks.convergence.latency import delay_candidates_of, delayed, overdue
from benchmarks.convergence.plan import FULL, QUESTIONS, QUICK, Plan, main_effects
from benchmarks.convergence.results import PARTS, Results, Row
from benchmarks.convergence.runner import Runner
from benchmarks.convergence.variant import BASELINE, Variant
from benchmarks.convergence.ways import SEEDS, SPARSE, TUNING_SEED, WAYS, best, seeded

NO_TIME = dict.fromkeys(PARTS, 0.0)
CHOICES: dict[str, st.SearchStrategy[Any]] = {
    "optimizer": st.sampled_from(["adamw", "muon"]),
    "model": st.sampled_from(["study", "larger"]),
    "rule": st.sampled_from(["mean", "sender_mean", "damped_mean"]),
    "values": st.sampled_from(["2bit", "8bit", "exact"]),
    "selection": st.sampled_from(["topk", "randomk"]),
    "commit": st.sampled_from(["accepted", "always"]),
    "attackers": st.just(0),
    "delay": st.just(0),
    "merge": st.sampled_from(["take", "add", "mix", "fresh"]),
    "method": st.just("sparse"),
}
BY_TYPE: dict[type, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(1, 200),
    float: st.floats(0, 1, allow_nan=False),
}
variants = st.fixed_dictionaries(
    {
        field.name: CHOICES[field.name] if field.name in CHOICES else BY_TYPE[type(field.default)]
        for field in fields(Variant)
    }
).map(lambda settings: Variant(**settings))


def row(variant: Variant, *losses: float) -> Row:
    return Row(variant, losses or (2.0,), 100.0, NO_TIME)


class Played(dict[Variant, Row]):
    """Every run there can be, its loss from a function of the variant."""

    def __missing__(self, variant: Variant) -> Row:
        return row(variant, abs(variant.lr - 4e-3) + abs(variant.alpha - 1.0) + 1e-3 * variant.seed)


@given(variants)
def test_an_id_names_one_variant(variant: Variant) -> None:
    assert Variant.from_id(variant.id) == variant


def test_an_id_says_only_what_is_not_the_default() -> None:
    assert Variant().id == BASELINE
    assert Variant(k=32, late=True, lr=0.001).id == "lr=0.001;k=32;late=True"


@pytest.mark.parametrize("text", ["k=64", "seed=1;k=32", "depth=3", "k=032"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="variant"):
        Variant.from_id(text)


def test_a_method_has_no_settings_of_another() -> None:
    with pytest.raises(ValueError, match="ddp has no k, alpha"):
        Variant(method="ddp", k=32, alpha=0.5)


def test_a_delay_is_a_round_at_most_and_has_one_name() -> None:
    with pytest.raises(ValueError, match="longer than a round of 15"):
        Variant(delay=16)
    with pytest.raises(ValueError, match='"fresh" is "take"'):
        Variant(delay=15, merge="fresh")


def test_what_comes_late_and_who_trains_on_are_played_on_every_seed_but_for_rules_that_lost() -> None:
    rows = Played()
    assert set(overdue(rows)) == {"all in time"} | {
        f"{share} late, {how}" for share in ("10%", "30%") for how in ("lost", "weight 0.25", "weight 0.5", "weight 1")
    }
    best = delay_candidates_of(rows, "mix", 5)[0]
    rows[best] = row(best, 0.0005)
    assert [label for label in delayed(rows) if "5 steps late" in label and "15" not in label] == ["mix, 5 steps late"]


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [row(Variant(seed=1), 3.0, 2.5, 2.25), row(Variant(lr=1.0), math.inf)]
    results = Results.open(tmp_path / "r.csv")
    for written in rows:
        results.add(written)
    results.close()
    assert list(Results.read(tmp_path / "r.csv").values()) == rows


@pytest.mark.parametrize("cut", [1, 20, 250])
def test_a_row_that_was_cut_off_is_played_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "r.csv"
    for seed in (1, 2):
        results = Results.open(path)
        results.add(row(Variant(seed=seed)))
        results.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert set(Results.read(path)) == ({Variant(seed=1)} if cut < 250 else set())
    results = Results.open(path)
    for seed in (1, 2):
        if Variant(seed=seed) not in results:
            results.add(row(Variant(seed=seed)))
    results.close()
    assert path.read_bytes() == whole


def test_a_file_of_other_columns_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("id,k\ndefault,64\n")
    with pytest.raises(ValueError, match="other columns"):
        Results.open(path)
    assert path.read_text() == "id,k\ndefault,64\n"


def test_the_final_loss_is_the_mean_of_the_last_three() -> None:
    assert row(Variant(), 9.0, 3.0, 2.0, 1.0).final == 2.0
    assert row(Variant(), 9.0, math.nan, 2.0, 1.0).final == math.inf


def test_every_way_is_tuned_over_as_many_candidates() -> None:
    counts = {len(set(way.candidates())) for way in WAYS}
    assert len(counts) == 1
    assert all(variant.seed == TUNING_SEED not in SEEDS for way in WAYS for variant in way.candidates())


def test_a_diverged_candidate_never_wins() -> None:
    diverged, poor = Variant(lr=0.1), Variant(lr=0.2)
    rows = {diverged: row(diverged, math.nan), poor: row(poor, 7.0)}
    assert best(rows, [diverged, poor]) == poor


def test_each_stage_needs_only_what_earlier_ones_have_played() -> None:
    rows: dict[Variant, Row] = {}
    for stage in FULL.stages:
        rows |= {variant: Played()[variant] for variant in stage(rows)}
    for question in QUESTIONS.values():
        assert set(seeded(question(rows).values())) <= rows.keys()
    assert SPARSE.tuned(rows).lr == 4e-3


def test_the_whole_study_has_a_size_one_can_wait_for() -> None:
    played: set[Variant] = set()
    for stage in FULL.stages:
        played |= set(stage(Played()))
    assert len(played) < 480


def test_every_row_of_a_table_is_a_run_of_its_own() -> None:
    for question in QUESTIONS.values():
        table = question(Played())
        assert len(set(table.values())) == len(table)


def quick_rows(better: float) -> dict[Variant, Row]:
    """Results where plain SparseLoCo is better than all else by so much."""
    sparse = main_effects({})["sparse"]
    return {
        variant: row(variant, 2.0 + 0.001 * variant.seed - better * (replace(variant, seed=0) == sparse))
        for variant in seeded(main_effects({}).values())
    }


def test_main_effects_hold_where_they_point_the_right_way() -> None:
    assert all(effect.holds for effect in main_effects_of(quick_rows(better=0.1)))


def test_main_effects_fail_where_they_point_the_wrong_way() -> None:
    assert not any(effect.holds for effect in main_effects_of(quick_rows(better=-0.1)))


def test_a_difference_within_two_standard_errors_is_no_failure() -> None:
    assert Effect("x", (0.1, -0.08, 0.05)).holds
    assert not Effect("x", (0.1, 0.08, 0.05)).holds
    assert not Effect("x", (math.inf, 1.0, 1.0)).holds


def test_the_quick_plan_plays_what_its_check_reads() -> None:
    assert set(QUICK.stages[0]({})) == set(quick_rows(0.0))


@pytest.mark.timeout(3000)
def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    """Real processes; what is in the file is not played again, and what is there twice is played once."""
    wanted = [Variant(method="single", steps=1, rounds=2, batch=1, seed=seed) for seed in (0, 1)]
    plan = Plan("two", (lambda _rows: wanted[:1], lambda rows: wanted if wanted[0] in rows else []))
    for lines in (4, 2):
        said: list[str] = []
        results = Results.open(tmp_path / "r.csv")
        Runner(results, tmp_path / "text", 1, said.append).play(plan)
        results.close()
        assert len(said) == lines
    assert set(Results.read(tmp_path / "r.csv")) == set(wanted)
