"""Two thousand malformed submissions against a live aggregator: each gets its reason, and the run does not notice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
from malformed import MAKERS, Bench, Malformed
from run_builders import Ledger, MakeStage, Stage, play

from muster.kernels import SparseUpdate, compress
from muster.lab.simulator import SimulatedRun
from muster.node.ledger.participant import possession
from muster.node.ledger.seals import FoundSeal
from muster.node.miner import MakeMiner, local_miner, stages
from muster.node.miner.stages import OpenRound, Stages
from muster.node.miner.state import Made
from muster.node.replica.genesis import genesis_parameters
from muster.protocol import paths
from muster.protocol.identity import Identity, hotkey_of
from muster.protocol.ledger import Tip

CASES = 2000
ROUNDS = 4
ROGUES = CASES // ROUNDS
SLOTS = 512
HONEST = ("miner-0", "miner-1")


@dataclass(slots=True)
class Crowd:
    """Rogue hotkeys of one operator, their slots, and what each puts into its bucket, by (public key, round)."""

    identities: Sequence[Identity]
    uids: dict[bytes, int] = field(default_factory=dict)
    put: dict[tuple[bytes, int], tuple[Bench, Malformed]] = field(default_factory=dict)


def operator_of(crowd: Crowd) -> MakeMiner:
    """An honest miner whose owner registers a crowd of hotkeys beside it and lets them loose."""

    async def put(now: OpenRound, made: Made) -> None:
        """The crowd comes first, so that the round is still open for all of it."""
        if not crowd.uids:
            await _settle_in(crowd, now)
        tip, context = now.tip, now.context
        facts, work = tip.facts(possession(tip, now.replica), crowd.uids), _work(tip)
        for number, identity in enumerate(crowd.identities):
            bench = Bench(facts, identity, crowd.uids[identity.public], work, context.identity)
            case = _case(bench, tip.round * ROGUES + number)
            crowd.put[identity.public, tip.round] = bench, case
            bucket = context.buckets.bucket(_location(number))
            await bucket.put(paths.payload(tip.run_id, tip.round), case.work.payload)
            await bucket.put(paths.head(tip.run_id, tip.round), case.work.head)
        await stages.put(now, made)

    async def key(now: OpenRound, made: Made, found: FoundSeal) -> None:
        """Whatever each has for a key object, once the seal is public."""
        run_id, round_ = now.tip.run_id, now.tip.round
        for number, identity in enumerate(crowd.identities):
            bench, _ = crowd.put[identity.public, round_]
            data = _case(replace(bench, seal=found.digest), round_ * ROGUES + number).key
            await now.context.buckets.bucket(_location(number)).put(paths.key(run_id, round_), data)
        await stages.show_key(now, made, found)

    return partial(local_miner, stages=Stages(put=put, key=key))


async def _settle_in(crowd: Crowd, now: OpenRound) -> None:
    for number, identity in enumerate(crowd.identities):
        crowd.uids[identity.public] = await now.context.chain.register(identity)
        await now.context.chain.commit(identity, _location(number))


def _case(bench: Bench, turn: int) -> Malformed:
    """The same one for the same turn; its key answers the bench's seal."""
    labels, rng = list(MAKERS), random.Random(turn)
    label = labels[turn % len(labels)]
    work, key, reasons = MAKERS[label](bench, rng, rng.randbytes(32))
    return Malformed(label, work, key, frozenset(reasons))


def _location(number: int) -> str:
    return f"mem:rogue-{number}"


def _work(tip: Tip) -> SparseUpdate:
    """An honest update to make malformed ones of."""
    return compress(genesis_parameters(tip.spec.model, 1000 + tip.round), tip.codec)


@pytest.fixture(scope="module")
def siege(stage: MakeStage) -> tuple[Stage, SimulatedRun, Crowd]:
    """Two honest miners for four rounds, and five hundred rogues."""
    made = stage(
        miners=2,
        adversaries={"noise": 1},
        inner={"steps": 2},
        data={"slots": SLOTS},
        clock={"checkpoint_every": 100, "reveal": 6, "grace": 4},
    )
    crowd = Crowd([Identity.derive(made.roster.seed, f"rogue-{number}") for number in range(ROGUES)])
    operator = operator_of(crowd)
    return made, play(made, ROUNDS, makers=lambda behaviour: operator if behaviour == "noise" else local_miner), crowd


def test_all_two_thousand_were_sealed(siege: tuple[Stage, SimulatedRun, Crowd]) -> None:
    _, run, crowd = siege
    assert sum(round_ < ROUNDS for _, round_ in crowd.put) == CASES, "what is made while the run closes does not count"
    assert {case.label for _, case in crowd.put.values()} == set(MAKERS)
    for round_ in range(ROUNDS):
        sealed = {public for public, _ in Ledger(run).seal(round_).headers}
        assert sealed >= {identity.public for identity in crowd.identities}


def test_each_is_rejected_for_its_reason(siege: tuple[Stage, SimulatedRun, Crowd]) -> None:
    _, run, crowd = siege
    wrong = []
    for round_ in range(ROUNDS):
        reasons = {entry.public: entry.reason for entry in Ledger(run).record(round_).entries}
        for identity in crowd.identities:
            _, case = crowd.put[identity.public, round_]
            if reasons[identity.public] not in case.reasons:
                wrong.append((case.label, reasons[identity.public] or "accepted", sorted(case.reasons)))
    assert not wrong, Counter(str(one) for one in wrong).most_common(10)


def test_the_honest_do_not_notice(siege: tuple[Stage, SimulatedRun, Crowd]) -> None:
    made, run, _ = siege
    assert len(run.state_roots) == ROUNDS
    quiet = play(made, ROUNDS, makers=lambda _behaviour: local_miner)
    assert quiet.state_roots == run.state_roots, "θ is what it would be without the crowd"
    for round_ in range(ROUNDS):
        accepted = {hotkey_of(entry.public) for entry in Ledger(run).record(round_).accepted}
        assert accepted == {member.hotkey for member in made.roster.miners}


def test_the_crowd_costs_no_deadline_and_earns_nothing(siege: tuple[Stage, SimulatedRun, Crowd]) -> None:
    _, run, crowd = siege
    ledger = Ledger(run)
    for round_ in range(ROUNDS):
        assert ledger.seal(round_).block.number < ledger.opening(round_).deadline
    rogues = {identity.hotkey for identity in crowd.identities}
    judged = [peer for peer in ledger.scores(ROUNDS - 1).rows if peer.hotkey in rogues]
    assert len(judged) == ROGUES
    assert {(peer.peer_score, peer.incentive, peer.positive) for peer in judged} == {(0.0, 0.0, False)}
