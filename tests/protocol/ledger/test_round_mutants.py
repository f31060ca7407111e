"""The tests of the round machine bite: without any one instruction, or with any rule broken, a run ends wrong.

Each mutant is played in a scenario that ends right with the machine as it is; what goes wrong is named beforehand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from builders import block, opening, run_spec
from nano_stage import BLOCK, NanoStage, Setting

from muster.lab.adversary.leaders import Equivocator
from muster.lab.clock import Stuck
from muster.lab.faults import Fault, Script
from muster.lab.simulator import SimulatedRun
from muster.node.ledger.reader import Fetched
from muster.node.telemetry import events
from muster.protocol import paths, wire
from muster.protocol.errors import LedgerError, StorageError
from muster.protocol.ledger import Applied
from muster.protocol.ledger import round as machine
from muster.protocol.ledger.machine import check_invariants
from muster.protocol.ledger.round import (
    Duty,
    Event,
    Failed,
    Instruction,
    Phase,
    RecordSeen,
    RoundState,
    SealSeen,
    Tick,
)
from muster.protocol.spec.layout import layout_of
from muster.validator.aggregator.aggregator import Aggregator

ROUNDS = 2
MIN_BLOCKS, DEADLINE, REVEAL, GRACE, SCORE_WAIT = 3, 8, 8, 3, 4
CLOCK = {"min_blocks": MIN_BLOCKS, "deadline": DEADLINE, "reveal": REVEAL, "grace": GRACE}
CLOCK |= {"seal_age": 1, "evaluate": 2}
EXPECTED = Setting("expected", CLOCK, SCORE_WAIT)
AGED = Setting("aged", CLOCK | {"seal_age": REVEAL + 6, "evaluate": REVEAL + 7}, SCORE_WAIT)
"""Seals may be older than keys are waited for."""
STRANGER = Setting("stranger", CLOCK, SCORE_WAIT, strangers=("miner-0",))

Wrong = str
"""How a run ended: `right`, or what is wrong with it, in a word or two."""

RIGHT = "right"
NEVER_ENDS = "never ends"
NOBODY = "nobody is accepted"
MISSING = "somebody is missing"
TOO_LONG = "takes too long"
UNSTEERED = "no scores steer it"
UNLAWFUL = "the record breaks the rules"
BROKEN = "an invariant is broken"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run with faults that a right machine makes the best of, `within` so many blocks.

    Everybody is accepted in every round, unless somebody has to be `missing`; scores steer round 1 if they can.
    """

    name: str
    faults: tuple[Fault, ...] = ()
    setting: Setting = EXPECTED
    within: int = 40
    missing: bool = False
    steered: bool = True

    def __str__(self) -> str:
        return self.name.replace(" ", "_")


def _of(round_: int, ending: str) -> str:
    return f"*/{round_:08d}.{ending}"


