"""The study's engine computes what a real run computes, and each of its variations is the one it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.convergence.engine import play
from benchmarks.convergence.setting import roster_of, spec_of, text_of
from benchmarks.convergence.variant import Merge, Variant
from muster.lab.simulator import Simulator
from muster.node.data.dataset import TextReader

SHORT = Variant(peers=4, steps=3, rounds=3, batch=2, k=32)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """As the study's processes run."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextReader:
    return text_of("study", tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize(
    "variant",
    [
        SHORT,
        replace(SHORT, rule="mean", alpha=2.0, scale_cap=0.0, seed=3),
        replace(SHORT, rule="damped_mean", beta=0.5, peers=2, optimizer="muon"),
    ],
    ids=lambda variant: variant.id,
)
async def test_losses_are_the_simulators_to_the_bit(variant: Variant, text: TextReader) -> None:
    simulator = Simulator(roster_of(variant), spec_of(variant, text.manifest), text)
    simulated = await simulator.run(variant.rounds)
    assert list(play(variant, text).losses) == simulated.losses


async def test_a_whole_round_late_is_a_run_with_a_delay_to_the_bit(text: TextReader) -> None:
    """In the simulator training takes no time, so all of a round is done ahead."""
    variant = replace(SHORT, rounds=5, delay=SHORT.steps, merge="mix")
    spec = spec_of(variant, text.manifest)
    delayed = spec.model_copy(update={"clock": spec.clock.model_copy(update={"delay": 1})})
    simulated = await Simulator(roster_of(variant), delayed, text).run(variant.rounds)
    assert list(play(variant, text).losses) == simulated.losses


@pytest.mark.parametrize("merge", ["take", "add", "mix", "fresh"])
def test_each_way_to_take_theta_in_is_another_and_waiting_is_none(text: TextReader, merge: Merge) -> None:
    """Who has trained one step when θ comes goes on otherwise than who had it from the first; round 0 is the same."""
    waits, goes_on = play(SHORT, text).losses, play(replace(SHORT, delay=1, merge=merge), text).losses
    assert waits[0] == pytest.approx(goes_on[0], abs=1e-5)
    assert waits[1] != goes_on[1]


def test_what_comes_late_counts_by_its_weight_in_the_round_after(text: TextReader) -> None:
    lost, half, whole = (
        play(variant, text).losses
        for variant in (
            replace(SHORT, loss=0.5, commit="always"),
            replace(SHORT, overdue=0.5, age_weight=0.5),
            replace(SHORT, overdue=0.5),
        )
    )
    assert lost[0] == half[0] == whole[0], "the very same submissions are in time"
    assert len({lost[1], half[1], whole[1]}) == 3


def test_a_runs_chances_depend_on_its_seed_alone(text: TextReader) -> None:
    variant = replace(SHORT, absence=0.4, selection="randomk", attackers=1)
    first, again, other = (play(v, text).losses for v in (variant, variant, replace(variant, seed=1)))
    assert first == again != other


def test_peers_that_are_never_there_leave_theta_as_it_was(text: TextReader) -> None:
    losses = play(replace(SHORT, absence=1.0), text).losses
    assert len(set(losses)) == 1


def test_what_is_lost_waits_for_the_next_round_unless_it_is_always_committed(text: TextReader) -> None:
    lost = replace(SHORT, loss=0.5, rounds=4, beta=1.0)
    accepted, always = (play(replace(lost, commit=commit), text).losses for commit in ("accepted", "always"))
    assert accepted[0] == always[0]
    assert accepted != always


def test_training_together_is_one_worker_with_the_batches_of_all(text: TextReader) -> None:
    one = Variant(method="ddp", peers=1, steps=3, rounds=2, batch=2)
    assert play(one, text).losses == play(replace(one, method="single"), text).losses
    assert play(replace(one, peers=2), text).losses != play(one, text).losses


def test_diloco_of_one_peer_without_momentum_at_rate_one_is_that_peer_alone(text: TextReader) -> None:
    """θ − 1·(θ − θ'), up to the rounding of another order of operations."""
    alone = Variant(method="single", steps=3, rounds=3, batch=2)
    diloco = replace(alone, method="diloco", peers=1)
    assert play(diloco, text).losses == pytest.approx(play(alone, text).losses, abs=1e-5)


def test_a_run_of_the_larger_model_trains_that_model_on_its_own_windows(tmp_path: Path) -> None:
    larger = Variant(method="diloco", model="larger", peers=1, steps=1, rounds=1, batch=1)
    assert play(larger, text_of("larger", tmp_path)).bytes_up == 4 * 771_200


def test_bytes_are_what_each_method_sends(text: TextReader) -> None:
    dense = play(Variant(method="diloco", steps=2, rounds=1, batch=1, alpha=0.7), text).bytes_up
    assert dense == 4 * 90_432
    assert play(Variant(method="ddp", steps=2, rounds=1, batch=1), text).bytes_up == 2 * dense
    assert play(Variant(method="single", steps=2, rounds=1, batch=1), text).bytes_up == 0
    two, eight, exact = (play(replace(SHORT, values=v, rounds=1), text).bytes_up for v in ("2bit", "8bit", "exact"))
    assert two < eight < exact < dense / 10


def test_a_run_that_diverges_has_an_infinite_loss_from_there_on(text: TextReader) -> None:
    losses = play(replace(SHORT, alpha=1e30), text).losses
    assert len(losses) == SHORT.rounds
    assert losses[-1] == float("inf")


def test_seconds_add_up(text: TextReader) -> None:
    watch = play(SHORT, text).stopwatch
    parts = (watch.model, watch.optimizer, watch.compress, watch.outer, watch.evaluate, watch.rest)
    assert all(part > 0 for part in parts)
    assert sum(parts) == pytest.approx(watch.total)
