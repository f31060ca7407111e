"""The round machine, transition by transition, and the laws no order of events may break."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from builders import block, opening, run_spec
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.ledger.machine import RoundMachine, check_invariants
from muster.protocol.ledger.round import (
    ENDED,
    Done,
    Duty,
    Event,
    Failed,
    Instruction,
    KeySettled,
    Looked,
    Opened,
    Overtaken,
    Phase,
    RecordFinal,
    RecordSeen,
    RoundState,
    ScoresIn,
    SealSeen,
    SubmissionSeen,
    Tick,
    TurnCame,
    Unsure,
    step,
    wanted,
)

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
OPEN, MIN_BLOCK, DEADLINE = 100, 102, 110
REVEAL, SCORE_WAIT = 3, 2
SEALED_AT = 105
RECORD_SEEN = RecordSeen(b"r" * 32)
CLOCK = run_spec(clock={"reveal": REVEAL, "grace": REVEAL}).clock

TRAIN, SEAL, KEY, RECORD, APPLY, UNDO, FINAL = (
    Instruction.TRAIN,
    Instruction.PUBLISH_SEAL,
    Instruction.PUBLISH_KEY,
    Instruction.PUBLISH_RECORD,
    Instruction.APPLY,
    Instruction.UNDO,
    Instruction.FINAL,
)


def begin(duty: Duty, expected: tuple[bytes, ...] = (A, B), me: bytes = A) -> RoundState:
    """A round as it is opened."""
    opened = opening(open=block(OPEN), min_block=MIN_BLOCK, deadline=DEADLINE, expected=expected)
    return RoundState(duty, me, opened, CLOCK, SCORE_WAIT)


def play(state: RoundState, *events: Event) -> tuple[RoundState, list[Instruction]]:
    """The state after the events and everything it said on the way."""
    said: list[Instruction] = []
    for event in events:
        state, instructions = step(state, event)
        said += instructions
    return state, said


def submitting(duty: Duty, *events: Event) -> RoundState:
    """A round in its first phase, in which the leader has looked once."""
    return play(begin(duty), Tick(OPEN), Looked(), *events)[0]


def revealing(duty: Duty, *events: Event) -> RoundState:
    """A round whose seal holds A and C, was seen in its own block, and after which the leader has looked twice."""
    return play(begin(duty), Tick(OPEN), Looked(), SealSeen(frozenset({A, C}), SEALED_AT), Looked(), Looked(), *events)[
        0
    ]


def applying(duty: Duty) -> RoundState:
    """A round whose record is known."""
    return play(begin(duty), RECORD_SEEN)[0]


def applied(duty: Duty) -> RoundState:
    """A round whose record may still be taken back."""
    return play(begin(duty), RECORD_SEEN, Done(APPLY))[0]


def undoing(duty: Duty) -> RoundState:
    """A round whose record is to be taken back."""
    return play(applied(duty), Overtaken())[0]


def undone(duty: Duty) -> RoundState:
    """A round that is to be played again, by another machine."""
    return play(undoing(duty), Done(UNDO))[0]


def final(duty: Duty) -> RoundState:
    """A round whose record can never be taken back."""
    return play(applied(duty), RecordFinal())[0]


def closed(duty: Duty) -> RoundState:
    """A round that is over for good."""
    return play(final(duty), Done(FINAL))[0]


IN_SEAL, NOT_IN_SEAL = SealSeen(frozenset({A, C}), SEALED_AT), SealSeen(frozenset({B}), SEALED_AT)
EVENTS: tuple[Event, ...] = (
    Opened(), Tick(OPEN + 1), SubmissionSeen(A), Looked(), IN_SEAL, KeySettled(A), ScoresIn(), RECORD_SEEN,
    RecordFinal(), Overtaken(), Done(APPLY), Failed(APPLY, "no disk"),
)  # fmt: skip
SUBMIT, REVEALED, APPLYING, APPLIED = Phase.SUBMIT, Phase.REVEAL, Phase.APPLY, Phase.APPLIED
STATES = {
    SUBMIT: submitting, REVEALED: revealing, APPLYING: applying, APPLIED: applied, Phase.UNDO: undoing,
    Phase.UNDONE: undone, Phase.FINAL: final, Phase.CLOSED: closed,
}  # fmt: skip

# Followers and validators only ever wait for the record; a miner trains and shows its key, a leader closes.
# Whoever has applied nothing has nothing to take back.
RECORDED = {RecordSeen: (APPLYING, (APPLY,)), Overtaken: (Phase.UNDONE, ())}
WATCHER = {
    SUBMIT: RECORDED | {SealSeen: (REVEALED, ())},
    REVEALED: RECORDED,
    APPLYING: {Done: (APPLIED, ()), Overtaken: (Phase.UNDO, (UNDO,))},
    APPLIED: {RecordFinal: (Phase.FINAL, (FINAL,)), Overtaken: (Phase.UNDO, (UNDO,))},
    Phase.UNDO: {},
    Phase.FINAL: {},
}
MINER = WATCHER | {SUBMIT: RECORDED | {Opened: (SUBMIT, (TRAIN,)), SealSeen: (REVEALED, (KEY,))}}
TABLE = {Duty.FOLLOW: WATCHER, Duty.LEAD: WATCHER, Duty.MINE: MINER}
UNREAL = {(phase, report) for phase in STATES if phase is not APPLYING for report in (Done, Failed)}
"""Nobody reports on an instruction that was not given."""


@pytest.mark.parametrize("duty", Duty)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("phase", Phase)
def test_every_duty_phase_and_event(duty: Duty, event: Event, phase: Phase) -> None:
    """What each event does where nothing else is due; what is not in the table leaves the phase alone."""
    state = STATES[phase](duty)
    assert state.phase is phase
    if (phase, type(event)) in UNREAL:
        return
    after, said = step(state, event)
    if phase in ENDED:
        assert (after, said) == (state, ())
    else:
        assert (after.phase, said) == TABLE[duty][phase].get(type(event), (phase, ()))


@pytest.mark.parametrize(
    ("event", "change"),
    [
        (Tick(103), {"block": 103}),
        (Tick(99), {"block": OPEN}),
        (SubmissionSeen(C), {"submitted": frozenset({C})}),
        (KeySettled(C), {"settled": frozenset({C})}),
        (ScoresIn(), {"scored": True}),
        (
            SealSeen(frozenset({C}), 104),
            {"phase": REVEALED, "sealed": frozenset({C}), "sealed_block": 104, "block": 104},
        ),
        (RECORD_SEEN, {"phase": APPLYING, "record": RECORD_SEEN.digest, "running": frozenset({APPLY})}),
        (Opened(), {"opened": True}),
        (Looked(), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_an_event_leaves_behind(event: Event, change: dict[str, object]) -> None:
    state = submitting(Duty.FOLLOW)
    assert step(state, event)[0] == replace(state, **change)  # type: ignore[arg-type]


def test_a_seal_of_an_older_block_does_not_turn_the_clock_back() -> None:
    state, _ = play(submitting(Duty.FOLLOW), Tick(108), SealSeen(frozenset(), 104))
    assert (state.block, state.sealed_block) == (108, 104)


def test_a_second_seal_changes_nothing() -> None:
    state = revealing(Duty.MINE)
    assert step(state, SealSeen(frozenset({A, B, C}), 106)) == (state, ())


def test_a_miner_that_is_not_in_the_seal_keeps_its_key() -> None:
    assert play(submitting(Duty.MINE), NOT_IN_SEAL)[1] == []


@pytest.mark.parametrize("duty", [Duty.FOLLOW, Duty.LEAD])
def test_only_a_miner_shows_a_key(duty: Duty) -> None:
    assert KEY not in play(submitting(duty), IN_SEAL)[1]


def test_a_late_joiner_that_first_sees_the_seal_does_not_train() -> None:
    assert play(begin(Duty.MINE, me=B), Tick(106), IN_SEAL, Opened())[1] == []


def test_a_miner_back_from_a_restart_shows_its_sealed_key_and_does_not_train() -> None:
    assert play(begin(Duty.MINE), Tick(106), IN_SEAL, Opened())[1] == [KEY]


@pytest.mark.parametrize(
    ("expected", "events", "sealed"),
    [
        # Genesis lists A_0 as expected; when all of it is in, the round need not wait for its deadline.
        ((A, B), (Tick(MIN_BLOCK), SubmissionSeen(A), SubmissionSeen(B)), True),
        ((A, B), (SubmissionSeen(A), SubmissionSeen(B), Tick(MIN_BLOCK)), True),
        ((A, B), (SubmissionSeen(A), SubmissionSeen(B), SubmissionSeen(C), Tick(MIN_BLOCK)), True),
        # Not before the round is old enough.
        ((A, B), (SubmissionSeen(A), SubmissionSeen(B), Tick(MIN_BLOCK - 1)), False),
        # Not while one is missing, however many others came.
        ((A, B), (SubmissionSeen(A), SubmissionSeen(C), Tick(DEADLINE - 1)), False),
        # A silent expected peer costs the deadline and no more.
        ((A, B), (SubmissionSeen(A), Tick(DEADLINE)), True),
        ((A, B), (SubmissionSeen(A), Tick(DEADLINE + 40)), True),
        ((A, B), (Tick(DEADLINE),), True),
        # With nobody expected everybody has come at once, so only the deadline seals.
        ((), (Tick(DEADLINE - 1),), False),
        ((), (SubmissionSeen(A), SubmissionSeen(B), Tick(DEADLINE - 1)), False),
        ((), (SubmissionSeen(A), Tick(DEADLINE)), True),
    ],
)
def test_when_the_leader_seals(expected: tuple[bytes, ...], events: Sequence[Event], sealed: bool) -> None:
    state, said = play(begin(Duty.LEAD, expected), Tick(OPEN), Looked(), Opened(), *events, Looked())
    assert said == ([SEAL] if sealed else [])
    assert (SEAL in state.running) is sealed
    assert state.phase is SUBMIT


def test_a_leader_never_seals_before_it_has_looked() -> None:
    events = (Tick(OPEN), SubmissionSeen(A), SubmissionSeen(B), Tick(DEADLINE))
    assert play(begin(Duty.LEAD), *events)[1] == []
    assert play(begin(Duty.LEAD), *events, Looked())[1] == [SEAL]


def test_a_leader_closes_nothing_at_a_deadline_at_which_it_has_not_looked() -> None:
    """What came in the last block is in; and a leader whose looks fail has not seen that anybody failed."""
    state, said = play(submitting(Duty.LEAD), Tick(DEADLINE), Tick(DEADLINE + 100))
    assert said == []
    assert play(state, Looked())[1] == [SEAL]
    late = SEALED_AT + REVEAL + SCORE_WAIT
    state, said = play(revealing(Duty.LEAD), Tick(late), Tick(late + 100))
    assert said == []
    assert play(state, Looked())[1] == [RECORD]


@pytest.mark.parametrize("back", [OPEN + 1, DEADLINE, DEADLINE + 500])
def test_a_round_has_its_full_length_from_the_leaders_first_look(back: int) -> None:
    """A run that was paused, or a record that came late: nobody has failed to deliver while nobody could."""
    state, said = play(begin(Duty.LEAD), Tick(back), Looked(), Tick(back + DEADLINE - OPEN - 1), Looked())
    assert said == []
    assert play(state, Tick(back + DEADLINE - OPEN), Looked())[1] == [SEAL]
    assert play(state, SubmissionSeen(A), SubmissionSeen(B))[1] == [SEAL]


LATE_AT = DEADLINE + 30
"""A block at which the turn has passed on."""


def test_who_takes_over_looks_as_a_leader_first_and_then_closes_with_whoever_is_in() -> None:
    """What it looked at while it followed was not what a leader looks at; and the deadline is long over."""
    state, said = play(submitting(Duty.FOLLOW), Tick(LATE_AT), Looked(), TurnCame(1), SubmissionSeen(A))
    assert (state.duty, state.turn, said) == (Duty.LEAD, 1, [])
    assert play(state, Looked())[1] == [SEAL]
    assert play(state, SealSeen(frozenset({A}), SEALED_AT))[0].phase is Phase.REVEAL


def test_who_takes_over_from_a_run_that_was_down_gives_the_round_its_full_length() -> None:
    state, said = play(submitting(Duty.FOLLOW), Tick(LATE_AT), TurnCame(1), Looked(), Tick(LATE_AT + 5), Looked())
    assert said == []
    assert play(state, Tick(LATE_AT + DEADLINE - OPEN), Looked())[1] == [SEAL]


def test_the_turn_comes_to_who_follows_and_only_before_the_seal() -> None:
    for state in (submitting(Duty.LEAD), submitting(Duty.MINE), revealing(Duty.FOLLOW), applied(Duty.FOLLOW)):
        assert play(state, TurnCame(1))[0] == state
    ending = replace(begin(Duty.FOLLOW), closing=True)
    assert play(ending, Tick(LATE_AT), TurnCame(2))[1] == [], "it looks before it ends the run"
    assert play(ending, Tick(LATE_AT), TurnCame(2), Looked())[1] == [SEAL]


def test_no_round_is_sealed_while_too_many_before_it_are_not_final() -> None:
    held = submitting(Duty.LEAD, Unsure(CLOCK.finality))
    state, said = play(held, SubmissionSeen(A), SubmissionSeen(B), Tick(DEADLINE), Looked())
    assert said == []
    assert play(state, Unsure(CLOCK.finality - 1))[1] == [SEAL]
    ending = replace(begin(Duty.LEAD), closing=True, unsure=CLOCK.finality)
    assert play(ending, Tick(OPEN))[1] == []


def test_a_round_that_would_be_null_is_not_sealed_early() -> None:
    """After a null record the few that were valid are expected; if they were enough to seal, it would be null again."""
    state = replace(begin(Duty.LEAD, (A,)), clock=CLOCK.model_copy(update={"min_submissions": 2}))
    state, said = play(state, Tick(OPEN), Looked(), Tick(MIN_BLOCK), SubmissionSeen(A), Looked())
    assert said == []
    assert play(state, SubmissionSeen(C))[1] == [SEAL]
    assert play(state, Tick(DEADLINE), Looked())[1] == [SEAL]


def test_the_time_for_keys_counts_from_the_first_look_after_the_seal() -> None:
    """A seal that took long to publish was no seal that a miner could have answered."""
    late = SEALED_AT + REVEAL + SCORE_WAIT
    state, said = play(submitting(Duty.LEAD), IN_SEAL, Tick(late), Looked(), ScoresIn(), Tick(late + 1), Looked())
    assert said == []
    assert play(state, Tick(late + REVEAL), Looked())[1] == [RECORD]


def test_a_closing_leader_waits_for_nobody() -> None:
    state = replace(begin(Duty.LEAD), closing=True)
    assert step(state, Tick(OPEN))[1] == (SEAL,)


@pytest.mark.parametrize("duty", [Duty.MINE, Duty.FOLLOW])
def test_nobody_else_seals_or_records(duty: Duty) -> None:
    events = (SubmissionSeen(A), SubmissionSeen(B), Tick(DEADLINE), IN_SEAL, KeySettled(A), KeySettled(C))
    _, said = play(submitting(duty), *events, ScoresIn(), Tick(200), Looked())
    assert not {SEAL, RECORD} & set(said)


ALL_IN = (KeySettled(A), KeySettled(C), ScoresIn())


@pytest.mark.parametrize(
    ("events", "recorded"),
    [
        ((*ALL_IN, Tick(SEALED_AT + 1)), True),
        ((Tick(SEALED_AT + 1), *ALL_IN), True),
        # The evaluation beacon must be of a later block than the seal.
        (ALL_IN, False),
        ((*ALL_IN, Tick(SEALED_AT)), False),
        # A key that is not shown costs the reveal time.
        ((KeySettled(A), ScoresIn(), Tick(SEALED_AT + REVEAL - 1)), False),
        ((KeySettled(A), ScoresIn(), Tick(SEALED_AT + REVEAL)), True),
        # A key of somebody the seal does not list is not one of those waited for.
        ((KeySettled(A), KeySettled(B), ScoresIn(), Tick(SEALED_AT + 1)), False),
        # Scores are waited for after the reveal, and not for ever.
        ((KeySettled(A), KeySettled(C), Tick(SEALED_AT + REVEAL)), False),
        ((KeySettled(A), KeySettled(C), Tick(SEALED_AT + REVEAL + SCORE_WAIT - 1)), False),
        ((KeySettled(A), KeySettled(C), Tick(SEALED_AT + REVEAL + SCORE_WAIT)), True),
        ((Tick(SEALED_AT + REVEAL + SCORE_WAIT),), True),
    ],
)
def test_when_the_leader_records(events: Sequence[Event], recorded: bool) -> None:
    state, said = play(revealing(Duty.LEAD), *events, Looked())
    assert said == ([RECORD] if recorded else [])
    assert (RECORD in state.running) is recorded
    assert state.phase is REVEALED


def test_a_stranger_is_looked_at_twice_however_short_the_grace_period() -> None:
    clock = CLOCK.model_copy(update={"grace": 0})
    opened = opening(open=block(OPEN), min_block=MIN_BLOCK, deadline=DEADLINE, expected=(A,))
    state = replace(begin(Duty.LEAD), opening=opened, clock=clock)
    sealed = (Tick(OPEN), Looked(), IN_SEAL, KeySettled(A), ScoresIn(), Tick(SEALED_AT + 1))
    state, said = play(state, *sealed, Looked())
    assert RECORD not in said
    assert play(state, Looked())[1] == [RECORD]


def test_a_stranger_who_owes_his_key_is_waited_for_only_the_grace_period() -> None:
    clock = CLOCK.model_copy(update={"grace": 1})
    for expected, recorded in (((A,), True), ((A, C), False)):
        opened = opening(open=block(OPEN), min_block=MIN_BLOCK, deadline=DEADLINE, expected=expected)
        state = replace(revealing(Duty.LEAD), opening=opened, clock=clock)
        _, said = play(state, KeySettled(A), ScoresIn(), Tick(SEALED_AT + 1), Looked())
        assert said == ([RECORD] if recorded else [])


def test_keys_and_scores_that_came_before_the_seal_count() -> None:
    _, said = play(submitting(Duty.LEAD), *ALL_IN, IN_SEAL, Looked(), Tick(SEALED_AT + 1))
    assert said == [RECORD]


def test_a_leader_back_from_a_restart_gives_the_keys_their_time_again() -> None:
    late = SEALED_AT + REVEAL + SCORE_WAIT
    sealed = (Tick(late), IN_SEAL, Opened(), Looked(), ScoresIn())
    state, said = play(begin(Duty.LEAD), *sealed, Tick(late + REVEAL - 1), Looked())
    assert said == []
    assert play(state, Tick(late + REVEAL), Looked())[1] == [RECORD]
    assert play(state, KeySettled(A), KeySettled(C))[1] == [RECORD]


def test_an_empty_seal_needs_no_keys() -> None:
    state, _ = play(begin(Duty.LEAD, ()), Tick(DEADLINE), SealSeen(frozenset(), DEADLINE), Looked())
    assert play(state, ScoresIn(), Tick(DEADLINE + 1))[1] == [RECORD]


@pytest.mark.parametrize("again", [Tick(DEADLINE), SubmissionSeen(C), ScoresIn(), KeySettled(A)])
def test_a_seal_in_the_making_is_not_asked_for_again(again: Event) -> None:
    state = submitting(Duty.LEAD, Tick(DEADLINE), Looked())
    assert step(state, again)[1] == ()


@pytest.mark.parametrize(
    ("state", "instruction"),
    [
        (submitting(Duty.LEAD, Tick(DEADLINE), Looked()), SEAL),
        (revealing(Duty.LEAD, *ALL_IN, Tick(SEALED_AT + 1)), RECORD),
        (submitting(Duty.MINE, IN_SEAL), KEY),
        (submitting(Duty.MINE, Opened()), TRAIN),
        (applying(Duty.FOLLOW), APPLY),
    ],
)
def test_what_failed_is_given_again_by_name_at_each_following_block(
    state: RoundState, instruction: Instruction
) -> None:
    """Whatever else happens in the same pass: one failed put and one new event once stalled a run for good."""
    assert instruction in state.running
    for block_ in range(state.block + 1, state.block + 4):
        state, said = play(state, Failed(instruction, "no disk"), SubmissionSeen(C), Tick(block_ - 1), Looked())
        assert said == []
        state, said = play(state, Tick(block_))
        assert said == [instruction]
    state, said = play(state, Done(instruction), Tick(state.block + 1))
    assert instruction not in said


def test_what_failed_is_not_given_again_once_it_is_pointless() -> None:
    failed = Failed(TRAIN, "no disk")
    assert play(submitting(Duty.MINE, Opened(), failed), NOT_IN_SEAL, Tick(SEALED_AT + 1))[1] == []
    assert play(submitting(Duty.MINE, Opened(), failed), RECORD_SEEN, Tick(SEALED_AT + 1))[1] == [APPLY]
    late = submitting(Duty.LEAD, Tick(DEADLINE), Looked(), Failed(SEAL, "no disk"))
    assert SEAL not in play(late, SealSeen(frozenset(), DEADLINE), Tick(DEADLINE + 1))[1]


@pytest.mark.parametrize("duty", Duty)
def test_a_record_ends_the_round_from_any_phase_by_being_applied(duty: Duty) -> None:
    for state in (begin(duty), submitting(duty), revealing(duty)):
        after, said = step(state, RECORD_SEEN)
        assert (after.phase, said) == (APPLYING, (APPLY,))
        assert step(after, Done(APPLY))[0].phase is APPLIED


def test_what_could_not_be_taken_back_is_tried_again() -> None:
    """As everything is; and what made room for it is not applied meanwhile."""
    state, said = play(undoing(Duty.FOLLOW), Failed(UNDO, "no disk"), RECORD_SEEN, RecordFinal(), Tick(200))
    assert (state.phase, said) == (Phase.UNDO, [UNDO])
    assert play(state, Done(UNDO))[0].phase is Phase.UNDONE


def test_a_record_that_is_being_applied_is_taken_back_and_not_applied_again() -> None:
    """θ may have moved although the instruction failed; taking back what has not moved does nothing."""
    state, said = play(applying(Duty.FOLLOW), Failed(APPLY, "no disk"), Overtaken(), Tick(200))
    assert (state.phase, said) == (Phase.UNDO, [UNDO])


def test_what_is_final_is_never_taken_back() -> None:
    for state in (final(Duty.FOLLOW), play(final(Duty.FOLLOW), Failed(FINAL, "no disk"))[0], closed(Duty.FOLLOW)):
        after, said = play(state, Overtaken(), Tick(200))
        assert after.phase is state.phase
        assert UNDO not in said


def test_the_log_tells_what_was_given_what_failed_and_what_changed_the_phase() -> None:
    told: list[object] = []
    machine = RoundMachine(begin(Duty.MINE), told.append)
    for event in (Tick(OPEN), Opened(), Tick(OPEN + 1), Failed(TRAIN, "no disk"), Tick(OPEN + 2), Done(TRAIN), IN_SEAL):
        machine.feed(event)
    assert told == machine.log
    assert [(type(t.event), t.given) for t in machine.log] == [
        (Opened, (TRAIN,)),
        (Failed, ()),
        (Tick, (TRAIN,)),
        (Done, ()),
        (SealSeen, (KEY,)),
    ]


peers = st.sampled_from([A, B, C])
events_in_any_order = st.lists(
    st.one_of(
        st.just(Opened()),
        st.integers(OPEN - 2, DEADLINE + 10).map(Tick),
        peers.map(SubmissionSeen),
        st.builds(SealSeen, st.frozensets(peers), st.integers(OPEN, DEADLINE + 2)),
        peers.map(KeySettled),
        st.just(ScoresIn()),
        st.just(Looked()),
        st.just(RECORD_SEEN),
        st.just(RecordFinal()),
        st.just(Overtaken()),
        st.sampled_from(["done", "failed"]),
    ),
    max_size=30,
)
expected_sets = st.sets(peers).map(lambda some: tuple(sorted(some)))


def resolved(state: RoundState, event: Event | str) -> list[Event]:
    """A report stands for one on every instruction that is being carried out."""
    if isinstance(event, str):
        return [Done(i) if event == "done" else Failed(i, "no disk") for i in Instruction if i in state.running]
    return [event]


@given(st.sampled_from(Duty), expected_sets, events_in_any_order)
def test_no_order_of_events_breaks_the_laws(duty: Duty, expected: tuple[bytes, ...], events: list[Event | str]) -> None:
    state = begin(duty, expected)
    for event in (one for listed in events for one in resolved(state, listed)):
        before = state
        state, given_ = step(state, event)
        check_invariants(before, state)
        assert set(given_) <= wanted(state), "nothing pointless is given"
        assert not set(given_) & (before.running | before.done), "nothing is given twice at a time, or again once done"
        assert state.sealed in (before.sealed, None) or before.phase is SUBMIT, "the first seal stands"
        if before.phase in ENDED:
            assert (state, given_) == (before, ()), "a round that has ended absorbs everything"
        if before.phase is Phase.FINAL:
            assert UNDO not in given_, "what is final is never taken back"
        if SEAL in given_:
            assert duty is Duty.LEAD and state.phase is SUBMIT and state.looked
        if RECORD in given_:
            assert duty is Duty.LEAD and state.phase is REVEALED and state.looks
            assert state.block > state.sealed_block, "a record only after its seal's block"
        if TRAIN in given_:
            assert duty is Duty.MINE and state.phase is SUBMIT
        if KEY in given_:
            assert duty is Duty.MINE and state.sealed and state.me in state.sealed
        assert (APPLY in given_) <= (state.phase is APPLYING)
        assert (FINAL in given_) <= (state.phase is Phase.FINAL) and (UNDO in given_) <= (state.phase is Phase.UNDO)


@given(expected_sets, events_in_any_order)
def test_a_leader_that_is_told_the_time_always_finishes(expected: tuple[bytes, ...], events: list[Event | str]) -> None:
    """Whatever did or did not come before: blocks and looks alone bring the seal, and after it the record."""
    state = begin(Duty.LEAD, expected)
    for listed in events:
        for event in resolved(state, listed):
            if not isinstance(event, RecordSeen | Overtaken):
                state, _ = step(state, event)
    state, _ = play(state, Looked())
    state, _ = play(state, *resolved(state, "failed"))
    if state.phase is SUBMIT and SEAL not in state.done:
        state, said = play(state, Tick(DEADLINE + 80), Looked(), Tick(DEADLINE + 100), Looked())
        assert said == [SEAL]
    state, _ = play(state, SealSeen(frozenset({A}), DEADLINE + 100), *resolved(state, "done"), Looked(), Looked())
    assert RECORD in state.done or RECORD in play(state, Tick(DEADLINE + 300), Looked())[1]
