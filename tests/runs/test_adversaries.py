"""Miners gone bad: each is rejected for exactly what it did, and nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest
from malformed_payloads import CODEC_REASONS
from run_builders import MAX_BYTES, Ledger, MakeStage, Stage, play
from torch import Tensor

from muster.kernels import SparseUpdate
from muster.lab.adversary import ADVERSARIES
from muster.lab.simulator import SimulatedRun
from muster.node.miner import local_miner
from muster.node.miner.engine import Delta
from muster.node.miner.stages import OpenRound, Stages, Task, compress
from muster.protocol import paths, wire
from muster.protocol.storage import Store
from muster.protocol.storage.base import DEFAULT_DEADLINE
from muster.protocol.storage.locations import MemoryBuckets
from muster.protocol.storage.memory import MemoryStore

ROUNDS = 5
HONEST = ("miner-0", "miner-1", "miner-2")
REASONS: dict[str, frozenset[str]] = {
    "desynchronised": frozenset({"possession"}),
    "early_key": frozenset({"key_seal"}),
    "garbage": CODEC_REASONS,
    "no_key": frozenset({"key_missing"}),
    "resigner": frozenset({"payload_auth"}),
    "swapped": frozenset({"ciphertext_digest"}),
    "wrong_key": frozenset({"key_mismatch"}),
}
ACCEPTED_OR_ABSENT = {"noise", "silent"}


@pytest.fixture(scope="module")
def crowd(stage: MakeStage) -> tuple[Stage, SimulatedRun]:
    """Three honest miners and one of every adversary."""
    made = stage(adversaries=dict.fromkeys(ADVERSARIES, 1), data={"slots": 16})
    return made, play(made, ROUNDS)


def test_every_adversary_has_its_expectation() -> None:
    assert set(REASONS) | ACCEPTED_OR_ABSENT == set(ADVERSARIES)


@pytest.mark.parametrize("name", sorted(REASONS))
def test_it_is_rejected_for_exactly_what_it_did(crowd: tuple[Stage, SimulatedRun], name: str) -> None:
    made, run = crowd
    found = [Ledger(run).reasons(made.roster, round_).get(f"{name}-0") for round_ in range(ROUNDS)]
    assert found[0] is not None, "it is expected in round 0, so its submission is waited for"
    assert {reason for reason in found if reason is not None} <= REASONS[name]


def test_the_honest_are_undisturbed(crowd: tuple[Stage, SimulatedRun]) -> None:
    made, run = crowd
    assert len(run.state_roots) == len(set(run.state_roots)) == ROUNDS
    for round_ in range(ROUNDS):
        reasons = Ledger(run).reasons(made.roster, round_)
        assert {reasons[name] for name in HONEST} == {""}
    assert run.losses[-1] < run.losses[0]


def test_bad_submissions_leave_no_trace_in_theta(stage: MakeStage, crowd: tuple[Stage, SimulatedRun]) -> None:
    """θ after round 0 is that of the honest and the noise alone, whoever else knocked."""
    made, run = crowd
    silenced = {f"{name}-0" for name in REASONS}
    alone = play(made, 1, absent=lambda name, _round: name in silenced)
    assert alone.state_roots[0] == run.state_roots[0]


def test_silence_costs_a_deadline_once(stage: MakeStage) -> None:
    made = stage(adversaries={"silent": 1})
    run = play(made, 4)
    ledger = Ledger(run)
    waited = [ledger.seal(r).block.number - ledger.opening(r).open.number for r in range(4)]
    assert waited[0] == made.spec.clock.deadline
    assert max(waited[1:]) < made.spec.clock.deadline


def test_noise_is_of_good_form_and_sinks_below_the_honest(stage: MakeStage) -> None:
    made = stage(adversaries={"noise": 1})
    run = play(made, 6)
    ledger = Ledger(run)
    assert all(ledger.reasons(made.roster, round_)["noise-0"] == "" for round_ in range(6))
    judged = {made.name_of(peer.hotkey): peer for peer in ledger.scores(5).rows}
    noise = judged["noise-0"]
    assert noise.unassigned_after is not None
    for name in HONEST:
        honest = judged[name]
        assert honest.unassigned_after is not None
        assert honest.unassigned_before == noise.unassigned_before
        assert honest.unassigned_after < noise.unassigned_after, "what a LossScore compares"
        assert honest.rating.ordinal > noise.rating.ordinal


@dataclass
class Order:
    """What was stored, in the order in which it became visible: (bucket, key)."""

    stored: list[tuple[str, str]] = field(default_factory=list)


class _OrderedStore(MemoryStore):
    """A bucket whose writes are noted."""

    def __init__(self, name: str, order: Order) -> None:
        super().__init__()
        self._name, self._order = name, order

    async def put(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> None:
        await super().put(key, data, deadline=deadline)
        self._order.stored.append((self._name, key))

    async def put_if_absent(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> bool:
        stored = await super().put_if_absent(key, data, deadline=deadline)
        if stored:
            self._order.stored.append((self._name, key))
        return stored


class OrderedBuckets(MemoryBuckets):
    """Buckets that remember in which order they were written."""

    def __init__(self) -> None:
        super().__init__()
        self.order = Order()

    def _make(self, location: str) -> Store:
        return _OrderedStore(location.removeprefix("mem:"), self.order)


def test_no_honest_payload_can_be_read_before_the_seal(stage: MakeStage) -> None:
    """The only keys shown before a round's seal are those of the one that shows them early, and gains nothing."""
    made, buckets = stage(adversaries={"early_key": 1}), OrderedBuckets()
    run = play(made, 4, buckets=buckets)
    run_id, order = made.run.history.run_id, buckets.order.stored
    shown_too_soon = set()
    for round_ in range(4):
        sealed = order.index(("operator-0", Ledger(run).key("seals", round_)))
        keys = [i for i, (_, key) in enumerate(order) if key == paths.key(run_id, round_)]
        assert {order[i][0] for i in keys} >= set(HONEST)
        shown_too_soon |= {order[i][0] for i in keys if i < sealed}
    assert shown_too_soon == {"early_key-0"}
    assert Ledger(run).reasons(made.roster, 0)["early_key-0"] == "key_seal"