LEADER, VALIDATOR, MINER = "aggregator-0", "validator-0", "miner-0"
HONEST = Scenario("nothing fails", within=12)
SEAL_FAILS_ONCE = Scenario(
    "the seal is refused once", (Fault("error", "store.put_if_absent", _of(0, "*.heads"), who=LEADER, count=1),)
)
SEAL_FAILS_LONG = Scenario(
    "the seal is refused for longer than keys are waited for",
    (
        Fault("error", "store.put", "*/seals/00000000-*", who=LEADER, blocks=REVEAL + 4),
        Fault("slow", "store.put", _of(0, "key"), seconds=1.5 * BLOCK),
    ),
    setting=AGED,
    within=60,
)
LEADER_BLIND = Scenario(
    "the leader cannot look until after the deadline",
    (Fault("error", "chain.snapshot", who=LEADER, from_block=1, until_block=DEADLINE + 2),),
)
LEADER_LATE = Scenario(
    "the record before is anchored after the deadline",
    (Fault("slow", "chain.commit", "anchor/0", who=LEADER, seconds=BLOCK * (DEADLINE + 2), count=1),),
)
LAST_BLOCK = Scenario(
    "a submission comes in the last block", (Fault("error", "store.put", _of(0, "head"), who=MINER, blocks=DEADLINE),)
)
KEY_COMES_LATER = Scenario(
    "a key comes some blocks later", (Fault("error", "store.put", _of(0, "key"), who=MINER, blocks=4),)
)
LEADER_BLIND_AT_KEYS = Scenario(
    "the leader cannot look while keys come",
    (
        Fault("error", "chain.snapshot", who=LEADER, from_block=MIN_BLOCKS + 2, blocks=REVEAL + 4),
        Fault("slow", "store.put", _of(0, "key"), seconds=1.5 * BLOCK),
    ),
)
SCORES_COME_LATER = Scenario(
    "scores come some blocks later",
    (Fault("error", "store.put_if_absent", "*/scores/00000000-*", who=VALIDATOR, blocks=MIN_BLOCKS + 3),),
)
NO_SCORES = Scenario(
    "scores never come",
    (Fault("error", "store.put_if_absent", "*.sco", who=VALIDATOR),),
    within=70,
    steered=False,
)
KEY_NEVER_COMES = Scenario(
    "a key never comes", (Fault("error", "store.put", _of(0, "key"), who=MINER),), within=12 + REVEAL, missing=True
)
STRANGER_HIDES_KEY = Scenario(
    "a stranger keeps its key",
    (Fault("error", "store.put", _of(0, "key"), who=MINER),),
    setting=STRANGER,
    within=12 + GRACE - 1,
    missing=True,
)
MINER_GONE = Scenario(
    "a peer never submits", (Fault("error", "store.put", "*.head", who=MINER),), within=30, missing=True
)
SIBLINGS = Scenario(
    "a record turns up that goes before its sibling",
    (Fault("missing", "store.get", "*/records/00000001-*", who=MINER, count=2),),
    setting=replace(EXPECTED, leader=Equivocator, final_after=20),
    within=60,
    missing=True,
)
SCENARIOS = (
    HONEST, SEAL_FAILS_ONCE, SEAL_FAILS_LONG, LEADER_BLIND, LEADER_LATE, LAST_BLOCK, KEY_COMES_LATER,
    LEADER_BLIND_AT_KEYS, SCORES_COME_LATER, NO_SCORES, KEY_NEVER_COMES, STRANGER_HIDES_KEY, MINER_GONE, SIBLINGS,
)  # fmt: skip

Play = Callable[[Scenario], Wrong]


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Play:
    """Plays a scenario and says how it ended."""
    stages = {
        setting: NanoStage.lay(setting, tmp_path_factory.mktemp("stage"))
        for setting in {scenario.setting for scenario in SCENARIOS}
    }

    def playing(scenario: Scenario) -> Wrong:
        stage, script = stages[scenario.setting], Script(scenario.faults)
        try:
            run = stage.play(script, ROUNDS)
        except Stuck:
            return NEVER_ENDS
        except ExceptionGroup as group:
            if group.subgroup(AssertionError):
                return BROKEN
            if group.subgroup(LedgerError):
                return UNLAWFUL
            raise
        ended = outcome(run, scenario)
        assert ended != RIGHT or script.unfired() == [], "what did not happen shows nothing"
        return ended

    return playing


def outcome(run: SimulatedRun, scenario: Scenario) -> Wrong:
    """What is wrong with a run that ended."""
    assert len(run.state_roots) == ROUNDS
    accepted = [len(event.accepted) for event in run.events(LEADER, events.Applied)[:ROUNDS]]
    if not any(accepted):
        return NOBODY
    if accepted != [2] * ROUNDS and not scenario.missing:
        return MISSING
    if run.chain.height > scenario.within:
        return TOO_LONG
    return RIGHT if scores_used(run) == ([0] if scenario.steered else []) else UNSTEERED


def scores_used(run: SimulatedRun) -> list[int]:
    """The rounds of the scores that steered round 1."""
    run_id, bucket = run.spec.run_id(), run.buckets.bucket("mem:operator-0")
    stands = run.events(LEADER, events.Recorded)[1].record
    data = asyncio.run(bucket.get(paths.record(run_id, 1, bytes.fromhex(stands)), max_bytes=2**20))
    return [
        scores.round for scores in wire.decode_record(data, run_id, len(layout_of(run.spec.model).shapes))[0].scores
    ]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_the_machine_as_it_is_ends_right(scenario: Scenario, play: Play) -> None:
    assert play(scenario) == RIGHT


