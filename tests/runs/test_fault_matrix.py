"""Whatever fails, for whom and however often: a run that waits loses nothing, one that must not wait loses exactly one.

The cells and the rule their outcome is computed from are in `fault_cells`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import cache
from operator import itemgetter
from types import MappingProxyType

import pytest
from fault_cells import (
    ABSENT,
    AGEING,
    ARRIVAL,
    COMING,
    FOLLOWER,
    HASTY,
    LAST,
    LEADER,
    MIN_BLOCKS,
    MINER,
    NEWCOMER,
    ONE_SEAT,
    READ,
    ROUNDS,
    SCREENING,
    Bound,
    Cell,
    Place,
    Times,
    cells,
)
from nano_stage import BLOCK, NanoStage, Setting
from run_builders import MAX_BYTES, Ledger

from muster.lab.faults import Kind, Script
from muster.lab.simulator import SimulatedRun
from muster.node.telemetry.events import RoundEvent, Scored, Sealed, SealRefused, Transition
from muster.protocol.ledger.round import Instruction, Phase, SealSeen
from muster.protocol.spec import RunSpec
from muster.testnet.roster import Roster

Faultless = tuple[NanoStage, SimulatedRun]
Stages = Callable[[Setting, int], Faultless]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """The stage of each setting, laid out when it is first asked for, and how so many rounds on it go where nothing
    fails."""

    @cache
    def laid(setting: Setting) -> NanoStage:
        return NanoStage.lay(setting, tmp_path_factory.mktemp("stage"))

    @cache
    def stage(setting: Setting, rounds: int) -> Faultless:
        return laid(setting), laid(setting).play(Script(), rounds)

    return stage


def marked(cell: Cell) -> object:
    """What lies between others is played with the slow tests."""
    return pytest.param(cell, marks=pytest.mark.slow) if cell.between else cell


@pytest.mark.parametrize("cell", [marked(cell) for cell in cells()], ids=str)
def test_a_fault_costs_what_the_rule_says(cell: Cell, stages: Stages) -> None:
    stage, faultless = stages(cell.setting, cell.rounds)
    script = Script([*cell.place.also, cell.fault])
    run = stage.play(script, cell.rounds)

    assert script.unfired() == [], "the fault did not happen"
    misses = cell.misses(stage.spec)
    assert not misses or cell.rounds == ROUNDS, "who misses a round needs one to be back in"
    check_reasons(run, stage.roster, misses)
    assert len(run.state_roots) == cell.rounds, "everybody ends on the same bits"
    if not misses:
        assert run.state_roots == faultless.state_roots, "a fault that was waited out changed a bit of θ"
    assert run.chain.height - faultless.chain.height <= cell.extra_blocks(stage.spec), "it took too long"
    check_scores(run, cell, stage.spec)
    if cell.place.who == FOLLOWER:
        check_unnoticed(run, faultless)


@pytest.mark.parametrize("times", [Times.ONCE, Times.TWICE, Times.TEN_BLOCKS], ids=lambda times: times.name.lower())
@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("place", COMING, ids=str)
def test_a_newcomer_that_cannot_read_the_ledger_comes_later(
    place: Place, kind: Kind, times: Times, stages: Stages
) -> None:
    """It alone pays, in rounds it is not there; and it ends on the same bits."""
    stage, _ = stages(HASTY, ROUNDS)
    fault, rounds = place.fault(kind, times), ARRIVAL + 3
    script = Script([fault])
    run = stage.play(script, rounds, {NEWCOMER: ARRIVAL})
    assert script.unfired() == []
    assert len(run.state_roots) == rounds
    reasons = [Ledger(run).reasons(stage.roster, round_) for round_ in range(rounds)]
    assert [r.pop(MINER, ABSENT) for r in reasons] == [""] * rounds
    there = [r == {NEWCOMER: ""} for r in reasons]
    assert reasons == [{NEWCOMER: ""} if is_there else {} for is_there in there]
    first = there.index(True)
    assert all(there[first:])
    least, most = place.held_up(kind, times)
    assert (first == ARRIVAL) == (most < MIN_BLOCKS) == (least < MIN_BLOCKS)


@pytest.mark.parametrize("times", [Times.ONCE, Times.TEN_BLOCKS], ids=lambda times: times.name.lower())
@pytest.mark.parametrize("kind", [kind for kind in READ if kind != "slow"])
@pytest.mark.parametrize("place", SCREENING, ids=str)
def test_what_a_validator_cannot_measure_harms_nobody(place: Place, kind: Kind, times: Times, stages: Stages) -> None:
    """Who has no seat is not evaluated in that round (the last one, that steers nothing), and that is all."""
    stage, faultless = stages(ONE_SEAT, ROUNDS)
    script = Script([place.fault(kind, times)])
    run = stage.play(script, ROUNDS)
    assert script.unfired() == []
    assert run.state_roots == faultless.state_roots
    for round_ in range(ROUNDS):
        reasons = Ledger(run).reasons(stage.roster, round_)
        assert reasons == Ledger(faultless).reasons(stage.roster, round_)
        assert sorted(reasons.values()) == ["", "not_selected"]
        measured = {peer.hotkey for peer in Ledger(run).scores(round_).rows if peer.measured}
        seated = {miner.hotkey for miner in stage.roster.miners if reasons[miner.name] == ""}
        assert measured == (seated if round_ == LAST else {miner.hotkey for miner in stage.roster.miners})


@pytest.mark.parametrize("kind", ["error", "slow"])
@pytest.mark.parametrize("place", AGEING, ids=str)
def test_a_seal_that_is_public_too_late_costs_its_round_and_no_more(place: Place, kind: Kind, stages: Stages) -> None:
    """Nobody answers it, so nobody is in; its leader signs no other, and the next round is like any."""
    stage, _ = stages(HASTY, ROUNDS)
    assert stage.spec.clock.seal_age < Times.TEN_BLOCKS.value
    script = Script([*place.also, place.fault(kind, Times.TEN_BLOCKS)])
    run = stage.play(script, ROUNDS)
    assert script.unfired() == []
    reasons = [Ledger(run).reasons(stage.roster, round_) for round_ in range(ROUNDS)]
    assert set(reasons[0].values()) == {"key_missing"}
    assert [set(r.values()) for r in reasons[1:]] == [{""}] * (ROUNDS - 1)
    assert len(run.state_roots) == ROUNDS
    for miner in stage.roster.miners:
        assert [event.round for event in run.events(miner.name, SealRefused)] == [0]


def check_reasons(run: SimulatedRun, roster: Roster, misses: Mapping[int, str | None]) -> None:
    """Everybody is accepted in every round but miner-0, which has its reason in one and is back soon."""
    ledger, rounds = Ledger(run), len(run.state_roots)
    first = min(misses, default=rounds)
    for round_ in range(rounds):
        reasons = ledger.reasons(roster, round_)
        mine = reasons.pop(MINER, ABSENT)
        assert reasons == {"miner-1": ""}, f"round {round_}: somebody else paid"
        if round_ == first:
            assert mine == misses[round_], f"round {round_}"
        elif first < round_ < rounds - 1:
            assert mine in ("", ABSENT), f"round {round_}: it may only be behind"
        else:
            assert mine == "", f"round {round_}"


def check_scores(run: SimulatedRun, cell: Cell, spec: RunSpec) -> None:
    """Scores steer the next round, unless they came later than it waits; none is published twice."""
    steered = [scores.round for scores in Ledger(run).record(1).scores]
    late = cell.place.bound in (Bound.SCORE, Bound.EVALUATE, Bound.STEER) and cell.costs(spec)
    assert steered == ([] if late else [0] * len(spec.genesis.leaders))
    for i in range(len(spec.genesis.leaders)):
        scored = [event.round for event in run.events(f"validator-{i}", Scored)]
        assert scored == sorted(set(scored))
        assert scored == list(range(cell.rounds)) or late


def check_unnoticed(run: SimulatedRun, faultless: SimulatedRun) -> None:
    """What fails at a bystander holds up nothing but what waits for its vote, and in the end it has mirrored every
    round.

    Of two aggregators both have to vote. So a record is final for others once the bystander has voted, or at the next
    block, and a round is sealed once the record `finality` rounds before it is final. All else that happens to others
    happens when it does where nothing fails, in the same order.
    """
    voted = times(run, FOLLOWER, Phase.APPLIED)  # it has by the time that APPLY is done
    for name in set(run.participants) - {FOLLOWER}:
        final, without = times(run, name, Phase.FINAL), times(faultless, name, Phase.FINAL)
        assert list(final) == list(without), f"{name}: the same records are final"
        for round_, time in final.items():
            soonest, latest = (max(without[round_], voted[round_] + late) for late in (0.0, BLOCK))
            assert soonest <= time <= latest, f"{name}: the record of round {round_} is final at {time}"
        held = {round_ + run.spec.clock.finality: time for round_, time in final.items()}
        assert told(run, name) == told(faultless, name, held if name == LEADER else {}), name
    for kind in ("records/0", "seals/0", "bundles/0"):
        there, mirrored = (objects(run, f"mem:operator-{i}", f"{run.spec.run_id().hex()}/{kind}") for i in range(2))
        kept = {key: data for key, data in there.items() if "-" in key}  # but for what a leader keeps for itself
        assert len(kept) >= len(run.state_roots)
        assert mirrored == kept


def times(run: SimulatedRun, name: str, phase: Phase) -> dict[int, float]:
    """When each round was in a phase, for somebody."""
    noted = ((noted.time, noted.event) for noted in run.journals[name])
    return {event.round: time for time, event in noted if isinstance(event, Transition) and event.phase is phase}


def told(
    run: SimulatedRun, name: str, held: Mapping[int, float] = MappingProxyType({})
) -> list[tuple[float, str, int]]:
    """When what happened to somebody, what is final aside; the seals of rounds that are `held` no sooner than that."""
    moments = []
    for noted in run.journals[name]:
        event = noted.event
        assert isinstance(event, RoundEvent)
        if not (isinstance(event, Transition) and event.phase in (Phase.FINAL, Phase.CLOSED)):
            earliest = held.get(event.round, 0.0) if tells_of_seal(event) else 0.0
            moments.append((max(noted.time, earliest), event.name, event.round))
    return sorted(moments, key=itemgetter(0))


def tells_of_seal(event: RoundEvent) -> bool:
    """Whether a leader has noted that it is to seal, seals, or has sealed."""
    if isinstance(event, Transition):
        publishes = Instruction.PUBLISH_SEAL in (*event.given, event.instruction)
        return publishes or event.what == SealSeen.__name__
    return isinstance(event, Sealed)


def objects(run: SimulatedRun, location: str, prefix: str) -> dict[str, bytes]:
    """Objects as they lie in a bucket."""

    async def read() -> dict[str, bytes]:
        bucket = run.buckets.bucket(location)
        return {i.key: await bucket.get(i.key, max_bytes=MAX_BYTES) for i in await bucket.list(prefix)}

    return asyncio.run(read())