def test_a_ciphertext_does_not_open_without_the_key(stage: MakeStage) -> None:
    """What lies in a bucket before the seal has high entropy under every key that is public by then."""
    made, buckets = stage(), OrderedBuckets()
    run = play(made, 1, buckets=buckets)
    run_id = made.run.history.run_id
    head, ciphertext = (
        asyncio.run(buckets.bucket("mem:miner-0").get(part(run_id, 0), max_bytes=MAX_BYTES))
        for part in (paths.head, paths.payload)
    )
    signed = wire.decode_head(head, run_id)
    shown = asyncio.run(buckets.bucket("mem:miner-1").get(paths.key(run_id, 0), max_bytes=MAX_BYTES))
    other = wire.decode_key(shown, run_id, 0, made.member("miner-1").identity.public).payload_key
    with pytest.raises(wire.WireError, match="key_mismatch"):
        wire.open_payload(signed.header, ciphertext, other, run.participants["miner-0"].tip.codec)


async def anothers_slot(_now: OpenRound) -> int | None:
    """Slot 1, which is not its own: it signs for that one, with that slot's windows."""
    return 1


def test_two_accepted_submissions_cannot_share_a_slot(stage: MakeStage) -> None:
    """Uid 1 is miner-0's; the other claims it, with the right windows and a good proof, and is turned away."""
    made = stage(adversaries={"noise": 1})
    claimant = partial(local_miner, stages=Stages(slot=anothers_slot))
    run = play(made, 3, makers=lambda behaviour: claimant if behaviour == "noise" else local_miner)
    for round_ in range(3):
        reasons = Ledger(run).reasons(made.roster, round_)
        assert reasons["noise-0"] == "uid_mismatch"
        assert {reasons[name] for name in HONEST} == {""}
    assert len(run.state_roots) == 3


def test_one_of_two_keys_with_one_computation_loses_its_seat(stage: MakeStage) -> None:
    """Though seats are free; once it is judged twice, and the honest and the other key keep theirs."""
    made = stage(adversaries={"noise": 2})
    shared: dict[int, SparseUpdate] = {}

    def first_of_both(task: Task, delta: Delta, error: Sequence[Tensor]) -> tuple[SparseUpdate, tuple[Tensor, ...]]:
        update, left = compress(task, delta, error)
        return shared.setdefault(task.tip.round, update), left

    twin = partial(local_miner, stages=Stages(compress=first_of_both))
    run = play(made, 8, makers=lambda behaviour: twin if behaviour == "noise" else local_miner)
    last = Ledger(run).reasons(made.roster, 7)
    assert sorted(last[name] for name in ("noise-0", "noise-1")) == ["", "not_original"]
    for round_ in range(8):
        reasons = Ledger(run).reasons(made.roster, round_)
        assert {reasons[name] for name in HONEST} == {""}
        assert round_ > 2 or "not_original" not in reasons.values()
