"""What the gauntlet's benchmark measures is what a run computes and what its validator publishes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.convergence import engine
from benchmarks.convergence.variant import Variant
from benchmarks.gauntlet import measure, pieces, setting, world
from benchmarks.gauntlet.judge import outcome_of, replay
from benchmarks.gauntlet.measure import Measured
from benchmarks.gauntlet.pieces import Piece
from benchmarks.gauntlet.scenarios import Role, Scenario, honest
from benchmarks.gauntlet.setting import template, text
from benchmarks.gauntlet.world import World
from muster.lab.nano import compiled_loops
from muster.node.replica import Replica
from muster.protocol.incentive.score import Evaluated
from muster.validator.gauntlet.evaluation import Candidate, evaluate

HONEST = Scenario("honest", honest(5), 3, (0,))
JUDGED = replace(
    HONEST,
    name="judged",
    roles=(
        *HONEST.roles,
        Role("noise", "noise"),
        Role("copycat", "clone", of="honest-1"),
        Role("half", steps=4, declares=16),
        Role("late", arrives=1),
    ),
    validators=2,
)
FEW = replace(HONEST, name="few", roles=(*honest(3), Role("zero", "zero")), rounds=2)
PUBLISHED = 1e-6
"""Windows are kept as fp32, and evaluated in other batches: nat/token by which means may differ."""


@pytest.fixture(scope="module", autouse=True)
def as_measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """As the benchmark's processes run, with a text of the tests' own."""
    torch.set_num_threads(1)
    with compiled_loops(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(setting, "TEXT", tmp_path_factory.mktemp("text"))
        text.cache_clear()
        yield
    text.cache_clear()


def test_losses_are_the_convergence_studys_to_the_bit() -> None:
    """And so the simulator's and the testnet's: the inner schedule is in its warm-up, whatever its length."""
    variant = Variant(peers=5, steps=8, rounds=3, rule="damped_mean", alpha=2.0)
    assert World(HONEST, 0).play().heldout.tolist() == [
        np.float32(loss) for loss in engine.play(variant, text(), template()).losses
    ]


def test_who_is_judged_without_being_applied_changes_nothing() -> None:
    alone, beside = World(HONEST, 0).play(), World(replace(JUDGED, validators=1), 0).play()
    assert np.array_equal(alone.heldout, beside.heldout)
    for name in world.GAINS:
        assert np.array_equal(alone.gains[name], beside.gains[name][:, :, : len(HONEST.roles)], equal_nan=True)


@pytest.mark.parametrize("scenario", [JUDGED, FEW], ids=lambda scenario: scenario.name)
def test_the_validators_evaluation_says_the_same(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[dict[str, Evaluated]] = []

    def both(replica: Replica, candidates: Sequence[Candidate], common: Tensor, scale: float) -> Measured:
        found = evaluate(replica, candidates, common, scale)
        published.append({name: one.outcome() for name, one in found.items()})
        return measure.measure(replica, candidates, common, scale)

    monkeypatch.setattr(world, "measure", both)
    raw = World(scenario, 1).play()
    for number, theirs in enumerate(published):
        round_, v = divmod(number, scenario.validators)
        for i, role in enumerate(scenario.roles):
            if role.name not in theirs:
                assert not raw.present[round_, i]
                continue
            ours, other = outcome_of(raw, round_, v, i), theirs[role.name]
            for a, b in ((ours, other), (ours.control, other.control), (ours.errors, other.errors)):
                assert (a.assigned, a.unassigned) == pytest.approx((b.assigned, b.unassigned), abs=PUBLISHED)


def test_to_first_order_a_small_step_gains_what_it_gains() -> None:
    raw = World(replace(HONEST, rounds=1), 2).play()
    assert raw.screened[0] == pytest.approx(raw.gains["unassigned"][0].mean(-1), rel=0.2)


def test_a_piece_is_kept_whole_and_belongs_to_its_definition(tmp_path: Path) -> None:
    raw = World(FEW, 3).play()
    assert not pieces.is_there(tmp_path, FEW, 3)
    pieces.write(tmp_path, FEW, 3, raw)
    assert pieces.is_there(tmp_path, FEW, 3)
    assert not pieces.is_there(tmp_path, replace(FEW, rounds=9), 3)
    assert [path.name for path in tmp_path.iterdir()] == ["few-3.npz"]
    kept = Piece.read(pieces.path_of(tmp_path, FEW, 3))
    assert (kept.scenario, kept.seed, kept.roles) == (FEW.name, 3, FEW.roles)
    assert np.array_equal(kept.raw.same, raw.same, equal_nan=True)
    assert np.array_equal(kept.raw.gains["assigned"], raw.gains["assigned"], equal_nan=True)


def test_an_identical_update_is_refused_as_a_clone_and_alternatives_are_never_together(tmp_path: Path) -> None:
    twins = replace(
        HONEST,
        name="twins",
        roles=(
            *HONEST.roles,
            Role("copycat", "clone", of="honest-0"),
            Role("twin"),
            Role("twice", "scaled", of="twin", factor=2.0, stands_for="twin"),
        ),
    )
    pieces.write(tmp_path, twins, 0, World(twins, 0).play())
    piece, rule = Piece.read(pieces.path_of(tmp_path, twins, 0)), template().gauntlet
    names = [role.name for role in HONEST.roles]
    failed = replay(piece, [*names, "copycat"], rule).failed
    assert {reason for _, reason in failed} == {"clone"}
    assert failed["honest-0", "clone"] + failed["copycat", "clone"] == twins.rounds
    one, other = (replay(piece, [*names, name], rule) for name in ("twin", "twice"))
    assert other.ratios == pytest.approx(one.ratios, rel=0.2)
    with pytest.raises(ValueError, match="alternatives"):
        replay(piece, [*names, "twin", "twice"], rule)
