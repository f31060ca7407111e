"""Whole honest runs: everybody ends on the same bits; absences, newcomers and amendments cost what they must."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from run_builders import Ledger, MakeStage, Stage, genesis_without, play
from torch import Tensor

from muster.kernels import Codec, SparseUpdate, compress, residual
from muster.lab.simulator import SimulatedRun
from muster.node.miner import MakeMiner, Miner, local_miner, stages
from muster.node.miner.engine import Delta
from muster.node.miner.stages import Stages, Task
from muster.node.telemetry.events import Joined, Scored, Sealed
from muster.protocol import paths, wire
from muster.protocol.identity import Identity
from muster.protocol.reasons import NOT_SELECTED, NULL_ROUND
from muster.protocol.storage.locations import MemoryBuckets
from muster.protocol.wire import Kind

ROUNDS = 6


@pytest.fixture(scope="module")
def honest(stage: MakeStage) -> tuple[Stage, SimulatedRun]:
    """Three honest miners and one operator for six rounds."""
    made = stage()
    return made, play(made, ROUNDS)


def test_every_replica_has_the_same_root_after_every_round(honest: tuple[Stage, SimulatedRun]) -> None:
    _, run = honest
    assert set(run.participants) == {"aggregator-0", "validator-0", "miner-0", "miner-1", "miner-2"}
    assert len(run.state_roots) == len(set(run.state_roots)) == ROUNDS
    last = {participant.replica.root().hex() for participant in run.participants.values()}
    assert last == {run.state_roots[-1]}


def test_the_held_out_loss_falls_every_round(honest: tuple[Stage, SimulatedRun]) -> None:
    _, run = honest
    assert len(run.losses) == ROUNDS
    assert run.losses == sorted(run.losses, reverse=True)
    assert run.losses[-1] < run.losses[0] - 0.5


def test_a_round_closes_as_soon_as_everybody_expected_is_in(honest: tuple[Stage, SimulatedRun]) -> None:
    """No deadline is waited for: the second seal is a few blocks after the first."""
    made, run = honest
    for round_ in range(ROUNDS):
        opening = Ledger(run).opening(round_)
        assert opening.min_block <= Ledger(run).seal(round_).block.number < opening.deadline
        assert Ledger(run).reasons(made.roster, round_) == dict.fromkeys(("miner-0", "miner-1", "miner-2"), "")


def test_the_closing_record_carries_the_root_of_the_last_theta(honest: tuple[Stage, SimulatedRun]) -> None:
    _, run = honest
    record = Ledger(run).record(ROUNDS)
    assert (record.kind, record.entries, record.opening) == (Kind.CLOSE, (), None)
    assert record.root.hex() == run.state_roots[-1]
    assert record.outer_step == ROUNDS
    assert all(participant.tip.closed for participant in run.participants.values())


def test_scores_of_a_round_steer_the_round_that_lies_lag_rounds_after(honest: tuple[Stage, SimulatedRun]) -> None:
    made, run = honest
    lag = made.spec.gauntlet.lag
    for round_ in range(ROUNDS):
        assert [s.round for s in Ledger(run).record(round_).scores] == ([round_ - lag] if round_ >= lag else [])


def test_the_same_seed_gives_the_same_roots_and_another_seed_others(
    stage: MakeStage, honest: tuple[Stage, SimulatedRun]
) -> None:
    _, first = honest
    again = play(stage(), 3)
    other = play(stage(seed=6), 3)
    assert again.state_roots == first.state_roots[:3]
    assert again.losses == first.losses[:3]
    assert not set(other.state_roots) & set(first.state_roots)


def test_a_second_operator_follows(stage: MakeStage) -> None:
    made = stage(validators=2)
    run = play(made, 4)
    assert len(run.state_roots) == 4
    assert run.roots("aggregator-1") == run.roots("validator-1") == run.roots("aggregator-0")
    ledger = Ledger(run)
    assert {len(ledger.record(round_).scores) for round_ in range(1, 4)} == {2}
    assert not run.events("aggregator-1", Sealed)


@pytest.mark.parametrize("rule", ["mean", "sender_mean", "damped_mean"])
@pytest.mark.parametrize("decay", [0.0, 0.95])
def test_every_rule_trains(stage: MakeStage, rule: str, decay: float) -> None:
    run = play(stage(outer={"rule": rule}, sparse={"error_decay": decay}), 4)
    assert len(run.state_roots) == 4
    assert run.losses[-1] < run.losses[0]


@pytest.mark.parametrize("rating", ["mean", "openskill", "ordinal"])
def test_whoever_passes_the_own_data_test_is_paid_by_every_rating(stage: MakeStage, rating: str) -> None:
    """Of runs this small the test itself shows little, so its ramp is where most honest peers are."""
    gauntlet = {"rating": rating, "mu_floor": 0.0, "mu_full": 0.01, "eval_windows": 6}
    run = play(stage(gauntlet=gauntlet), 6)
    rows = run.events("validator-0", Scored)[-1].peers
    paid = [row for row in rows if row.incentive > 0.0]
    assert paid
    assert all(row.gate > 0.0 and row.windows for row in paid)
    assert sum(row.incentive for row in rows) == pytest.approx(1.0)


def test_a_validator_that_is_behind_ends_where_everybody_does(stage: MakeStage) -> None:
    """It measures on older θ when the closing record comes, and goes back to the newest."""
    run = play(stage(clock={"evaluate": 40}, gauntlet={"lag": 2}), 4)
    roots = {name: participant.replica.root() for name, participant in run.participants.items()}
    assert len(set(roots.values())) == 1


def test_a_lone_miner_is_paid(stage: MakeStage) -> None:
    run = play(stage(miners=1, gauntlet={"mu_floor": 0.0, "mu_full": 0.01}), 8)
    shares = [row.incentive for scored in run.events("validator-0", Scored) for row in scored.peers]
    assert set(shares) <= {0.0, 1.0}
    assert 1.0 in shares


def test_each_rule_is_another_run(stage: MakeStage) -> None:
    rules = ("mean", "sender_mean", "damped_mean")
    assert len({play(stage(outer={"rule": rule}), 1).state_roots[0] for rule in rules}) == len(rules)


def test_where_everybody_is_new_round_0_waits_for_the_deadline_and_later_ones_do_not(stage: MakeStage) -> None:
    made = stage()
    spec = genesis_without(made.spec, *made.spec.genesis.miners)
    run = play(made, 4, spec)
    ledger = Ledger(run)
    assert ledger.opening(0).expected == ledger.opening(1).expected == ()
    assert len(ledger.opening(2).expected) == 3
    waited = [ledger.seal(round_).block.number >= ledger.opening(round_).deadline for round_ in range(4)]
    assert waited == [True, True, False, False]
    assert ledger.reasons(made.roster, 0) == dict.fromkeys(("miner-0", "miner-1", "miner-2"), "")


def test_too_few_submissions_make_a_null_round_that_changes_nothing(stage: MakeStage) -> None:
    made = stage(clock={"min_submissions": 2})
    run = play(made, 5, absent=lambda name, round_: round_ == 1 and name != "miner-0")
    ledger = Ledger(run)
    assert [ledger.record(round_).kind for round_ in range(3)] == [Kind.ROUND, Kind.NULL, Kind.ROUND]
    assert ledger.reasons(made.roster, 1) == {"miner-0": NULL_ROUND}
    assert ledger.record(2).root == ledger.record(1).root
    assert [ledger.record(round_).outer_step for round_ in range(5)] == [0, 1, 1, 2, 3]
    assert run.state_roots[1] == run.state_roots[0] != run.state_roots[2]
    assert run.losses[1] == run.losses[0]
    waited = [ledger.seal(r).block.number - ledger.opening(r).open.number for r in range(5)]
    assert waited[1] == made.spec.clock.deadline > max(waited[2:]), "who was there is waited for, and nobody else"


def test_an_absent_expected_peer_costs_one_deadline_once(stage: MakeStage) -> None:
    made = stage()
    run = play(made, ROUNDS, absent=lambda name, round_: name == "miner-1" and round_ >= 2)
    ledger = Ledger(run)
    waited = [ledger.seal(r).block.number - ledger.opening(r).open.number for r in range(ROUNDS)]
    deadline = made.spec.clock.deadline
    assert waited[2] == deadline
    assert max(waited[:2] + waited[3:]) < deadline
    assert all("miner-1" not in ledger.reasons(made.roster, round_) for round_ in range(2, ROUNDS))


def test_a_peer_there_every_other_round_costs_two_deadlines(stage: MakeStage) -> None:
    made = stage()
    run = play(made, 8, absent=lambda name, round_: name == "miner-1" and round_ % 2 == 1)
    ledger = Ledger(run)
    waited = [ledger.seal(r).block.number - ledger.opening(r).open.number for r in range(8)]
    assert [round_ for round_ in range(8) if waited[round_] == made.spec.clock.deadline] == [1, 3]
    assert ledger.reasons(made.roster, 6)["miner-1"] == "", "it is taken in, only not waited for"


def test_a_peer_that_comes_back_is_taken_in_and_soon_waited_for_again(stage: MakeStage) -> None:
    made = stage()
    run = play(made, 5, absent=lambda name, round_: name == "miner-1" and round_ == 1)
    ledger, public = Ledger(run), made.member("miner-1").identity.public
    assert [public in ledger.opening(round_).expected for round_ in range(5)] == [True, True, False, True, True]
    assert ledger.reasons(made.roster, 2)["miner-1"] == ""


def test_a_late_newcomer_joins_from_a_checkpoint_and_is_accepted(stage: MakeStage) -> None:
    made = stage(miners=4)
    newcomer = made.member("miner-3")
    run = play(made, ROUNDS, genesis_without(made.spec, newcomer.hotkey), arrivals={"miner-3": 3})
    ledger = Ledger(run)
    (joined,) = run.events("miner-3", Joined)
    assert joined.round == 2, "the newest checkpoint is before the record of round 2"
    assert sorted(run.roots("miner-3")) == [2, 3, 4, 5]
    assert len(run.state_roots) == ROUNDS
    assert "miner-3" not in ledger.reasons(made.roster, 2)
    assert ledger.reasons(made.roster, 3)["miner-3"] == ""
    assert newcomer.identity.public in ledger.opening(5).expected


Deltas = dict[tuple[str, int], list[Tensor]]
"""What error feedback must be made of: Δ by hotkey and round."""


def witnessed(deltas: Deltas) -> MakeMiner:
    """Honest miners whose Δ is written down before it is compressed."""

    def compress_seen(task: Task, delta: Delta, error: Sequence[Tensor]) -> tuple[SparseUpdate, tuple[Tensor, ...]]:
        hotkey = task.context.identity.hotkey
        deltas[hotkey, task.tip.round] = [tensor.clone() for tensor in delta.tensors]
        return stages.compress(task, delta, error)

    return partial(local_miner, stages=Stages(compress=compress_seen))


def _left(miner: Miner, deltas: Deltas, made: Stage, rounds: int) -> list[Tensor]:
    """e after that many rounds: e ← a − Δ̂ with a = β·e + Δ, in each of them."""
    beta, k, grid = made.spec.sparse.error_decay, made.spec.sparse.k, miner.tip.layout.grid
    left = [torch.zeros(shape) for shape in miner.tip.layout.shapes]
    hotkey = miner.context.identity.hotkey
    for round_ in range(rounds):
        acc = [beta * e + delta for e, delta in zip(left, deltas[hotkey, round_], strict=True)]
        left = list(residual(acc, compress(acc, Codec(grid, k))))
    return left


def test_more_miners_than_seats(stage: MakeStage) -> None:
    """Two seats, five miners: each round takes two and says so of the rest; what is sent is sent, taken or not."""
    made = stage(miners=5, gauntlet={"seats": 2})
    deltas: Deltas = {}
    run = play(made, 5, makers=lambda _behaviour: witnessed(deltas))
    ledger = Ledger(run)
    assert len(run.state_roots) == 5
    for round_ in range(5):
        reasons = ledger.reasons(made.roster, round_)
        assert sorted(reasons.values()) == ["", "", NOT_SELECTED, NOT_SELECTED, NOT_SELECTED]
    for member in made.roster.miners:
        miner = run.participants[member.name]
        assert isinstance(miner, Miner)
        rounds = sum(hotkey == member.hotkey for hotkey, _ in deltas)
        assert rounds >= 5, "the closing one too, if its leader still waited for scores when they were done"
        for ours, theirs in zip(_left(miner, deltas, made, rounds), miner.error_feedback, strict=True):
            assert torch.equal(ours, theirs), member.name


def test_the_validator_measures_those_without_a_seat_too(stage: MakeStage) -> None:
    made = stage(miners=5, gauntlet={"seats": 2})
    run = play(made, 2)
    judged = Ledger(run).scores(0).rows
    assert len(judged) == 5
    assert all(row.measured for row in judged)


def _with_amendment(made: Stage, signer: Identity, path: str, value: str, round_: int) -> MemoryBuckets:
    """Buckets where an amendment already waits for the leader."""
    buckets, run_id = MemoryBuckets(), made.run.history.run_id
    data = wire.encode_amendment(signer, run_id, 1, round_, path, value)
    asyncio.run(buckets.bucket("mem:operator-0").put(paths.amendments(run_id) + "one", data))
    return buckets


@pytest.mark.parametrize(
    ("path", "value", "changed"),
    [("inner.lr", "0.001", 0.001), ("clock.deadline", "40", 40), ("sparse.k", "32", 32)],
)
def test_the_owners_amendment_takes_effect_at_its_round(
    stage: MakeStage, honest: tuple[Stage, SimulatedRun], path: str, value: str, changed: float
) -> None:
    made = stage()
    owner = Identity.derive(made.roster.seed, "owner")
    run = play(made, 4, buckets=_with_amendment(made, owner, path, value, round_=2))
    history = run.participants["miner-0"].tip.history
    section, key = path.split(".")

    def at(round_: int) -> Any:
        return getattr(getattr(history.at(round_), section), key)

    assert [at(round_) == changed for round_ in range(4)] == [False, False, True, True]
    assert len(Ledger(run).record(0).amendments) == 1
    assert not Ledger(run).record(1).amendments
    assert run.state_roots[:2] == honest[1].state_roots[:2]
    assert (run.state_roots[2] == honest[1].state_roots[2]) == (section == "clock")
    if path == "clock.deadline":
        openings = [Ledger(run).opening(round_) for round_ in range(4)]
        assert [o.deadline - o.open.number for o in openings] == [12, 12, 40, 40]


def test_nobody_elses_amendment_is_taken_up(stage: MakeStage, honest: tuple[Stage, SimulatedRun]) -> None:
    made = stage()
    signer = made.member("miner-0").identity
    run = play(made, 3, buckets=_with_amendment(made, signer, "inner.lr", "0.001", round_=2))
    assert not any(Ledger(run).record(round_).amendments for round_ in range(4))
    assert run.state_roots == honest[1].state_roots[:3]