WITHOUT = {
    Instruction.TRAIN: NOBODY,
    Instruction.PUBLISH_SEAL: NEVER_ENDS,
    Instruction.PUBLISH_KEY: NOBODY,
    Instruction.PUBLISH_RECORD: NEVER_ENDS,
    Instruction.APPLY: NEVER_ENDS,
    Instruction.UNDO: NEVER_ENDS,
    Instruction.FINAL: NEVER_ENDS,
}


@pytest.mark.parametrize("instruction", Instruction)
def test_a_run_needs_every_instruction(instruction: Instruction, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is never given is carried out by nobody: there is no other way to what it does."""
    wanted = machine.wanted
    monkeypatch.setattr(machine, "wanted", lambda state: wanted(state) - {instruction})
    assert play(SIBLINGS if instruction is Instruction.UNDO else HONEST) == WITHOUT[instruction]


Mutation = Callable[[RoundState], RoundState]
"""What a mutant takes a state for when it decides."""


def sees(rule: str, mutation: Mutation) -> Callable[[pytest.MonkeyPatch], None]:
    """A machine one of whose rules takes the state for another."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        decide: Callable[[RoundState], bool] = getattr(machine, rule)
        patch.setattr(machine, rule, lambda state: decide(mutation(state)))

    return mutate


def takes(spoil: Callable[[RoundState, Event, RoundState], RoundState]) -> Callable[[pytest.MonkeyPatch], None]:
    """A machine that makes something else of an event; `spoil` gets the state before, the event, the right state."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        take = machine._take
        patch.setattr(machine, "_take", lambda state, event: spoil(state, event, take(state, event)))

    return mutate


def with_clock(**fields: int) -> Mutation:
    return lambda state: replace(state, clock=state.clock.model_copy(update=fields))


def with_opening(**fields: object) -> Mutation:
    return lambda state: replace(state, opening=replace(state.opening, **fields))  # type: ignore[arg-type]


def never_again(before: RoundState, event: Event, right: RoundState) -> RoundState:
    return replace(right, failed=right.failed | before.failed) if isinstance(event, Tick) else right


def no_extension(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RoundState, "deadline", property(lambda state: state.opening.deadline))


FOR_EVER = 10**6
MUTANTS = {
    "what failed is never given again": (takes(never_again), SEAL_FAILS_ONCE, NEVER_ENDS),
    "it seals before it has looked": (
        sees("ready_to_seal", lambda s: replace(s, looked=s.block)), LEADER_BLIND, MISSING,
    ),
    "it seals at the deadline without a look": (
        sees("ready_to_seal", lambda s: replace(s, looked=None if s.looked is None else s.block)), LAST_BLOCK, MISSING,
    ),
    "the deadline is never put off": (no_extension, LEADER_LATE, MISSING),
    "the deadline never comes": (sees("ready_to_seal", with_opening(deadline=FOR_EVER)), MINER_GONE, NEVER_ENDS),
    "it seals when one is in": (
        sees("ready_to_seal", lambda s: with_opening(expected=tuple(s.submitted))(s)), MINER_GONE, UNLAWFUL,
    ),
    "it does not wait for the min block": (sees("ready_to_seal", with_opening(min_block=0)), HONEST, UNLAWFUL),
    "it records before it has looked": (
        sees("ready_to_record", lambda s: replace(s, looked=s.block, revealing_since=s.sealed_block)),
        LEADER_BLIND_AT_KEYS, MISSING,
    ),
    "the time for keys counts from the seal's block": (
        sees("ready_to_record", lambda s: replace(s, revealing_since=s.sealed_block)), SEAL_FAILS_LONG, MISSING,
    ),
    "it waits for no key": (
        sees("ready_to_record", lambda s: replace(s, settled=s.sealed or frozenset())), KEY_COMES_LATER, MISSING,
    ),
    "it waits for everybody as for strangers": (
        sees("ready_to_record", with_opening(expected=())), KEY_COMES_LATER, MISSING,
    ),
    "it waits for strangers as for everybody": (
        sees("ready_to_record", with_clock(grace=REVEAL)), STRANGER_HIDES_KEY, TOO_LONG,
    ),
    "it waits for keys for ever": (sees("ready_to_record", with_clock(reveal=FOR_EVER)), KEY_NEVER_COMES, NEVER_ENDS),
    "it waits for no scores": (
        sees("ready_to_record", lambda s: replace(s, scored=True)), SCORES_COME_LATER, UNSTEERED,
    ),
    "it waits for scores for ever": (
        sees("ready_to_record", lambda s: replace(s, score_wait=FOR_EVER)), NO_SCORES, NEVER_ENDS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda name: name.replace(" ", "_"))
def test_a_broken_rule_ends_wrong(mutant: str, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate, scenario, wrong = MUTANTS[mutant]
    mutate(monkeypatch)
    assert play(scenario) == wrong


def closes_unapplied(before: RoundState, event: Event, right: RoundState) -> RoundState:
    lost = isinstance(event, Failed) and event.instruction is Instruction.APPLY
    return replace(right, phase=Phase.CLOSED) if lost else right


def goes_back(before: RoundState, event: Event, right: RoundState) -> RoundState:
    return replace(right, phase=Phase.SUBMIT) if isinstance(event, Failed) else right


def applies_nothing(before: RoundState, event: Event, right: RoundState) -> RoundState:
    return replace(right, record=None) if isinstance(event, RecordSeen) else right


def forgets(before: RoundState, event: Event, right: RoundState) -> RoundState:
    return replace(right, done=frozenset()) if isinstance(event, SealSeen) else right


@pytest.mark.parametrize(
    ("spoil", "scenario"),
    [
        (closes_unapplied, HONEST),
        (goes_back, KEY_COMES_LATER),
        (applies_nothing, HONEST),
        (forgets, HONEST),
    ],
)
def test_every_simulated_run_checks_the_invariants(
    spoil: Callable[[RoundState, Event, RoundState], RoundState],
    scenario: Scenario,
    play: Play,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    takes(spoil)(monkeypatch)
    refuse_once(monkeypatch)
    assert play(scenario) == BROKEN


def refuse_once(patch: pytest.MonkeyPatch) -> None:
    """The first record that the leader applies cannot be applied at first."""
    apply, refused = Aggregator.apply, False

    async def applying(self: Aggregator, applied: Applied, fetched: Fetched | None) -> None:
        nonlocal refused
        if not refused:
            refused = True
            raise StorageError("the disk is full")
        await apply(self, applied, fetched)

    patch.setattr(Aggregator, "apply", applying)


def test_a_record_that_cannot_be_applied_at_first_is_applied_later(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_once(monkeypatch)
    assert play(HONEST) == RIGHT


A = b"a" * 32
BEGUN = RoundState(
    Duty.MINE, A, opening(open=block(1), min_block=2, deadline=9, expected=(A,)), run_spec().clock, 2, block=5
)
REVEALED = replace(BEGUN, phase=Phase.REVEAL, sealed=frozenset({A}))
APPLYING = replace(REVEALED, phase=Phase.APPLY, record=b"r" * 32)
DONE = frozenset({Instruction.APPLY})
APPLIED = replace(APPLYING, phase=Phase.APPLIED, done=DONE)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        (REVEALED, BEGUN, "never goes back"),
        (BEGUN, replace(BEGUN, block=4), "time never goes back"),
        (BEGUN, replace(BEGUN, phase=Phase.REVEAL), "before the seal"),
        (REVEALED, replace(REVEALED, record=b"r" * 32), "only it, applies"),
        (REVEALED, replace(APPLYING, record=None), "only it, applies"),
        (replace(BEGUN, done=DONE), BEGUN, "stays done"),
        (BEGUN, replace(BEGUN, running=DONE, failed=DONE), "runs, failed, or is done"),
        (BEGUN, replace(BEGUN, running=frozenset({Instruction.PUBLISH_RECORD})), "without a seal"),
        (APPLYING, replace(APPLYING, phase=Phase.CLOSED), "closes by applying"),
        (APPLIED, replace(APPLIED, phase=Phase.CLOSED), "only what is final closes"),
        (APPLYING, replace(APPLIED, phase=Phase.FINAL), "only what stands is final"),
        (replace(APPLIED, phase=Phase.UNDO), replace(APPLIED, phase=Phase.FINAL), "only what stands is final"),
        (replace(APPLIED, phase=Phase.FINAL), replace(APPLIED, phase=Phase.UNDO), "never goes back"),
    ],
)
def test_each_invariant_is_one(before: RoundState, after: RoundState, problem: str) -> None:
    check_invariants(before, before)
    with pytest.raises(AssertionError, match=problem):
        check_invariants(before, after)
